"""A tiny suite, and a double of its models in a thread of its own, for commands that bring their own event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from evals.launch import Options


class Served:
    def __init__(self) -> None:
        self.asked = 0
        self.keys: set[str | None] = set()
        self.answer: Callable[[dict[str, Any]], web.Response | Awaitable[web.Response]] = lambda body: completion(
            good(body)
        )
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.url = ""

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _chat(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.keys.add(request.headers.get("authorization"))
        found = self.answer(await request.json())
        return found if isinstance(found, web.Response) else await found

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def _turns(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    def catch_up(self) -> None:
        """Until what a killed client had sent has been counted: it waits in the sockets, a few turns of the loop away."""
        asyncio.run_coroutine_threadsafe(self._turns(), self._loop).result(10)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def completion(text: str) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def good(body: dict[str, Any]) -> str:
    """A judge says yes; 'bad' rambles; 'good' and 'same' are brief."""
    if "response_format" in body:
        return json.dumps({"reason": "r", "verdict": "yes" if "fine" in body["messages"][1]["content"] else "no"})
    return "word " * 20 if "ramble" in body["messages"][0]["content"] else "fine"


SUITE = """
name: tiny
version: "1"
dataset: cases.jsonl
targets:
  good: {model: m, system: be brief}
  same: {model: m, system: be brief, version: other}
  bad: {model: m, system: ramble}
metrics:
  - {name: brief, check: length, margin: 0.2, primary: true}
  - {name: helpful, judge: j, decides: false}
judges:
  j: {model: m, version: "1", question: "Is the reply helpful?"}
limits: {min_labels: 20, min_kappa: 0.3}
"""


def options(suite: Path, served: Served, **changes: Any) -> Options:
    given = Options(str(suite), "bad", "good", served.url, served.url, suite / "out", None, 4, None, None, None, None)
    return replace(given, **changes)


def write_suite(folder: Path) -> Path:
    folder.mkdir()
    (folder / "suite.yaml").write_text(SUITE)
    cases = [
        {"id": f"c{n:02}", "conversation": f"t{n // 2}", "slice": "even" if n % 2 else "odd",
         "messages": [{"role": "user", "content": f"question {n}"}], "expect": {"max_words": 5}}
        for n in range(40)
    ]  # fmt: skip
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    return folder
