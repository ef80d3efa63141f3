"""The feature store as one file, and back: histories, decisions by transaction, and the risks of the last day.

Taken while the service runs, it is no single moment; what is restored is put before what is there, and readers count an event once, so a
snapshot and the decision log since (`callgate fraud backfill --log`) make the store whole. A file that is not whole is refused before anything
is written. It holds payments by pseudonym: readable by its owner only. Knows stores only by their interface.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from serving.fraud.history import DAY_S
from serving.fraud.journal import frame_of, read_segment
from serving.fraud.store import Entity, Exportable, FeatureStore

_AT_ONCE = 500
_KINDS: dict[str, Literal["customer", "terminal"]] = {"c": "customer", "t": "terminal"}
_encode = msgspec.msgpack.Encoder().encode
Progress = Callable[[int, int], None]
"""Called with records done and records in all (0: not known yet)."""


class InvalidSnapshot(ValueError):
    """The file is none, or not whole."""


class _Head(msgspec.Struct, frozen=True, tag="fraud-snapshot", kw_only=True):
    format: int = 1
    at_s: float


class _Item(msgspec.Struct, frozen=True, tag="item", array_like=True):
    kind: str  # c customer, t terminal, d decision, r risk
    name: str
    value: bytes


class _End(msgspec.Struct, frozen=True, tag="end", kw_only=True):
    items: int


_HEAD = msgspec.msgpack.Decoder(_Head)
_ITEM = msgspec.msgpack.Decoder(_Item)
_END = msgspec.msgpack.Decoder(_End)


async def snapshot(store: Exportable, file: Path, now_s: float, progress: Progress) -> int:
    """Writes the file in one step when all is in it; how many records. Raises: StoreUnavailable, OSError."""
    part, items = file.with_name(f".{file.name}.{os.getpid()}"), 0
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(frame_of(_encode(_Head(at_s=now_s))))
            async for some in store.export():
                for kind, name, value in some:
                    out.write(frame_of(_encode(_Item(kind, name, value))))
                items += len(some)
                progress(items, 0)
            out.write(frame_of(_encode(_End(items=items))))
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return items


async def restore(file: Path, store: FeatureStore, now_s: float, progress: Progress) -> int:
    """Puts a snapshot before what the store has; how many records. Twice is harmless.

    Raises:
        InvalidSnapshot: nothing was written.
        StoreUnavailable: a part may have been written; do it again.
    """
    head, items = _checked(file)
    young = now_s - head.at_s < DAY_S
    waiting, done = _items(file), 0
    while some := list(islice(waiting, _AT_ONCE)):
        records: list[tuple[Entity, bytes]] = [((_KINDS[one.kind], one.name), one.value) for one in some if one.kind in _KINDS]  # fmt: skip
        await store.load(records)
        await store.trim(entity for entity, _ in records)
        await store.file([(one.name, one.value) for one in some if one.kind == "d"])
        await store.note([(one.name, one.value, False) for one in some if one.kind == "r" and young])
        done += len(some)
        progress(done, items)
    return items


def _checked(file: Path) -> tuple[_Head, int]:
    """Reads the file through once. Raises: InvalidSnapshot."""
    try:
        entries = read_segment(file)
        head, count, last = _HEAD.decode(next(entries, b"")), -1, b""
        for entry in entries:
            count, last = count + 1, entry
        end = _END.decode(last)
    except msgspec.DecodeError:
        raise InvalidSnapshot(f"{file} is no snapshot of a fraud store, or its end is missing") from None
    if end.items != count:
        raise InvalidSnapshot(f"{file} holds {count} records and should hold {end.items}")
    return head, count


def _items(file: Path) -> Iterator[_Item]:
    entries = read_segment(file)
    next(entries)
    for data in entries:
        try:
            yield _ITEM.decode(data)
        except msgspec.ValidationError:  # the end, which `_checked` has seen to be the last
            return
