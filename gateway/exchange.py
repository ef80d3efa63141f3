"""One HTTP request and its response, as far as it has come: the body read within its bound, the answer sent, a hang-up noticed.

It knows ASGI; gateway/asgi.py knows what is served.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.errors import TooLarge, WrongMediaType
from gateway.pipeline import Call
from gateway.types import Record
from gateway.wire.replies import Writer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = (b"content-type", b"application/json")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_INTENT = re.compile(rb"[a-z][a-z0-9_.-]{0,63}\Z")  # a label of the caller's own system, never free text
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


class Exchange:
    """One HTTP request and its response, as far as it has come."""

    __slots__ = (
        "_headers",
        "_receive",
        "_send",
        "call",
        "hung_up",
        "raw",
        "read_whole",
        "record",
        "scope",
        "started",
        "watcher",
        "writer",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, ids: Ids) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.raw = b""
        self.started = self.hung_up = self.read_whole = False
        self.call: Call | None = None
        self.writer: Writer | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.record = _new_record(self._headers, ids.take(), ids.sample)

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    async def read(self, most: int) -> bytes:
        """The body. Raises: WrongMediaType, TooLarge."""
        kind = (self.header(b"content-type") or b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise WrongMediaType("Send the body as application/json.")
        if (self.header(b"content-encoding") or b"identity").lower() != b"identity":
            raise WrongMediaType("Compressed bodies are not taken; send plain JSON.")
        length = self.header(b"content-length") or b"0"
        if length.isdigit() and int(length) > most:
            raise TooLarge(f"The body has {int(length)} bytes; at most {most} are taken.")
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.hung_up = True
                raise asyncio.CancelledError
            piece = message.get("body", b"")
            size += len(piece)
            if size > most:
                raise TooLarge(f"The body has more than {most} bytes; at most {most} are taken.")
            pieces.append(piece)
            if not message.get("more_body"):
                self.read_whole = True
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def watch_soon(self, work: asyncio.Task[Any] | None) -> None:
        self.watcher = asyncio.create_task(self.watch(work))

    async def watch(self, work: asyncio.Task[Any] | None) -> None:
        """Cancels the work on this request when its client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if work is not None:
            self.hung_up = True
            work.cancel()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        self.record.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send_piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def respond(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        await self.start(status, [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers])
        await self.end(body)


class Ids:
    """Random bytes for a request's ids, fetched from the system for many requests at once."""

    __slots__ = ("_at", "_noise", "sample")

    def __init__(self, sample: float = 1.0) -> None:
        self.sample = sample
        self._noise, self._at = b"", 0

    def take(self) -> bytes:
        """Forty bytes: a trace id, a span id and a request id."""
        if self._at == len(self._noise):
            self._noise, self._at = os.urandom(40 * 100), 0
        self._at += 40
        return self._noise[self._at - 40 : self._at]


def _new_record(headers: dict[bytes, bytes], noise: bytes, sample: float) -> Record:
    """A record under the caller's request id and trace, where it sent usable ones; whether it is traced is the caller's word or by chance."""
    request_id = headers.get(b"x-request-id", b"")
    parent = _TRACEPARENT.match(headers.get(b"traceparent", b""))
    trace_id = bytes.fromhex(parent[1].decode()) if parent else noise[:16]
    drawn = bool(int(parent[3], 16) & 1) if parent else sample >= 1 or int.from_bytes(noise[:8], "big") < sample * 2**64
    call_id, intent = headers.get(b"x-call-id", b""), headers.get(b"x-call-intent", b"")
    return Record(
        request_id=request_id.decode() if _REQUEST_ID.match(request_id) else noise[24:].hex(),
        trace_id=trace_id if any(trace_id) else noise[:16],
        span_id=noise[16:24],
        parent_span_id=bytes.fromhex(parent[2].decode()) if parent else b"",
        started_ns=time.time_ns(),
        endpoint="",
        sampled=drawn,
        drawn=drawn,
        call_id=call_id.decode() if _REQUEST_ID.match(call_id) else "",
        intent=intent.decode() if _INTENT.match(intent) else "",
    )
