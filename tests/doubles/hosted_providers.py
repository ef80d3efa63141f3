"""Doubles of hosted providers' own wires over a socket: Anthropic's Messages API and Azure OpenAI. They answer as the model's name says.

Models: echo (repeats the last user message), tool (calls the first declared tool with it), fail-429, fail-500. Anthropic's stream is its named
events; Azure's is OpenAI's under a deployment path with an api-version and an api-key header. Each keeps what it received.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

STATE: web.AppKey[Hosted] = web.AppKey("hosted")


@dataclass
class Hosted:
    """Running doubles: their addresses, and the path, headers and body of each request."""

    url: str = ""
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)


@asynccontextmanager
async def hosted_providers() -> AsyncIterator[Hosted]:
    state = Hosted()
    app = web.Application()
    app[STATE] = state
    app.router.add_post("/anthropic/v1/messages", _anthropic)
    app.router.add_post("/azure/openai/deployments/{deployment}/chat/completions", _azure)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    state.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield state
    finally:
        await runner.cleanup()


async def _received(request: web.Request) -> dict[str, Any]:
    body: dict[str, Any] = await request.json()
    headers = {name.lower(): value for name, value in request.headers.items()}
    request.app[STATE].seen.append((request.path_qs, headers, body))
    return body


def _last(messages: list[dict[str, Any]]) -> str:
    content = [m["content"] for m in messages if m["role"] == "user"][-1]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _anthropic(request: web.Request) -> web.StreamResponse:
    body = await _received(request)
    assert "max_tokens" in body, "Anthropic refuses a request without max_tokens"
    if body["model"].startswith("fail-"):
        kinds = {429: "rate_limit_error", 500: "api_error"}
        status = int(body["model"].removeprefix("fail-"))
        error = {"type": "error", "error": {"type": kinds[status], "message": "SECRET internal detail"}}
        return web.json_response(error, status=status, headers={"retry-after": "7"})
    text = _last(body["messages"])
    calls = body["model"] == "tool"
    block: dict[str, Any] = {"type": "text", "text": text}
    if calls:
        block = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": {"who": text}}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block],
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 7},
    }
    if not body.get("stream"):
        return web.json_response(message)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)

    async def send(kind: str, **fields: Any) -> None:
        data = json.dumps({"type": kind, **fields})
        await response.write(f"event: {kind}\ndata: {data}\n\n".encode())

    await send("message_start", message={**message, "content": [], "stop_reason": None})
    empty = {**block, "input": {}} if calls else {**block, "text": ""}
    await send("content_block_start", index=0, content_block=empty)
    whole = json.dumps(block["input"]) if calls else text
    for start in range(0, len(whole), 3):
        piece = whole[start : start + 3]
        delta = {"type": "input_json_delta", "partial_json": piece} if calls else {"type": "text_delta", "text": piece}
        await send("content_block_delta", index=0, delta=delta)
    await send("content_block_stop", index=0)
    await send("message_delta", delta={"stop_reason": message["stop_reason"]}, usage={"output_tokens": 7})
    await send("message_stop")
    await response.write_eof()
    return response


async def _azure(request: web.Request) -> web.StreamResponse:
    body = await _received(request)
    deployment = request.match_info["deployment"]
    if deployment.startswith("fail-"):
        error = {"error": {"message": "SECRET internal detail", "code": "429", "type": "requests"}}
        return web.json_response(error, status=int(deployment.removeprefix("fail-")), headers={"retry-after": "7"})
    text = _last(body["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if deployment == "tool":
        name = body["tools"][0]["function"]["name"]
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps({"who": text})}}
        message = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]}
    finish = "tool_calls" if deployment == "tool" else "stop"
    head = {"id": "x", "created": 1, "model": "gpt-4o-2024-11-20"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": finish, "content_filter_results": {}}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    # Azure begins with a chunk without choices that holds the prompt's filter results.
    chunks: list[dict[str, Any]] = [{**head, "choices": [], "prompt_filter_results": []}]
    chunks.append({**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]})
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({**head, "choices": [], "usage": usage})
    for chunk in chunks:
        data = json.dumps({**chunk, "object": "chat.completion.chunk"})
        await response.write(f"data: {data}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
