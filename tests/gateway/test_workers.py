"""The gateway as a process: two workers behave as one, a killed one is replaced, SIGTERM lets open streams finish."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, settings_for

ROOT = Path(__file__).parents[2]
ASK = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
pytestmark = pytest.mark.timeout(90)


class Served:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"})

    async def ask(self, **kw: Any) -> int:
        async with self.session.post(self.url + "/v1/chat/completions", json=ASK | kw) as response:
            await response.read()
            return response.status

    async def workers(self) -> list[int]:
        listed = await asyncio.create_subprocess_exec("ps", "-o", "pid=", "--ppid", str(self.process.pid), stdout=-1)
        out, _ = await listed.communicate()
        return [int(pid) for pid in out.split() if int(pid) != listed.pid]

    async def ready(self) -> None:
        async with asyncio.timeout(40):
            while True:
                try:
                    async with self.session.get(self.url + "/health/ready") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    assert self.process.returncode is None, "the gateway ended"


async def start(tmp_path: Path, backend: Backend, redis_url: str, **server: Any) -> Served:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings_for(tmp_path, backend, redis_url, server={"port": port, **server})
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "callgate.yaml")]
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=log)
    served = Served(process, port)
    await served.ready()
    return served


@pytest.fixture
async def two(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Served]:
    served = await start(tmp_path, openai_backend, redis_url, workers=2)
    yield served
    if served.process.returncode is None:
        served.process.terminate()
        await served.process.wait()
    await served.session.close()


async def test_two_workers_count_as_one_and_a_killed_one_is_replaced(two: Served) -> None:
    async with asyncio.timeout(40):
        while len(before := await two.workers()) < 2:
            pass
    assert [await two.ask() for _ in range(30)] == [200] * 30
    async with two.session.get(two.url + "/metrics") as response:
        text = await response.text()
    counted = re.search(r'callgate_requests_total\{endpoint="chat",model="echo",status="200"\} (\d+)', text)
    assert counted is not None
    assert int(counted[1]) == 30  # whichever worker answered, and whichever was asked
    os.kill(before[0], signal.SIGKILL)
    async with asyncio.timeout(40):
        while len(after := await two.workers()) < 2 or before[0] in after:
            pass
    await two.ready()
    statuses = []
    for _ in range(10):
        try:
            statuses.append(await two.ask())
        except aiohttp.ClientError:  # a kept connection of the dead worker
            statuses.append(await two.ask())
    assert statuses == [200] * 10
    two.process.terminate()
    assert await two.process.wait() == 0


async def test_sigterm_takes_readiness_down_first_and_lets_an_open_stream_finish(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    served = await start(tmp_path, openai_backend, redis_url, lame_duck_s=0.3, drain_s=20)
    ask = {"model": "slow", "stream": True, "messages": ASK["messages"]}
    async with served.session.post(served.url + "/v1/chat/completions", json=ask) as stream:
        await stream.content.readany()
        served.process.terminate()
        async with asyncio.timeout(5):
            while True:
                async with served.session.get(served.url + "/health/ready") as ready:
                    if ready.status == 503:
                        break
        assert await served.ask() == 200  # a load balancer that has not heard yet is still served
        async with asyncio.timeout(10):
            while True:
                try:
                    async with aiohttp.ClientSession() as fresh, fresh.get(served.url + "/health/live"):
                        pass
                except aiohttp.ClientError:
                    break  # new work is refused
        assert served.process.returncode is None
        openai_backend.released.set()
        rest = await stream.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await served.process.wait() == 0
    await served.session.close()


async def test_several_workers_refuse_what_they_cannot_share(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    settings_for(tmp_path, openai_backend, redis_url, server={"port": 0, "workers": 2}, fraud={"enabled": True})
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "callgate.yaml")]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=-1)
    _, said = await process.communicate()
    assert process.returncode == 3
    assert b"several workers cannot share fraud.enabled" in said
