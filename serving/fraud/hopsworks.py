"""The same feature store over Hopsworks: packed records as rows of two online feature groups.

Over objects of its SDK that the operator opened (`project.get_feature_store().get_feature_group(...)` and `.get_feature_view(...)`): the SDK is
heavy and is not installed here, so this is proven on a double of those two calls, not on a Hopsworks cluster. What differs from Redis:
an append is a read and a write, so two writers of one entity may lose an event to each other; give each entity one writer
(partition by customer), or use Redis. Blocking calls run in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from serving.fraud.history import EVENT, KEPT_EVENTS, tidy
from serving.fraud.store import Entity, Observation, StoreUnavailable


class FeatureView(Protocol):
    """`hsfs.feature_view.FeatureView`, as far as it is needed."""

    def get_feature_vectors(self, entry: list[dict[str, Any]], return_type: str) -> list[list[Any]]: ...


class FeatureGroup(Protocol):
    """`hsfs.feature_group.FeatureGroup`, as far as it is needed; `storage="online"` writes to the online store only."""

    def insert(self, features: list[dict[str, Any]], storage: str) -> object: ...


class HopsworksStore:
    """A FeatureStore on one feature group with primary key `name` and one feature `record` (both strings; records in hexadecimal)."""

    def __init__(self, view: FeatureView, group: FeatureGroup) -> None:
        self._view, self._group = view, group
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        names = [f"d:{transaction_id}", f"c:{customer_id}", f"t:{terminal_id}"]
        async with self._lock(names[1]), self._lock(names[2]):
            filed, customer, terminal = await self._read(names)
            if event:
                await self._write({names[1]: _bounded(customer + event), names[2]: _bounded(terminal + event)})
        return Observation(customer, terminal, filed or None)

    async def file(self, decisions: Sequence[tuple[str, bytes]]) -> None:
        names = [f"d:{name}" for name, _ in decisions]
        there = await self._read(names)
        await self._write({n: d for n, (_, d), old in zip(names, decisions, there, strict=True) if not old})

    async def recall(self, transaction_id: str) -> bytes | None:
        return (await self._read([f"d:{transaction_id}"]))[0] or None

    async def note(self, risks: Sequence[tuple[str, bytes, bool]]) -> None:
        there = await self._read([f"r:{subject}" for subject, *_ in risks])
        wanted: dict[str, bytes] = {}
        for (subject, value, replaces), old in zip(risks, there, strict=True):
            if replaces or not (old or f"r:{subject}" in wanted):
                wanted[f"r:{subject}"] = value
        await self._write(wanted)

    async def risk(self, subject: str) -> bytes | None:
        return (await self._read([f"r:{subject}"]))[0] or None

    async def mark(self, entity: Entity, digest: int, label: int) -> bool:
        name, found, events = _name(entity), False, b""
        async with self._lock(name):
            for at_s, cents, before, one in EVENT.iter_unpack((await self._read([name]))[0]):
                events += EVENT.pack(at_s, cents, label if one == digest else before, one)
                found = found or one == digest
            if found:
                await self._write({name: events})
        return found

    async def trim(self, entities: Iterable[Entity]) -> None:
        """Nothing to do: records are bounded as they are written; how long they live is the feature group's."""

    async def load(self, records: Sequence[tuple[Entity, bytes]]) -> None:
        for entity, record in records:
            async with self._lock(_name(entity)):
                await self._write({_name(entity): _bounded(record + (await self._read([_name(entity)]))[0])})

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _read(self, names: list[str]) -> list[bytes]:
        if not names:
            return []
        try:
            entries = [{"name": name} for name in names]
            rows = await asyncio.to_thread(self._view.get_feature_vectors, entry=entries, return_type="list")
        except Exception as error:
            raise StoreUnavailable(type(error).__name__) from error
        return [bytes.fromhex(row[-1]) if row and row[-1] else b"" for row in rows]

    async def _write(self, rows: dict[str, bytes]) -> None:
        if not rows:
            return
        try:
            features = [{"name": name, "record": record.hex()} for name, record in rows.items()]
            await asyncio.to_thread(self._group.insert, features=features, storage="online")
        except Exception as error:
            raise StoreUnavailable(type(error).__name__) from error


def _name(entity: Entity) -> str:
    return f"{entity[0][0]}:{entity[1]}"


def _bounded(record: bytes) -> bytes:
    return record if len(record) <= KEPT_EVENTS * EVENT.size else tidy(record)[-KEPT_EVENTS * EVENT.size :]
