"""The only file that knows Redis: keys and limits live there, shared by every worker.

It knows commands, not what they mean. Each failure is a StoreError; who asked decides whether that is open or closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

_T = TypeVar("_T")


class StoreError(Exception):
    """Redis could not be reached, was too slow, or refused."""


class RedisStore:
    """One pool of connections to one Redis. ``timeout_s`` bounds every command."""

    def __init__(self, url: str, timeout_s: float = 1.0) -> None:
        from redis.asyncio import Redis

        self._redis: Redis[bytes] = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._timeout_s = timeout_s

    @property
    def client(self) -> Redis[bytes]:
        """The vendor's client, for packages that bring their own commands."""
        return self._redis

    def script(self, source: str) -> RedisScript:
        return RedisScript(self, self._redis.register_script(source))

    async def ping(self) -> None:
        """Raises: StoreError."""
        await self.bounded(self._redis.ping())

    async def read_hash(self, name: str) -> dict[bytes, bytes]:
        """Raises: StoreError."""
        return await self.bounded(cast(Awaitable[dict[bytes, bytes]], self._redis.hgetall(name)))

    async def write_hash(self, name: str, key: str, value: bytes) -> None:
        """Raises: StoreError."""
        await self.bounded(cast(Awaitable[int], self._redis.hset(name, key, cast(str, value))))

    async def read_value(self, name: str) -> bytes | None:
        """Raises: StoreError."""
        return await self.bounded(cast("Awaitable[bytes | None]", self._redis.get(name)))

    async def write_value(self, name: str, value: bytes, ttl_s: float) -> None:
        """Raises: StoreError."""
        await self.bounded(cast(Awaitable[Any], self._redis.set(name, value, px=max(1, int(ttl_s * 1000)))))

    async def remember_in_hash(self, name: str, key: str, value: bytes, ttl_s: float, most: int) -> None:
        """Adds to a hash that lives ``ttl_s`` and holds at most ``most`` entries: a full one is begun anew. Raises: StoreError."""
        async with self._redis.pipeline(transaction=True) as commands:
            if await self.bounded(cast(Awaitable[int], self._redis.hlen(name))) >= most:
                commands.delete(name)
            commands.hset(name, key, cast(str, value))
            commands.pexpire(name, max(1, int(ttl_s * 1000)))
            await self.bounded(commands.execute())

    async def publish(self, channel: str, message: str) -> None:
        """Raises: StoreError."""
        await self.bounded(cast(Awaitable[int], self._redis.publish(channel, message)))

    async def messages(self, channel: str) -> AsyncIterator[bytes]:
        """What is published on a channel from now on. Raises: StoreError when the connection is lost."""
        from redis.exceptions import RedisError

        listener = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await self.bounded(listener.subscribe(channel))
            while True:
                message = await listener.get_message(timeout=30.0)
                if message is not None:
                    yield message["data"]
        except (RedisError, OSError) as error:
            raise StoreError(type(error).__name__) from None
        finally:
            await listener.aclose()  # type: ignore[attr-defined]  # newer than the stubs

    async def read_values(self, names: Sequence[str]) -> list[bytes | None]:
        """Raises: StoreError."""
        return await self.bounded(cast("Awaitable[list[bytes | None]]", self._redis.mget(names)))

    async def everything(self) -> AsyncIterator[bytes]:
        """Every key with all that it holds, for who looks for what must not be there. Not for a big store. Raises: StoreError."""
        read = {b"string": ("GET",), b"hash": ("HGETALL",), b"list": ("LRANGE", "0", "-1"), b"set": ("SMEMBERS",)}
        read |= {b"zset": ("ZRANGE", "0", "-1"), b"stream": ("XRANGE", "-", "+")}
        async for key in self._redis.scan_iter(count=500):
            kind = await self.bounded(cast(Awaitable[bytes], self._redis.execute_command("TYPE", key)))  # type: ignore[no-untyped-call]
            command, *bounds = read.get(kind, ("DUMP",))
            held = await self.bounded(cast(Awaitable[Any], self._redis.execute_command(command, key, *bounds)))  # type: ignore[no-untyped-call]
            yield b" ".join([key, *_flat(held)])

    async def delete_from_hash(self, name: str, key: str) -> bool:
        """Whether there was such a key. Raises: StoreError."""
        return bool(await self.bounded(cast(Awaitable[int], self._redis.hdel(name, key))))

    async def bounded(self, command: Awaitable[_T]) -> _T:
        """The command's result. Raises: StoreError for every fault, a late answer included."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._timeout_s):  # no task of its own, unlike wait_for
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(type(error).__name__) from None

    async def aclose(self) -> None:
        await self._redis.aclose()  # type: ignore[attr-defined]  # newer than the stubs


def _flat(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set)):
        return [part for item in value for part in _flat(item)]
    return [value if isinstance(value, bytes) else str(value).encode()]


class RedisScript:
    """A Lua script, run atomically by Redis."""

    def __init__(self, store: RedisStore, script: AsyncScript) -> None:
        self._store = store
        self._script = script

    async def run(self, keys: Sequence[str], args: Sequence[str | int | float]) -> list[Any]:
        """Raises: StoreError."""
        return cast(list[Any], await self._store.bounded(self._script(keys=list(keys), args=list(args))))
