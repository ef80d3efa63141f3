"""A whole gateway in this process, on a real port, before a backend double and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
import yaml

from gateway import settings as configuration
from gateway.app import Door
from gateway.auth import KeyHasher
from gateway.serve import listen, uvicorn_config
from tests.doubles.openai_backend import Backend

SECRET = "0123456789abcdef0123456789abcdef"
KEY = "cg-test-key"
MODELS = [
    "echo",
    "echo-1",
    "say",
    "tool",
    "fail-500",
    "fail-429",
    "fail-401",
    "fail-404",
    "context",
    "greedy",
    "hang",
    "reset",
    "html",
    "garbage",
]
MODELS += ["truncate", "prose-stream", "no-done", "slow"]


@dataclass
class Gateway:
    """A running gateway and a client with a valid key."""

    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any = None, **kw: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, parsed body and response."""
        given = {"json": body} if body is not None else {}
        async with self.session.post(self.url + path, **given, **kw) as response:
            return response.status, await response.json(), response

    async def events(self, body: Any, path: str = "/v1/chat/completions", **kw: Any) -> list[str]:
        """The data of every event of a streamed answer."""
        async with self.session.post(self.url + path, json={**body, "stream": True}, **kw) as response:
            assert response.status == 200, await response.text()
            text = (await response.read()).decode()
        return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


def settings_for(tmp_path: Path, backend: Backend, redis_url: str, **changes: Any) -> configuration.Settings:
    """Settings with one model for each behaviour of the double, without policy."""
    data: dict[str, Any] = {
        "redis": {"url": redis_url},
        "embedding": {"enabled": False},
        "keys": [{"id": "test", "hash": KeyHasher(SECRET.encode()).hash(KEY.encode())}],
        "models": [
            {
                "name": m,
                "policy": None,
                "deadline_s": 2,
                "deployments": [{"name": m, "base_url": backend.base_url, "model": m}],
            }
            for m in MODELS
        ],
        "state_dir": str(tmp_path / "state"),
        **changes,
    }
    path = tmp_path / "callgate.yaml"
    path.write_text(yaml.safe_dump(data))
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "key-secret").write_text(SECRET)
    return configuration.load(path, {})


@asynccontextmanager
async def running(settings: configuration.Settings, file: Path | None = None) -> AsyncIterator[Gateway]:
    """Serves the settings on a free port with the server that production uses."""
    door = Door(settings, file)
    config = uvicorn_config(settings, door)
    config.timeout_graceful_shutdown = 2
    server = uvicorn.Server(config)
    anywhere = settings.model_copy(update={"server": settings.server.model_copy(update={"port": 0})})
    listener = listen(anywhere, Path("callgate.yaml"))
    port = listener.getsockname()[1]
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("the gateway did not start")
        await asyncio.sleep(0)
    try:
        connector = aiohttp.TCPConnector(keepalive_timeout=2)  # the server gives up idle connections after 5 s
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}, connector=connector) as session:
            yield Gateway(f"http://127.0.0.1:{port}", session)
    finally:
        server.should_exit = True
        await task
        listener.close()


StartGateway = Callable[..., Any]


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    async with running(settings_for(tmp_path, openai_backend, redis_url)) as started:
        yield started
