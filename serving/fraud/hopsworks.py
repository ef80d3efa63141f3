"""The same feature store over Hopsworks: packed records as rows of one online feature group, through its SDK.

The SDK (`pip install hopsworks[python]`) cannot share an environment with MLflow of today (pandas), so it is not in our lock files: this is
proven on a double of its calls that behaves as version 5.2 does (tables in, missing keys, late ingestion), and the real SDK takes the same
calls (a test with CALLGATE_HOPSWORKS_PYTHON); it never ran on a Hopsworks cluster.
What differs from Redis: an append is a read and a write, and a write is seen by readers only after Hopsworks has ingested it. So
this store overlays what it wrote lately itself, and each entity needs one writer (partition by customer), or use Redis. The feature
group has a primary key `name` (string) and a feature `record` (text; records in hexadecimal). Blocking calls run in threads.
The only file that knows Hopsworks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from weakref import WeakValueDictionary

from serving.fraud.history import EVENT, KEPT_EVENTS, tidy
from serving.fraud.settings import HopsworksGroup
from serving.fraud.store import Entity, Observation, StoreUnavailable

_OVERLAID = 20_000  # rows written last; ingestion that is further behind than these is not seen through
_WRITE_OPTIONS = {"start_offline_materialization": False}


class FeatureView(Protocol):
    """`hsfs.feature_view.FeatureView`, as far as it is needed. The keys go by position: their name has changed with version 5."""

    def get_feature_vectors(
        self, keys: list[dict[str, Any]], /, *, return_type: str, allow_missing: bool
    ) -> list[list[Any]]: ...


class FeatureGroup(Protocol):
    """`hsfs.feature_group.FeatureGroup`, as far as it is needed; `storage="online"` writes to the online store only. features: a
    pandas table, since a list of dicts is refused."""

    def insert(self, features: Any, *, storage: str, write_options: dict[str, Any]) -> object: ...


@asynccontextmanager
async def open_hopsworks(settings: HopsworksGroup) -> AsyncIterator[HopsworksStore]:
    """A store on the feature group and view that the settings name. The SDK reads its host, project and key from its own environment
    variables (HOPSWORKS_HOST, HOPSWORKS_PROJECT, HOPSWORKS_API_KEY).

    Raises:
        ValueError: the SDK is not installed, or it could not be opened.
    """

    def connect() -> HopsworksStore:
        try:
            import hopsworks
        except ImportError:
            raise ValueError("hopsworks is not installed: pip install 'hopsworks[python]'") from None
        try:
            features = hopsworks.login().get_feature_store()
            view = features.get_feature_view(settings.feature_view, settings.version)
            group = features.get_feature_group(settings.feature_group, settings.version)
        except Exception as error:
            raise ValueError(f"Hopsworks could not be opened: {type(error).__name__}") from error
        if view is None or group is None:
            raise ValueError(f"Hopsworks has no feature group or view of version {settings.version} by that name")
        return HopsworksStore(view, group)

    yield await asyncio.to_thread(connect)


class HopsworksStore:
    """A FeatureStore on one feature group and a view of it."""

    def __init__(self, view: FeatureView, group: FeatureGroup) -> None:
        from pandas import DataFrame  # takes a second: not in the first write

        self._view, self._group, self._table = view, group, DataFrame
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._written: dict[str, bytes] = {}

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
        keys = [{"name": name} for name in names]
        try:
            rows = await asyncio.to_thread(self._view.get_feature_vectors, keys, return_type="list", allow_missing=True)
        except Exception as error:
            raise StoreUnavailable(type(error).__name__) from error
        stored = [bytes.fromhex(row[-1]) if row and row[-1] else b"" for row in rows]
        return [self._overlay(name, record) for name, record in zip(names, stored, strict=True)]

    def _overlay(self, name: str, stored: bytes) -> bytes:
        """A row as it will be once all that was written here is ingested."""
        own = self._written.get(name, b"")
        if not own or own == stored:
            return stored
        return _bounded(tidy(stored + own)) if name[0] in "ct" else own

    async def _write(self, rows: dict[str, bytes]) -> None:
        if not rows:
            return
        table = self._table({"name": list(rows), "record": [record.hex() for record in rows.values()]})
        try:
            await asyncio.to_thread(self._group.insert, table, storage="online", write_options=dict(_WRITE_OPTIONS))
        except Exception as error:
            raise StoreUnavailable(type(error).__name__) from error
        for name, record in rows.items():
            self._written.pop(name, None)
            self._written[name] = record
        while len(self._written) > _OVERLAID:
            del self._written[next(iter(self._written))]


def _name(entity: Entity) -> str:
    return f"{entity[0][0]}:{entity[1]}"


def _bounded(record: bytes) -> bytes:
    return record if len(record) <= KEPT_EVENTS * EVENT.size else tidy(record)[-KEPT_EVENTS * EVENT.size :]
