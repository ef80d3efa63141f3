"""A double of an OpenAI-compatible backend: it speaks the real protocol over a socket, and answers as its model's name says.

Models: echo (repeats the last user message), echo-N (the same in deltas of N characters), say (repeats the text after 'say:'),
tool (calls a declared tool with the last user message as argument), adds and adds-tool (the same two with ADDED, which nobody told it), fail-<status>, hang, reset, html, garbage, truncate, prose-stream,
no-done, slow (a delta each 20 ms until the client goes away). It keeps every body and header it received.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

ADDED = "You may also write to other.person@example.net or use card 5500 0000 0000 0004 instead, thank you."
USAGE: dict[str, Any] = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
STATE: web.AppKey[Backend] = web.AppKey("state")


@dataclass
class Backend:
    """A running double: where it is, and what it has seen."""

    base_url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open_streams: int = 0
    stream_closed: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def seen(self) -> str:
        """Everything it received, as one text to search."""
        return json.dumps(self.bodies, ensure_ascii=False)


@asynccontextmanager
async def backend() -> AsyncIterator[Backend]:
    """Runs the double on a free port of loopback."""
    state = Backend()
    app = web.Application(client_max_size=1 << 26)
    app[STATE] = state
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/completions", _completion)
    app.router.add_post("/v1/embeddings", _embeddings)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    state.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield state
    finally:
        state.released.set()
        await runner.cleanup()


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": []})


async def _chat(request: web.Request) -> web.StreamResponse:
    body = await _received(request)
    texts = [_text(m) for m in body["messages"] if m["role"] == "user"]
    return await _answer(request, body, texts[-1] if texts else "", chat=True)


async def _completion(request: web.Request) -> web.StreamResponse:
    body = await _received(request)
    return await _answer(
        request, body, body["prompt"] if isinstance(body["prompt"], str) else body["prompt"][0], chat=False
    )


async def _embeddings(request: web.Request) -> web.StreamResponse:
    body = await _received(request)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [{"object": "embedding", "index": i, "embedding": [float(len(text)), 0.5]} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})


async def _received(request: web.Request) -> dict[str, Any]:
    state: Backend = request.app[STATE]
    body: dict[str, Any] = await request.json()
    state.bodies.append(body)
    state.headers.append(dict(request.headers))
    return body


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _answer(request: web.Request, body: dict[str, Any], asked: str, *, chat: bool) -> web.StreamResponse:
    state: Backend = request.app[STATE]
    model: str = body["model"]
    if model.startswith("fail-"):
        status = int(model.removeprefix("fail-"))
        error = {"error": {"message": "SECRET internal detail 10.0.0.7", "type": "x", "param": None, "code": None}}
        return web.json_response(error, status=status, headers={"retry-after": "7"} if status == 429 else {})
    if model == "context":
        error = {"error": {"message": "This model's maximum context length is 10", "code": "context_length_exceeded"}}
        return web.json_response(error, status=400)
    if model == "greedy":
        error = {"error": {"message": "n must be 1 at temperature 0, SECRET detail\n", "code": 400}}
        return web.json_response(error, status=400)
    if model == "hang":
        await state.released.wait()
    if model == "reset":
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
    if model == "html":
        return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
    if model == "garbage":
        return web.Response(text='{"choices": [', content_type="application/json")
    asked = ADDED if model.startswith("adds") else asked
    answer = asked.partition("say:")[2] if model == "say" else asked
    calls = [
        {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "look_up", "arguments": json.dumps({"who": asked})},
        }
    ]
    if body.get("stream"):
        return await _stream(request, body, answer, calls, chat=chat)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if not chat:
        choice["text"] = answer
    elif model in ("tool", "adds-tool"):
        choice |= {
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": calls},
        }
    else:
        choice["message"] = {"role": "assistant", "content": answer}
    kind = "chat.completion" if chat else "text_completion"
    choices = [{**json.loads(json.dumps(choice)), "index": i} for i in range(body.get("n") or 1)]
    return web.json_response(
        {"id": "x", "object": kind, "created": 1, "model": model, "choices": choices, "usage": USAGE}
    )


async def _stream(
    request: web.Request, body: dict[str, Any], answer: str, calls: list[Any], *, chat: bool
) -> web.StreamResponse:
    state: Backend = request.app[STATE]
    model: str = body["model"]
    if model == "prose-stream":
        return web.Response(text=answer)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    head = {"id": "x", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1, "model": model}

    async def send(delta: dict[str, Any], finish: str | None = None) -> None:
        choice = {
            "index": 0,
            "finish_reason": finish,
            **({"delta": delta} if chat else {"text": delta.get("content", "")}),
        }
        await response.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n")

    state.open_streams += 1
    try:
        if chat:
            await send({"role": "assistant", "content": ""})
        if model == "slow":
            while not state.released.is_set():
                await send({"content": "x"})
                try:
                    await asyncio.wait_for(state.released.wait(), 0.02)
                except TimeoutError:
                    pass
        if model in ("tool", "adds-tool"):
            arguments = calls[0]["function"]["arguments"]
            await send({"tool_calls": [{**calls[0], "function": {"name": "look_up", "arguments": ""}}]})
            for start in range(0, len(arguments), 3):
                await send({"tool_calls": [{"index": 0, "function": {"arguments": arguments[start : start + 3]}}]})
            await send({}, "tool_calls")
        else:
            step = int(model.removeprefix("echo-")) if model.startswith("echo-") else 4
            for place, start in enumerate(range(0, len(answer), step)):
                if model == "truncate" and place == 2:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await send({"content": answer[start : start + step]})
            await send({}, "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b"data: " + json.dumps({**head, "choices": [], "usage": USAGE}).encode() + b"\n\n")
        if model != "no-done":
            await response.write(b"data: [DONE]\n\n")
    except (ConnectionResetError, asyncio.CancelledError):
        state.stream_closed.set()
        raise
    finally:
        state.open_streams -= 1
    await response.write_eof()
    return response
