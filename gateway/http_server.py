"""uvicorn's HTTP protocol with the two steps that cost most done leaner: reading a request's head and writing a response.

It is on the path of every request: the head of a response leaves together with its first piece, in one write, and header names and values are
checked together instead of one by one (uvicorn's way was about an eighth of a request by a profile, 2026-11). Parsing, framing of requests, keep-alive,
flow control and draining stay uvicorn's. It knows ASGI and nothing of what is served.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class LeanProtocol(HttpToolsProtocol):
    """One connection. It differs from uvicorn's in the cycle that it makes of a request; no WebSockets, no root path, no access log."""

    def on_headers_complete(self) -> None:
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
