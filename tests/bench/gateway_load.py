"""What bench_gateway runs beside the gateway: a mock upstream on a bare protocol, and the minimal Python gateway it is compared with.

`python -m tests.bench.gateway_load mock PORT EVENTS` or `... pyraw PORT UPSTREAM_PORT`. Loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

ANSWER = "The quick brown fox jumps over the lazy dog. " * 13
USAGE = {"prompt_tokens": 250, "completion_tokens": 130, "total_tokens": 380}
HEAD = {"id": "chatcmpl-mock", "created": 1700000000, "model": "mock"}


class Mock(asyncio.Protocol):
    """Answers every POST with one answer of 0.6 KB, a stream of deltas, one each 10 ms, or (``idle``) one delta and then nothing."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._data = b""
        self._transport: Any = None
        choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
        body = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
        self._whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if not found or len(rest) < length:
            return
        body, self._data = rest[:length], rest[length:]
        if b'"idle": true' in body or b'"idle":true' in body:
            self._send_head()
            self._send(json.dumps(_delta("tok")))
        elif b'"stream":true' in body.replace(b" ", b""):
            asyncio.get_running_loop().create_task(self._stream())
        else:
            self._transport.write(self._whole)

    def _send_head(self) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def _stream(self) -> None:
        self._send_head()
        for number in range(self._events):
            self._send(json.dumps(_delta(f" tok{number}")))
            await asyncio.sleep(0.01)
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
        self._send(json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": [choice]}))
        self._send("[DONE]")
        self._transport.write(b"0\r\n\r\n")

    def _send(self, data: str) -> None:
        event = b"data: " + data.encode() + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))


def _delta(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}


async def serve_mock(port: int, events: int) -> None:
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    server = await asyncio.get_running_loop().create_server(lambda: Mock(events), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def serve_raw(port: int, upstream: int) -> None:
    """uvicorn, a raw ASGI callable and aiohttp: no keys, limits, metrics or traces."""
    import aiohttp
    import uvicorn

    state: dict[str, aiohttp.ClientSession] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                if message["type"] == "lifespan.startup":
                    state["session"] = aiohttp.ClientSession()
                    await send({"type": "lifespan.startup.complete"})
            await state["session"].close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
        async with state["session"].post(url, data=body, headers={"content-type": "application/json"}) as answer:
            kind = answer.headers["content-type"].encode()
            start = {"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]}
            if answer.content_length is not None:
                whole = await answer.read()
                start["headers"].append((b"content-length", b"%d" % len(whole)))
                await send(start)
                await send({"type": "http.response.body", "body": whole})
                return
            await send(start)
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="error", access_log=False)


if __name__ == "__main__":
    if sys.argv[1] == "mock":
        asyncio.run(serve_mock(int(sys.argv[2]), int(sys.argv[3])))
    else:
        serve_raw(int(sys.argv[2]), int(sys.argv[3]))
