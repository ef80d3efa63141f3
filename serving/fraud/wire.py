"""Two ways to send commands to Redis: one lean pipelined connection, and any redis-py client.

`Wire` keeps one connection and sends what is asked at once, replies in order: 20 µs of CPU for the five commands of a score
where redis-py's asyncio pipeline costs 210 (2026-11-25). It knows a single server; for a cluster or Sentinel hand a redis-py client
to `ThroughClient`. Knows commands and replies, not what they mean. Fails fast: whatever breaks fails all that wait, and the next
call connects anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from hiredis import HiredisError, Reader, pack_command

Command = tuple[str | bytes | int, ...]

_MOST_WAITING = 20_000  # replies outstanding; a server so far behind is as good as away
_STALE_S = 2.0  # a reply that takes longer means a dead connection, whatever TCP believes
_CONNECT_S = 1.0
_SCANNED = 500  # keys at once


class WireLost(Exception):
    """The server did not answer: not reached, gone, too far behind, or it refused the command."""


class Commands(Protocol):
    """Sends commands in one go and gives their replies in order. Raises: WireLost."""

    async def run(self, commands: Sequence[Command]) -> list[Any]: ...

    def keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Every key that matches, some at a time, of all servers; one that comes or goes meanwhile may be there or not."""

    async def aclose(self) -> None: ...


class Wire(asyncio.Protocol):
    """One connection to one server. `hello`: commands that open every connection (AUTH, SELECT)."""

    def __init__(self, host: str, port: int, path: str = "", tls: Any = None, hello: Sequence[Command] = ()) -> None:
        self._host, self._port, self._path, self._tls = host, port, path, tls
        self._hello = [_pack(command) for command in hello]
        self._transport: asyncio.WriteTransport | None = None
        self._reader = Reader()
        self._waiting: deque[tuple[int, asyncio.Future[list[Any]], float]] = deque()
        self._replies: list[Any] = []
        self._connecting: asyncio.Task[None] | None = None
        self._outstanding = 0

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Replies, one for each command. Raises: WireLost."""
        if self._transport is None:
            await self._connect()
        return await self._send([_pack(command) for command in commands])

    async def keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        cursor: bytes = b"0"
        while True:
            cursor, found = (await self.run((("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED),)))[0]
            yield found
            if cursor == b"0":
                return

    def _send(self, packed: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        now_s = time.monotonic()
        if self._waiting and now_s - self._waiting[0][2] > _STALE_S:
            self._lose("no reply")
        if self._transport is None or self._outstanding > _MOST_WAITING:
            raise WireLost("too far behind" if self._transport else "not connected")
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((len(packed), done, now_s))
        self._outstanding += len(packed)
        self._transport.write(b"".join(packed))
        return done

    async def _connect(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._open())
            self._connecting.add_done_callback(self._connected)
        await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be left

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                if self._path:
                    await loop.create_unix_connection(lambda: self, self._path)
                else:
                    await loop.create_connection(lambda: self, self._host, self._port, ssl=self._tls)
                if self._hello:
                    await self._send(self._hello)
        except WireLost:
            self._lose("refused")
            raise
        except (OSError, TimeoutError) as error:
            self._lose(type(error).__name__)
            raise WireLost(type(error).__name__) from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._reader, self._replies = Reader(), []
        self._transport = transport  # type: ignore[assignment]  # a stream has a WriteTransport

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
                if self._waiting and len(self._replies) == self._waiting[0][0]:
                    count, done, _ = self._waiting.popleft()
                    self._outstanding -= count
                    self._settle(done, self._replies)
                    self._replies = []
        except HiredisError as error:
            self._lose(type(error).__name__)

    @staticmethod
    def _settle(done: asyncio.Future[list[Any]], replies: list[Any]) -> None:
        if done.done():  # its deadline has passed meanwhile
            return
        refused = next((reply for reply in replies if isinstance(reply, HiredisError)), None)
        if refused is None:
            done.set_result(replies)
        else:
            done.set_exception(WireLost(str(refused).partition(" ")[0]))  # the code; the rest may quote arguments

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(type(exc).__name__ if exc else "closed")

    def _lose(self, why: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        lost, self._waiting, self._outstanding = self._waiting, deque(), 0
        for _, done, _ in lost:
            if not done.done():
                done.set_exception(WireLost(why))

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._lose("closed")


def _pack(command: Command) -> bytes:
    packed: bytes = pack_command(command)
    return packed


class ThroughClient:
    """Commands through a `redis.asyncio` client (single server, Sentinel or cluster) that the caller opened and will close.

    The client must not decode replies: records are bytes. Scripts go one by one, since a cluster's pipeline takes none.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        from redis.exceptions import RedisError

        try:
            if len(commands) == 1 or any(command[0] == "EVAL" for command in commands):
                return [await self._client.execute_command(*command) for command in commands]
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute())
        except (RedisError, OSError) as error:
            raise WireLost(type(error).__name__) from error

    async def keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        from redis.exceptions import RedisError

        some: list[bytes] = []
        try:
            async for key in self._client.scan_iter(match=pattern, count=_SCANNED):
                some.append(key)
                if len(some) == _SCANNED:
                    yield some
                    some = []
        except (RedisError, OSError) as error:
            raise WireLost(type(error).__name__) from error
        yield some

    async def aclose(self) -> None:
        """The client is the caller's."""
