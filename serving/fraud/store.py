"""The feature store: the histories of customers and terminals, and decisions by transaction, in Redis.

One round trip a score: five commands in one pipeline, each on one key, so any Redis Cluster may spread them. APPEND is
atomic, so concurrent writers lose nothing; what is appended twice or late is put right by the reader (`history`). Only
housekeeping (label, trim) needs a script, on one key and off the path. Knows nothing of features or of the model.
The only file that knows Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from serving.fraud.history import EVENT, KEPT_EVENTS
from serving.fraud.settings import FraudSettings

Entity = tuple[Literal["customer", "terminal"], str]


class StoreUnavailable(Exception):
    """The feature store did not answer, or not in time."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the store knew just before an event: two packed histories, and the filed decision if there is one."""

    customer: bytes
    terminal: bytes
    filed: bytes | None


class FeatureStore(Protocol):
    """Every method raises StoreUnavailable when the store cannot be reached."""

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        """Reads both histories and the filed decision, and appends the event to both, in one round trip."""

    async def file(self, decisions: Sequence[tuple[str, bytes]]) -> None:
        """Keeps decisions by transaction id; the first one filed stays."""

    async def recall(self, transaction_id: str) -> bytes | None:
        """The filed decision."""

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        """Sets the label of one event of an entity. False if the event is no longer there."""

    async def trim(self, entities: Iterable[Entity]) -> None:
        """Bounds histories to the latest events and renews how long they are kept."""

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        """Replaces whole histories: a backfill."""


# Both scripts touch KEYS[1] only. Events are 20 bytes: time, cents, label (u32), transaction (u64).
_MARK = """
local record = redis.call('GET', KEYS[1])
if not record then return 0 end
local found = 0
for at = 1, #record - 19, 20 do
  if string.sub(record, at + 12, at + 19) == ARGV[1] then
    redis.call('SETRANGE', KEYS[1], at + 7, ARGV[2])
    found = 1
  end
end
return found
"""
_TRIM = """
local length = redis.call('STRLEN', KEYS[1])
local keep = tonumber(ARGV[1])
if length > keep then
  redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], length - keep, -1))
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return length
"""


class RedisStore:
    """The store over a `redis.asyncio` client (single server or cluster) that the caller opened and will close.

    The client must not decode responses: records are bytes.
    """

    def __init__(self, client: Any, prefix: str = "fraud:", ttl_s: int = 60 * 86_400) -> None:
        self._client = client
        self._prefix = prefix
        self._ttl_s = ttl_s

    def _key(self, entity: Entity) -> str:
        return f"{self._prefix}{entity[0][0]}:{entity[1]}"

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        customer, terminal = self._key(("customer", customer_id)), self._key(("terminal", terminal_id))
        async with _reached():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.get(f"{self._prefix}d:{transaction_id}")
            pipeline.get(customer).append(customer, event)
            pipeline.get(terminal).append(terminal, event)
            filed, customer_record, _, terminal_record, _ = await pipeline.execute()
        return Observation(customer_record or b"", terminal_record or b"", filed)

    async def file(self, decisions: Sequence[tuple[str, bytes]]) -> None:
        async with _reached():
            pipeline = self._client.pipeline(transaction=False)
            for transaction_id, decision in decisions:
                pipeline.set(f"{self._prefix}d:{transaction_id}", decision, ex=self._ttl_s, nx=True)
            await pipeline.execute()

    async def recall(self, transaction_id: str) -> bytes | None:
        async with _reached():
            filed: bytes | None = await self._client.get(f"{self._prefix}d:{transaction_id}")
            return filed

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        async with _reached():
            arguments = digest.to_bytes(8, "little"), label.to_bytes(4, "little")
            return bool(await self._client.eval(_MARK, 1, self._key(entity), *arguments))

    async def trim(self, entities: Iterable[Entity]) -> None:
        async with _reached():
            for entity in entities:
                await self._client.eval(_TRIM, 1, self._key(entity), KEPT_EVENTS * EVENT.size, self._ttl_s)

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        async with _reached():
            pipeline = self._client.pipeline(transaction=False)
            for entity, record in records:
                pipeline.set(self._key(entity), record, ex=self._ttl_s)
            await pipeline.execute()


@asynccontextmanager
async def open_redis(url: str, settings: FraudSettings) -> AsyncIterator[RedisStore]:
    """A store over a client of its own, closed at the end: for a service by itself."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url)
    try:
        yield RedisStore(client, settings.key_prefix, settings.record_ttl_days * 86_400)
    finally:
        await client.aclose()


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(type(error).__name__) from error
