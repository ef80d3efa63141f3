"""The feature store: the histories of customers and terminals, and decisions by transaction, in Redis.

One round trip a score: five commands in one pipeline, each on one key, so any Redis Cluster may spread them. APPEND is
atomic, so concurrent writers lose nothing; what is appended twice or late is put right by the reader (`history`). Only
housekeeping (label, trim) needs a script, on one key and off the path. Knows nothing of features or of the model.
What Redis commands mean is here; how they travel is `wire`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from serving.fraud.history import EVENT, KEPT_EVENTS
from serving.fraud.settings import FraudSettings
from serving.fraud.wire import Command, Commands, ThroughClient, Wire, WireLost

RISK_TTL_S = 86_400
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

    async def note(self, risks: Sequence[tuple[str, bytes, bool]]) -> None:
        """Keeps (subject, value, whether it replaces a value that is there) for a day."""

    async def risk(self, subject: str) -> bytes | None:
        """The value noted for a subject within the last day."""

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        """Sets the label of one event of an entity. False if the event is no longer there."""

    async def trim(self, entities: Iterable[Entity]) -> None:
        """Bounds histories to the latest events and renews how long they are kept."""

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        """Puts histories before what is there already: a backfill."""


class Exportable(Protocol):
    """A store that can be taken out whole."""

    def export(self) -> AsyncIterator[list[tuple[str, str, bytes]]]:
        """(kind, name, value), some at a time; kind: c customer, t terminal, d decision, r risk. Raises: StoreUnavailable."""


# All scripts touch KEYS[1] only. Events are 20 bytes: time, cents, label (u32), transaction (u64).
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


_LOAD = """
redis.call('SET', KEYS[1], ARGV[1] .. (redis.call('GET', KEYS[1]) or ''), 'EX', ARGV[2])
return 1
"""


class RedisStore:
    """The store over anything that runs commands: a `Wire`, or a redis-py client in `ThroughClient`."""

    def __init__(self, commands: Commands, prefix: str = "fraud:", ttl_s: int = 60 * 86_400) -> None:
        self._commands = commands
        self._prefix = prefix
        self._ttl_s = ttl_s

    def _key(self, entity: Entity) -> str:
        return f"{self._prefix}{entity[0][0]}:{entity[1]}"

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        customer, terminal = self._key(("customer", customer_id)), self._key(("terminal", terminal_id))
        filed, customer_record, _, terminal_record, _ = await self._run(
            (
                ("GET", f"{self._prefix}d:{transaction_id}"),
                ("GET", customer),
                ("APPEND", customer, event),
                ("GET", terminal),
                ("APPEND", terminal, event),
            )
        )
        return Observation(customer_record or b"", terminal_record or b"", filed)

    async def file(self, decisions: Sequence[tuple[str, bytes]]) -> None:
        if decisions:
            await self._run(
                [("SET", f"{self._prefix}d:{name}", decision, "EX", self._ttl_s, "NX") for name, decision in decisions]
            )

    async def recall(self, transaction_id: str) -> bytes | None:
        filed: bytes | None = (await self._run((("GET", f"{self._prefix}d:{transaction_id}"),)))[0]
        return filed

    async def note(self, risks: Sequence[tuple[str, bytes, bool]]) -> None:
        if risks:
            await self._run(
                [
                    ("SET", f"{self._prefix}r:{subject}", value, "EX", RISK_TTL_S, *(() if replaces else ("NX",)))
                    for subject, value, replaces in risks
                ]
            )

    async def risk(self, subject: str) -> bytes | None:
        noted: bytes | None = (await self._run((("GET", f"{self._prefix}r:{subject}"),)))[0]
        return noted

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        arguments = digest.to_bytes(8, "little"), label.to_bytes(4, "little")
        return bool((await self._run((("EVAL", _MARK, 1, self._key(entity), *arguments),)))[0])

    async def trim(self, entities: Iterable[Entity]) -> None:
        keep = KEPT_EVENTS * EVENT.size
        scripts: list[Command] = [("EVAL", _TRIM, 1, self._key(entity), keep, self._ttl_s) for entity in entities]
        if scripts:
            await self._run(scripts)

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        if records:
            await self._run([("EVAL", _LOAD, 1, self._key(entity), record, self._ttl_s) for entity, record in records])

    async def export(self) -> AsyncIterator[list[tuple[str, str, bytes]]]:
        start = len(self._prefix)
        try:
            async for keys in self._commands.keys(f"{self._prefix}[cdrt]:*"):
                values = await self._run([("GET", key) for key in keys]) if keys else []
                names = [key.decode()[start:].partition(":") for key in keys]
                yield [(kind, name, value) for (kind, _, name), value in zip(names, values, strict=True) if value]
        except WireLost as error:
            raise StoreUnavailable(str(error)) from error

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._commands.run(commands)
        except WireLost as error:
            raise StoreUnavailable(str(error)) from error


@asynccontextmanager
async def open_redis(url: str, settings: FraudSettings) -> AsyncIterator[RedisStore]:
    """A store over a connection of its own, closed at the end. A URL ending in `?cluster=1` names a node of a cluster."""
    commands = _through_cluster(url) if url.endswith("?cluster=1") else _wire(url)
    client, commands = commands if isinstance(commands, tuple) else (None, commands)
    try:
        yield RedisStore(commands, settings.key_prefix, settings.record_ttl_days * 86_400)
    finally:
        await commands.aclose()
        if client is not None:
            await client.aclose()


def _through_cluster(url: str) -> tuple[Any, Commands]:
    from redis.asyncio import RedisCluster

    client: Any = RedisCluster.from_url(url.removesuffix("?cluster=1"))
    return client, ThroughClient(client)


def _wire(url: str) -> Commands:
    from redis.asyncio.connection import parse_url

    found: dict[str, Any] = dict(parse_url(url))
    tls = ssl.create_default_context() if url.startswith("rediss:") else None
    hello: list[Command] = []
    if found.get("password"):
        hello.append(("AUTH", *([found["username"]] if found.get("username") else []), found["password"]))
    if found.get("db"):
        hello.append(("SELECT", found["db"]))
    return Wire(found.get("host", "127.0.0.1"), found.get("port", 6379), found.get("path", ""), tls, hello)
