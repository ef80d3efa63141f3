"""The lean client against raw sockets: framing in any pieces, kept connections, its four limits, and peers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http_client import BrokenOff, ConnectFailed, HttpPool, Patience, Target, TimedOut

PATIENT = Patience(2, 2, 2, 4)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Target]:
    """A server whose handler is given each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Target.of("POST", f"http://127.0.0.1:{port}/v1/x?y=1", {"content-type": "application/json"})
    finally:
        server.close()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*pieces: bytes, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return handler


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"


@given(cuts=st.lists(st.integers(1, len(CHUNKED) - 1), max_size=6))
@settings(max_examples=30, deadline=None)
def test_an_answer_is_read_whole_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(CHUNKED)]
    pieces = [CHUNKED[a:b] for a, b in pairwise(edges)]

    async def scene() -> None:
        pool = HttpPool()
        async with serving(answering(*pieces)) as target:
            for _ in range(2):  # the second time on the kept connection
                async with pool.send(target, b"{}", PATIENT) as answer:
                    assert (answer.status, answer.header(b"x-a")) == (200, b"b")
                    assert await answer.read(100) == b"hello, world"
            await pool.aclose()

    asyncio.run(scene())


async def test_connections_are_kept_and_the_request_is_what_was_asked() -> None:
    seen: list[bytes] = []
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            seen.append(await request_of(reader))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    pool = HttpPool()
    async with serving(handler) as target:
        for _ in range(3):
            async with pool.send(target, b'{"a":1}', PATIENT, b"traceparent: 00-x\r\n") as answer:
                assert await answer.read(10) == b"ok"
        await pool.aclose()
    assert connections == 1
    assert seen[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"traceparent: 00-x\r\n" in seen[0]
    assert seen[0].endswith(b'\r\n\r\n{"a":1}')


async def test_a_kept_connection_that_the_server_closed_is_replaced_once() -> None:
    pool = HttpPool()
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", close=True)) as target:
        for _ in range(4):
            async with pool.send(target, b"{}", PATIENT) as answer:
                assert await answer.read(10) == b"ok"
        await pool.aclose()


async def test_an_answer_left_unread_does_not_poison_the_next_one() -> None:
    pool = HttpPool()
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"not", b" read")) as target:
        async with pool.send(target, b"{}", PATIENT) as answer:
            assert answer.status == 200
        async with pool.send(target, b"{}", PATIENT) as answer:
            assert answer.status == 200
        await pool.aclose()


@pytest.mark.parametrize(
    ("sent", "begun"),
    [
        (b"", False),
        (b"garbage\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", True),
        (b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"a" * 70000 + b"\r\n\r\n", False),
    ],
)
async def test_what_breaks_off_says_whether_it_had_begun(sent: bytes, begun: bool) -> None:
    pool = HttpPool()
    async with serving(answering(sent, close=True)) as target:
        with pytest.raises(BrokenOff) as broken:
            async with pool.send(target, b"{}", PATIENT) as answer:
                await answer.read(100)
        assert broken.value.begun is begun
        await pool.aclose()


async def test_each_limit_ends_the_wait() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await reader.read()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf")
        await reader.read()

    pool = HttpPool()
    for handler, patience in (
        (silent, Patience(2, 0.05, 2, 4)),
        (silent, Patience(2, 9, 9, 0.05)),
        (stalls, Patience(2, 2, 0.05, 4)),
    ):
        async with serving(handler) as target:
            with pytest.raises(TimedOut):
                async with pool.send(target, b"{}", patience) as answer:
                    await answer.read(100)
    await pool.aclose()


async def test_no_server_and_no_name_are_failures_to_connect() -> None:
    pool = HttpPool()
    for url in ("http://127.0.0.1:9/v1", "http://name.invalid/v1"):
        with pytest.raises(ConnectFailed):
            async with pool.send(Target.of("POST", url, {}), b"{}", PATIENT):
                pass

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is not TLS\r\n\r\n")

    async with serving(hangs_up) as target:
        with pytest.raises(ConnectFailed):
            async with pool.send(Target(target.host, target.port, True, target.head), b"{}", PATIENT):
                pass
        with pytest.raises(ConnectFailed):
            async with HttpPool(0).send(target, b"{}", PATIENT):
                pass
    await pool.aclose()


async def test_a_body_over_the_bound_is_refused_and_a_slow_reader_holds_the_sender_back() -> None:
    big = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n" + b"x" * 4_000_000
    pool = HttpPool()
    async with serving(answering(big, close=True)) as target:
        with pytest.raises(BrokenOff):
            async with pool.send(target, b"{}", PATIENT) as answer:
                await answer.read(1000)
        async with pool.send(target, b"{}", PATIENT) as answer:
            total = 0
            async for piece in answer:
                assert len(piece) < 2_000_000  # 256 KiB and what one read of the socket adds
                total += len(piece)
            assert total == 4_000_000
    await pool.aclose()


def test_a_header_cannot_split_a_request() -> None:
    for bad in ("http://h/a\r\nb", "ftp://h/", "http://user@h/"):
        with pytest.raises(ValueError, match=r"."):
            Target.of("POST", bad, {"x": "a\r\nb: c"})
