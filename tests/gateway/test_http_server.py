"""The lean protocol says what uvicorn's says, in fewer writes, and lets no header split."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.http_server import LeanCycle, LeanProtocol

App = Callable[[Any, Any, Any], Awaitable[None]]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was asked; ``/stream`` in pieces, ``/slow`` after a while, ``/bad`` with a header that would split."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    told = (
        f"{scope['method']} {scope['path']} {scope['raw_path'].decode()} {scope['query_string'].decode()} ".encode()
        + body
    )
    headers = [(b"x-one", b"1")]
    if scope["path"] == "/bad":
        headers.append((b"x-two", b"2\r\nset-cookie: stolen"))
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] == "/close":
        headers.append((b"connection", b"close"))
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (told[:3], b"", told[3:]):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    headers.append((b"content-length", b"%d" % (len(told) + (scope["path"] == "/short"))))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


@asynccontextmanager
async def serving(protocol: Callable[..., HttpToolsProtocol]) -> AsyncIterator[int]:
    config = uvicorn.Config(
        answer, port=0, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, date_header=False
    )
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0)
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


async def talk(port: int, sent: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    data = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return data


CASES = {
    "whole": b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
    "streamed": b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
    "chunked request": b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two in one piece": b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "query and escapes": b"GET /a%20b?c=%20d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "absolute form": b"GET http://x/a?b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "head": b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "head of a stream": b"HEAD /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "old version": b"GET /a HTTP/1.0\r\nhost: x\r\n\r\n",
    "expects to be told to go on": b"POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
    "the answer closes": b"GET /close HTTP/1.1\r\nhost: x\r\n\r\n",
}


async def test_every_kind_of_request_is_answered_byte_for_byte_as_by_uvicorn() -> None:
    async with serving(LeanProtocol) as lean, serving(HttpToolsProtocol) as stock:
        for name, sent in CASES.items():
            ours, theirs = await talk(lean, sent), await talk(stock, sent)
            assert ours == theirs, name
            assert ours, name


REFUSED = {
    "not HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400, "invalid_http"),
    "a head without end": (b"GET /a HTTP/1.1\r\n" + b"x-long: %b\r\n" % (b"a" * 1000) * 100, 431, "request_head_too_large"),
    "a header without end": (b"GET /a HTTP/1.1\r\nx-long: " + b"a" * 100_000, 431, "request_head_too_large"),
    "a chunk that is none": (b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_http"),
    "trailers without end": (
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x-a: %b\r\n" % (b"a" * 1000) * 70,
        413,
        "request_too_large",
    ),
    "cut short": (b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhi", 408, "request_timeout"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_request_is_refused_in_the_shape_of_all_errors(name: str) -> None:
    sent, status, code = REFUSED[name]
    async with serving(functools.partial(LeanProtocol, arrival_s=0.5, most_body_bytes=1024)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    assert json.loads(body)["error"]["code"] == code


async def test_a_request_that_waits_behind_an_answer_is_not_late() -> None:
    async with serving(functools.partial(LeanProtocol, arrival_s=0.05)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        data = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert data.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("path", [b"/bad", b"/short"])
async def test_a_header_that_splits_and_a_body_of_another_length_are_never_sent(path: bytes) -> None:
    async with serving(LeanProtocol) as port:
        data = await talk(port, b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path)
    assert b"set-cookie" not in data
    assert b" 200 " not in data


@given(st.lists(st.tuples(st.just(b"x-a"), st.binary(max_size=12)), max_size=4))
def test_a_head_has_one_line_for_each_header_or_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    cycle = LeanCycle.__new__(LeanCycle)
    cycle.default_headers, cycle.keep_alive, cycle.scope = [], True, {"method": "GET"}  # type: ignore[typeddict-item]
    split = any(set(value) & {0, 10, 13} for _, value in headers)
    try:
        head = cycle._written_head(200, headers)
    except RuntimeError:
        assert split
    else:
        assert not split
        assert head.count(b"\n") == len(headers) + 3  # the status, the coding and the empty line
