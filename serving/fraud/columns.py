"""The window sums of `history`, for every row of a table at once.

The same integers to the last bit, by prefix sums and binary search instead of walking records: training computes here
what serving computes there. Knows nothing of features, files or Redis.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.fraud.history import (
    DAY_S,
    FRAUD,
    HORIZON_S,
    LABEL_DELAY_S,
    LARGEST_HISTORY,
    NO_LIMIT,
    SPREE_S,
    SURPRISING_DENOMINATOR,
    SURPRISING_NUMERATOR,
    UNEXPLAINED_FRAUD,
    Aggregates,
    Spending,
)

Column = NDArray[np.int64]


def aggregate_columns(entity: Column, at_s: Column, cents: Column, codes: Column) -> Aggregates:
    """Aggregates of each row's entity just before that row, in the order of the rows given.

    entity: any integers, equal for the same entity. codes: the label codes of `history`, as known when the row turns
    seven days old. All four of shape (rows,).
    """
    order = np.lexsort((at_s, entity))
    sums = _Sums(entity[order], at_s[order], cents[order], codes[order])
    return _restore(sums.aggregates(), order)


def aggregate_customer_columns(
    customer: Column, at_s: Column, cents: Column, codes: Column
) -> tuple[Aggregates, Spending]:
    """Aggregates as above, and how each row's customer spent lately."""
    order = np.lexsort((at_s, customer))
    sums = _Sums(customer[order], at_s[order], cents[order], codes[order])
    found = sums.aggregates()
    return _restore(found, order), _restore(sums.spending(found, cents[order]), order)


_Sorted = TypeVar("_Sorted", Aggregates, Spending)


def _restore(found: _Sorted, order: Column) -> _Sorted:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return type(found)(**{name: getattr(found, name)[inverse] for name in type(found).__struct_fields__})


def _prefix(values: Column | NDArray[np.bool_]) -> Column:
    """Sums of all before each position. May wrap around 2^64; differences over a window are exact all the same."""
    return np.concatenate(([0], np.cumsum(values, dtype=np.int64)))


class _Sums:
    """Rows sorted by entity and time, with the bounds of each row's windows as positions."""

    def __init__(self, entity: Column, at_s: Column, cents: Column, codes: Column) -> None:
        self.at_s, self.codes = at_s, codes
        dense = np.cumsum(np.concatenate(([0], entity[1:] != entity[:-1])))
        relative = at_s - at_s.min() + 2 * HORIZON_S
        self.span = int(relative.max()) + 1
        self.base, self.relative = dense * self.span, relative
        self.key = self.base + relative
        self.end = np.searchsorted(self.key, self.key, "left")
        entity_start = np.searchsorted(self.key, self.base, "left")
        self.floor = np.maximum(entity_start, self.end - LARGEST_HISTORY)
        self.cents, self.squares = _prefix(cents), _prefix(cents * cents)
        fraud = codes >= FRAUD
        self.fraud, self.odd = _prefix(fraud), _prefix(codes == UNEXPLAINED_FRAUD)
        self.fraud_cents, self.fraud_squares = _prefix(cents * fraud), _prefix(cents * cents * fraud)

    def since(self, age_s: int) -> Column:
        """Position of the first event at most `age_s` old."""
        position: Column = np.maximum(np.searchsorted(self.key, self.key - age_s, "left"), self.floor)
        return position

    def aggregates(self) -> Aggregates:
        end = self.end
        from_1, from_7, from_30, horizon = (self.since(days * DAY_S) for days in (1, 7, 30, 37))
        known = np.maximum(np.searchsorted(self.key, self.key - LABEL_DELAY_S, "right"), horizon)
        known_1, known_7 = (np.maximum(self.since(LABEL_DELAY_S + days * DAY_S), horizon) for days in (1, 7))
        any_known = known > horizon
        last = np.maximum(known - 1, 0)
        fraud_run, genuine_run = self._runs()
        label = np.where(self.codes[last] >= FRAUD, self.codes[last] - 1, 0)
        first_fraud, last_fraud = self._ages(self.codes >= FRAUD, horizon, known)
        first_odd, last_odd = self._ages(self.codes == UNEXPLAINED_FRAUD, horizon, known)
        return Aggregates(
            count_1=end - from_1,
            count_7=end - from_7,
            count_30=end - from_30,
            cents_1=self.cents[end] - self.cents[from_1],
            cents_7=self.cents[end] - self.cents[from_7],
            cents_30=self.cents[end] - self.cents[from_30],
            squares_30=self.squares[end] - self.squares[from_30],
            clean_count=end - horizon - (self.fraud[known] - self.fraud[horizon]),
            clean_cents=self.cents[end] - self.cents[horizon] - (self.fraud_cents[known] - self.fraud_cents[horizon]),
            clean_squares=self.squares[end]
            - self.squares[horizon]
            - (self.fraud_squares[known] - self.fraud_squares[horizon]),
            delayed_1=known - known_1,
            delayed_7=known - known_7,
            delayed_30=known - horizon,
            fraud_1=self.fraud[known] - self.fraud[known_1],
            fraud_7=self.fraud[known] - self.fraud[known_7],
            fraud_30=self.fraud[known] - self.fraud[horizon],
            unexplained_1=self.odd[known] - self.odd[known_1],
            unexplained_7=self.odd[known] - self.odd[known_7],
            unexplained_30=self.odd[known] - self.odd[horizon],
            last_label=np.where(any_known, label, -1),
            fraud_run=np.where(any_known, np.minimum(fraud_run[last], known - horizon), 0),
            genuine_run=np.where(any_known, np.minimum(genuine_run[last], known - horizon), 0),
            last_age=np.where(end > self.floor, self.at_s - self.at_s[np.maximum(end - 1, 0)], -1),
            first_fraud_age=first_fraud,
            last_fraud_age=last_fraud,
            first_unexplained_age=first_odd,
            last_unexplained_age=last_odd,
        )

    def spending(self, sums: Aggregates, cents: Column) -> Spending:
        """By stepping back one event of every row at a time: surprise depends on the row, so no prefix sum can hold it."""
        rows, horizon, spree = len(cents), self.since(HORIZON_S), self.since(SPREE_S)
        above, below = SURPRISING_NUMERATOR * sums.clean_cents, SURPRISING_DENOMINATOR * sums.clean_count
        limit = np.where(below > 0, np.maximum(1, -(-above // np.maximum(below, 1))), NO_LIMIT)
        found = {name: np.zeros(rows, dtype=np.int64) for name in Spending.__struct_fields__}
        found["count_14"] = self.end - spree
        active, back = np.flatnonzero(self.end > horizon), 1
        while len(active):
            at = self.end[active] - back
            amount, age = cents[at], self.at_s[active] - self.at_s[at]
            odd, lately = amount >= limit[active], age <= SPREE_S
            for days in (1, 3, 7, 14):
                found[f"odd_{days}"][active] += odd & (age <= days * DAY_S)
            found["largest_14"][active] = np.maximum(found["largest_14"][active], amount * lately)
            plain = amount * ~odd
            found["plain_count"][active] += ~odd
            found["plain_cents"][active] += plain
            found["plain_squares"][active] += plain * plain
            back += 1
            active = active[self.end[active] - back >= horizon[active]]
        return Spending(**found)

    def _runs(self) -> tuple[Column, Column]:
        """Length of the run of frauds, and of genuine events, that ends at each position (over entity borders: the caller cuts)."""
        position = np.arange(len(self.codes))
        fraud = self.codes >= FRAUD
        last_genuine = np.maximum.accumulate(np.where(fraud, -1, position))
        last_fraud = np.maximum.accumulate(np.where(fraud, position, -1))
        return position - last_genuine, position - last_fraud

    def _ages(self, marked: NDArray[np.bool_], start: Column, end: Column) -> tuple[Column, Column]:
        """Seconds since the first and the last marked event within [start, end), -1 where there is none."""
        rows = len(marked)
        position = np.arange(rows)
        following = np.minimum.accumulate(np.where(marked, position, rows)[::-1])[::-1]
        preceding = np.maximum.accumulate(np.where(marked, position, -1))
        first = following[np.minimum(start, rows - 1)]
        last = preceding[np.maximum(end - 1, 0)]
        found = (end > start) & (first < end)
        return (
            np.where(found, self.at_s - self.at_s[np.minimum(first, rows - 1)], -1),
            np.where(found, self.at_s - self.at_s[np.maximum(last, 0)], -1),
        )
