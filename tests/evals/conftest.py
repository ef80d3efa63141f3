"""A double: a scripted OpenAI-compatible server over a real socket, and time and chance that tests hold in their hands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import settings

from evals.journal import Journal
from evals.target import Budget, ChatClient, Patience, open_session
from tests.evals.tiny import Served, write_suite

# A busy machine is no fault of the code.
settings.register_profile("evals", deadline=None)
settings.load_profile("evals")

Script = Callable[[dict[str, Any], int], web.Response]


def completion(text: str | None, finish_reason: str = "stop") -> web.Response:
    return web.json_response(
        {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        }
    )


@dataclass
class Double:
    """Answers with `script(body, number of the request)`; `seen` are the bodies, `most_at_once` the peak."""

    url: str = ""
    script: Script = lambda body, number: completion("hello")
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    calls: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    models_status: int = 200

    async def chat(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.seen.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.calls.append(request.headers.get("x-call-id"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            return self.script(body, len(self.seen))
        finally:
            self.at_once -= 1

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": []}, status=self.models_status)


@dataclass
class Hands:
    """Time that moves only by pauses."""

    time_s: float = 0.0
    pauses: list[float] = field(default_factory=list)
    luck: float = 0.5

    def now_s(self) -> float:
        return self.time_s

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time_s += seconds

    def chance(self) -> float:
        return self.luck


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    server = Double()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/v1/models", server.models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
def hands() -> Hands:
    return Hands()


ClientFactory = Callable[..., ChatClient]


@pytest.fixture
async def make_client(double: Double, hands: Hands, tmp_path: Path) -> AsyncIterator[ClientFactory]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(16))

        def make(
            journal: str = "journal.jsonl",
            *,
            concurrency: int = 4,
            patience: Patience | None = None,
            budget: Budget | None = None,
            key: str | None = None,
            calls: str | None = None,
        ) -> ChatClient:
            opened = Journal.open(tmp_path / journal)
            stack.callback(opened.close)
            return ChatClient(
                double.url,
                session,
                opened,
                hands,
                key=key,
                concurrency=concurrency,
                patience=patience,
                budget=budget,
                calls=calls,
            )

        yield make


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as double:
        yield double


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "tiny")
