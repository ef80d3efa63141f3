"""Fills a feature store with history: from a table, or again from a decision log. Doing it twice changes nothing.

What is loaded is put before what is there already, so a service may be running meanwhile; readers count an event once. Knows stores
only by their interface.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from serving.fraud.columns import Column
from serving.fraud.dataset import Transactions
from serving.fraud.entries import Decided, Labelled, decode_entry
from serving.fraud.features import table_features
from serving.fraud.history import (
    EVENT,
    FRAUD,
    GENUINE,
    KEPT_EVENTS,
    UNEXPLAINED_FRAUD,
    UNKNOWN,
    digest_of,
)
from serving.fraud.journal import read_journal
from serving.fraud.store import Entity, FeatureStore

_AT_ONCE = 500
_PACKED = np.dtype([("at_s", "<u4"), ("cents", "<u4"), ("code", "<u4"), ("digest", "<u8")])
Progress = Callable[[int, int], None]
"""Called with records done and records in all."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How many events and records (customers and terminals) went into the store."""

    events: int
    records: int


async def backfill(table: Transactions, store: FeatureStore, progress: Progress) -> Filled:
    """The latest events of every customer and terminal of a table, labels as they are known in the end."""
    features = table_features(table.customer, table.terminal, table.at_s, table.cents, table.fraud)
    codes = np.where(table.fraud == 0, GENUINE, np.where(features.surprising, FRAUD, UNEXPLAINED_FRAUD))
    events = np.empty(len(table.at_s), dtype=_PACKED)
    events["at_s"], events["cents"], events["code"] = table.at_s, table.cents, codes
    events["digest"] = [digest_of(str(one)) for one in table.transaction.tolist()]
    records = dict(_records("customer", table.customer, events))
    records |= _records("terminal", table.terminal, events)
    await _load(store, records, progress)
    return Filled(len(events), len(records))


def _records(
    kind: Literal["customer", "terminal"], entity: Column, events: np.ndarray[tuple[int], np.dtype[np.void]]
) -> Iterator[tuple[Entity, bytes]]:
    order = np.argsort(entity, kind="stable")  # a table is sorted by time
    names, first = np.unique(entity[order], return_index=True)
    packed = events[order]
    for name, start, end in zip(names.tolist(), first.tolist(), [*first.tolist()[1:], len(order)], strict=True):
        yield (kind, str(name)), packed[max(start, end - KEPT_EVENTS) : end].tobytes()


async def rebuild(log: Path, store: FeatureStore, progress: Progress) -> Filled:
    """Every event and label of a decision log, degraded decisions included: what Redis held may be lost, this is not."""
    seen: dict[str, tuple[Decided, int]] = {}
    labels: dict[str, bool] = {}
    for number, data in enumerate(read_journal(log)):
        entry = decode_entry(data)
        if isinstance(entry, Decided):
            seen.setdefault(entry.filed.transaction.transaction_id, (entry, number))
        elif isinstance(entry, Labelled):
            labels[entry.label.transaction_id] = entry.label.fraud
    events: defaultdict[Entity, list[tuple[int, int, bytes]]] = defaultdict(list)
    for name, (entry, number) in seen.items():
        transaction, fraud = entry.filed.transaction, labels.get(name)
        code = (
            UNKNOWN
            if fraud is None
            else GENUINE
            if not fraud
            else FRAUD
            if entry.filed.surprising
            else UNEXPLAINED_FRAUD
        )
        event = EVENT.pack(transaction.at_s, entry.cents, code, digest_of(name))
        events["customer", transaction.customer_id].append((transaction.at_s, number, event))
        events["terminal", transaction.terminal_id].append((transaction.at_s, number, event))
    records = {entity: b"".join(event for *_, event in sorted(some)[-KEPT_EVENTS:]) for entity, some in events.items()}
    await _load(store, records, progress)
    return Filled(len(seen), len(records))


async def _load(store: FeatureStore, records: dict[Entity, bytes], progress: Progress) -> None:
    waiting, done = iter(records.items()), 0
    while some := list(islice(waiting, _AT_ONCE)):
        await store.load(some)
        await store.trim(entity for entity, _ in some)
        done += len(some)
        progress(done, len(records))
