"""The payments of a decision log as a history to train on, alone or after an older one.

A payment that nobody reported as fraud by the time its label counts is taken for genuine; younger ones are left out. Knows nothing of
features or models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.fraud.dataset import InvalidData, Transactions, from_columns
from serving.fraud.entries import Decided, Labelled, decode_entry
from serving.fraud.history import LABEL_DELAY_S, digest_of
from serving.fraud.journal import read_journal


def with_log(history: Transactions | None, log: Path) -> Transactions:
    """The history (its ids as `callgate fraud backfill` writes them) and what was decided since, each payment once.

    Raises:
        InvalidData: there is no payment whose label counts.
    """
    seen: dict[str, Decided] = {}
    frauds: dict[str, bool] = {}
    for data in read_journal(log):
        entry = decode_entry(data)
        if isinstance(entry, Decided):
            seen.setdefault(entry.filed.transaction.transaction_id, entry)
        elif isinstance(entry, Labelled):
            frauds[entry.label.transaction_id] = entry.label.fraud
    older = set(history.transaction.astype(str).tolist()) if history is not None else set()
    end_s = max((one.filed.transaction.at_s for one in seen.values()), default=0) - LABEL_DELAY_S
    new = [one for name, one in seen.items() if name not in older and one.filed.transaction.at_s < end_s]
    names = [one.filed.transaction.transaction_id for one in new]
    columns = (
        _ids(history.transaction if history else None, names),
        _names(history.customer if history else None, [one.filed.transaction.customer_id for one in new]),
        _names(history.terminal if history else None, [one.filed.transaction.terminal_id for one in new]),
        _joined(history.at_s if history else None, [one.filed.transaction.at_s for one in new]),
        _joined(history.cents if history else None, [one.cents for one in new]),
        _joined(history.fraud if history else None, [int(frauds.get(name, False)) for name in names]),
    )
    if not len(columns[0]):
        raise InvalidData(f"{log}: no payment is old enough for its label to count")
    return from_columns(*columns)


def _joined(older: NDArray[np.int64] | None, new: list[int]) -> NDArray[np.int64]:
    column = np.array(new, dtype=np.int64)
    return column if older is None else np.concatenate([older, column])


def _ids(older: NDArray[np.int64] | None, new: list[str]) -> NDArray[np.int64]:
    before = older.astype(str).tolist() if older is not None else []
    return np.array([digest_of(name) >> 1 for name in (*before, *new)], dtype=np.int64)


def _names(older: NDArray[np.int64] | None, new: list[str]) -> NDArray[np.int64]:
    """Whole numbers for names, in the order of the names."""
    before = older.astype(str) if older is not None else np.array([], dtype=str)
    found: NDArray[np.int64] = np.unique(np.concatenate([before, np.array(new, dtype=str)]), return_inverse=True)[1]
    return found
