"""A model server that keeps every byte it is sent and answers with what it was asked; and a trace collector beside it.

What it does is told by the name of the model: echo (all user turns), tool (a call with them as arguments), refuse (them as a refusal), fail (an
error that repeats them), garbage, reset, hang, truncate (a stream that is cut), judge (a rail's question: no). It searches nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

PIECE = 5  # characters of a streamed delta: tokens are cut in the middle
BEHAVIOURS = ("echo", "tool", "refuse", "fail", "garbage", "reset", "hang", "truncate")


@dataclass
class Upstream:
    """A running server: where it is, and what it was sent."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    traces: list[bytes] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """Serves on a free port of loopback."""
    from aiohttp import web

    seen = Upstream()

    async def model(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        kept = seen.judged if body["model"] == "judge" else seen.requests
        kept.append(f"{request.raw_path} {dict(request.headers)} {raw.decode('utf-8', 'replace')}")
        if request.path.endswith("/embeddings"):
            return web.json_response(_vectors(body))
        return await _answer(request, body, seen.closing)

    async def traces(request: web.Request) -> web.Response:
        seen.traces.append(await request.read())
        return web.Response()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    app = web.Application(client_max_size=1 << 27)
    for path in ("chat/completions", "completions", "embeddings"):
        app.router.add_post(f"/v1/{path}", model)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/traces", traces)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield seen
    finally:
        seen.closing.set()
        await runner.cleanup()


def asked(body: dict[str, Any]) -> str:
    """All that the caller said, in one text."""
    if "messages" not in body:
        prompt = body.get("prompt", "")
        return prompt if isinstance(prompt, str) else "\n".join(prompt)
    texts = []
    for message in body["messages"]:
        content = message.get("content") or ""
        if message["role"] in ("user", "tool"):
            texts.append(content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content))
        texts += [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return "\n".join(texts)


async def _answer(request: web.Request, body: dict[str, Any], closing: asyncio.Event) -> web.StreamResponse:
    from aiohttp import web

    model, text = body["model"], asked(body)
    if body.get("response_format"):
        text = json.dumps({"note": text})
    if model == "fail":
        return web.json_response({"error": {"message": f"cannot handle: {text}", "code": text[:60]}}, status=500)
    if model == "garbage":
        return web.Response(text='{"choices": [' + text, content_type="application/json")
    if model == "hang":
        await closing.wait()
    if model in ("reset", "hang"):
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    chat = "messages" in body
    deltas = _deltas(model, text, chat=chat)
    if body.get("stream"):
        return await _stream(request, model, deltas, body.get("n") or 1, chat=chat)
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in deltas:
        for key, value in delta.items():
            message[key] = (message.get(key) or "") + value if key in ("content", "refusal", "text") else value
    if "tool_calls" in message:
        message["tool_calls"] = [_call(json.dumps({"note": text}))]
    finish = "tool_calls" if "tool_calls" in message else "stop"
    said = {"message": message} if chat else {"text": message["text"]}
    choices = [{"index": index, "finish_reason": finish, **said} for index in range(body.get("n") or 1)]
    return web.json_response(_head(model, chat=chat, chunk=False) | {"choices": choices, "usage": _USAGE})


_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def _deltas(model: str, text: str, *, chat: bool) -> list[dict[str, Any]]:
    pieces = [text[place : place + PIECE] for place in range(0, len(text), PIECE)] or [""]
    if not chat:
        return [{"text": piece} for piece in pieces]
    if model == "judge":
        return [{"content": "No"}]
    if model == "tool":
        arguments = json.dumps({"note": text})
        parts = [arguments[place : place + PIECE] for place in range(0, len(arguments), PIECE)]
        return [{"tool_calls": [_call("")]}] + [
            {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in parts
        ]
    return [{"refusal" if model == "refuse" else "content": piece} for piece in pieces]


def _call(arguments: str) -> dict[str, Any]:
    return {"index": 0, "id": "call_1", "type": "function", "function": {"name": "note", "arguments": arguments}}


async def _stream(
    request: web.Request, model: str, deltas: list[dict[str, Any]], n: int, *, chat: bool
) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for place, delta in enumerate(deltas):
        said = {"delta": delta} if chat else delta
        for index in range(n):
            choice = {"index": index, "finish_reason": None, **said}
            await response.write(_event(_head(model, chat=chat, chunk=True) | {"choices": [choice]}))
        if model == "truncate" and place == len(deltas) // 2 and request.transport is not None:
            request.transport.abort()
            return response
    finish = "tool_calls" if model == "tool" else "stop"
    empty: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    choices = [{"index": index, "finish_reason": finish, **empty} for index in range(n)]
    await response.write(_event(_head(model, chat=chat, chunk=True) | {"choices": choices, "usage": _USAGE}))
    await response.write(b"data: [DONE]\n\n")
    return response


def _head(model: str, *, chat: bool, chunk: bool) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if chunk else "chat.completion") if chat else "text_completion"
    return {"id": "audit", "object": kind, "created": 1, "model": model}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _vectors(body: dict[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [{"object": "embedding", "index": place, "embedding": [0.5, 0.5]} for place, _ in enumerate(texts)]
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
