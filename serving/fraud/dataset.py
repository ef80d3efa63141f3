"""A history of transactions as columns, and how to read one from parquet files.

Columns as in the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, 2022): TRANSACTION_ID, TX_DATETIME,
CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD. Scenario columns are never read: they are labels. Knows nothing of
features or models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.fraud.columns import Column
from serving.fraud.history import DAY_S

COLUMNS = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")


class InvalidData(Exception):
    """The folder holds no usable history; the message says why and what would be right."""


@dataclass(frozen=True, slots=True)
class Transactions:
    """Columns of shape (rows,), sorted by time; `fraud` is 0 or 1 as known in the end."""

    transaction: Column
    customer: Column
    terminal: Column
    at_s: Column
    cents: Column
    fraud: Column

    @property
    def day(self) -> Column:
        """Days since 1970-01-01 UTC."""
        return self.at_s // DAY_S

    def digest(self) -> str:
        """SHA-256 of every value, independent of how the files were cut."""
        whole = hashlib.sha256()
        for name in self.__slots__:
            whole.update(np.ascontiguousarray(getattr(self, name), dtype="<i8").tobytes())
        return whole.hexdigest()


def from_columns(
    transaction: Column, customer: Column, terminal: Column, at_s: Column, cents: Column, fraud: Column
) -> Transactions:
    """The history sorted by time, then transaction."""
    order = np.lexsort((transaction, at_s))
    columns = (column.astype(np.int64)[order] for column in (transaction, customer, terminal, at_s, cents, fraud))
    return Transactions(*columns)


def read_folder(folder: Path, pattern: str = "fraud_tx_*.parquet") -> Transactions:
    """All matching files of a folder, as one history.

    Raises:
        InvalidData: no file, a column missing, or amounts that are not whole cents.
    """
    try:
        from pyarrow import concat_tables
        from pyarrow.parquet import read_table
    except ImportError:
        raise InvalidData("reading parquet needs pyarrow: pip install pyarrow") from None
    files = sorted(folder.glob(pattern))
    if not files:
        raise InvalidData(f"no {pattern} in {folder}")
    try:
        table = concat_tables([read_table(file, columns=list(COLUMNS)) for file in files])
        missing = [name for name in COLUMNS if name not in table.column_names]
    except (OSError, ValueError) as error:
        raise InvalidData(f"{folder}: {type(error).__name__} while reading the files") from error
    if missing:
        raise InvalidData(f"{folder}: no column {', '.join(missing)}")
    column = {name: table[name].to_numpy() for name in COLUMNS}
    cents = column["TX_AMOUNT"] * 100
    if not np.isfinite(cents).all() or np.abs(cents - np.rint(cents)).max(initial=0) > 1e-6 or cents.min(initial=0) < 0:
        raise InvalidData(f"{folder}: TX_AMOUNT must be whole cents, not negative")
    return from_columns(
        column["TRANSACTION_ID"],
        column["CUSTOMER_ID"],
        column["TERMINAL_ID"],
        column["TX_DATETIME"].astype("datetime64[s]").astype(np.int64),
        np.rint(cents),
        column["TX_FRAUD"],
    )
