"""uvicorn's HTTP protocol with the two steps that cost most done leaner: reading a request's head and writing a response.

It is on the path of every request: the head of a response leaves together with its first piece, in one write, and header names and values are
checked together instead of one by one (uvicorn's way was about an eighth of a request by a profile, 2026-11). It also bounds what uvicorn does not: the time
and the bytes that a request may take to arrive. Parsing, framing of requests, keep-alive, flow control and draining stay uvicorn's.
It knows ASGI and the shape of an error, and nothing of what is served.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import TYPE_CHECKING, Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.errors import BadRequest, HeadTooLarge, RequestTimeout, TooLarge

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MOST_HEAD_BYTES = 1 << 16


class LeanProtocol(HttpToolsProtocol):
    """One connection. It differs from uvicorn's in the cycle that it makes of a request; no WebSockets, no root path, no access log.

    A request must arrive whole within ``arrival_s`` (a connection that never begins one is closed then), its head within ``MOST_HEAD_BYTES``
    and all of it within twice ``most_body_bytes`` more, chunk sizes and trailers included: the exact limit of a body is the application's.
    """

    def __init__(self, *args: Any, arrival_s: float = 30.0, most_body_bytes: int = 1 << 22, **more: Any) -> None:
        super().__init__(*args, **more)
        self._arrival_s = arrival_s
        self._most_bytes = MOST_HEAD_BYTES + 2 * most_body_bytes
        self._seen = 0  # bytes of the request that is arriving
        self._in_head = True
        self._arrived = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(self._arrival_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._arrived:
            if self._late is not None:
                self._stop_waiting()
            return
        self._seen += len(data)
        if self._seen > (MOST_HEAD_BYTES if self._in_head else self._most_bytes):
            self._refuse(
                HeadTooLarge(f"A request's head may have {MOST_HEAD_BYTES} bytes; send fewer or shorter headers.")
                if self._in_head
                else TooLarge("The request has more bytes than are taken, whatever its body says.")
            )
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self._arrival_s, self._too_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._seen, self._in_head, self._arrived = 0, True, False

    def on_message_complete(self) -> None:
        self._arrived = self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words, in plain text)
        self._refuse(BadRequest("This is not an HTTP/1.1 request.", code="invalid_http"))

    def _too_late(self) -> None:
        answering = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if answering or self.flow.read_paused:  # what has arrived is ours to deal with first
            self._late = self.loop.call_later(self._arrival_s, self._too_late)
        elif not self._seen:
            self.transport.close()
        else:
            self._refuse(RequestTimeout(f"The request did not arrive whole within {self._arrival_s:g} s."))

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: BadRequest) -> None:
        """Closes the connection, with ``error`` where no answer has begun."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if (
            (cycle is None or cycle.response_complete)
            if self._in_head
            else cycle.more_body and not cycle.response_started
        ):
            body = msgspec.json.encode(error.body())
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        scope, url = self.scope, self.url
        version = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["query_string"] = b""
        if b"?" in url or b"%" in url or b"#" in url or not url.startswith(b"/"):
            parsed = httptools.parse_url(url)
            url, scope["query_string"] = parsed.path, parsed.query or b""
        scope["raw_path"] = url
        path = url.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        before = self.cycle
        self.cycle = LeanCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # a pipelined request waits for its turn
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))


class LeanCycle(RequestResponseCycle):
    """One request and its response."""

    _head: bytes = b""

    async def send(self, message: ASGISendEvent) -> None:
        """Raises: RuntimeError for messages out of order, a header that would split, or a body of another length than was said."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._written_head(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message '{message['type']}'")

    def _written_head(self, status: int, headers: Any) -> bytes:
        pairs = (*self.default_headers, *headers)
        lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        # One line end a header and not one more: nothing that a caller sends can begin a header of its own.
        if not lines.count(b"\r") == lines.count(b"\n") == len(pairs) or b"\0" in lines:
            raise RuntimeError("a header with a line break")
        length = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
        if not self.keep_alive and b"\r\nconnection: close\r\n" not in lines:
            lines += b"connection: close\r\n"
        self.chunked_encoding = length is None and self.scope["method"] != "HEAD" and status not in (204, 304)
        self.expected_content_length = length or 0
        if self.chunked_encoding:
            lines += b"transfer-encoding: chunked\r\n"
        return b"%b%b\r\n" % (STATUS_LINE[status], lines)

    def _write(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        if self.chunked_encoding:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            piece = piece if more else piece + b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (not more and self.expected_content_length):
                raise RuntimeError("the body's length is not the content-length that was said")
            piece = body
        if head or piece:
            self.transport.write(head + piece)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
