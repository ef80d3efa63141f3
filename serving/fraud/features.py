"""The features of a transaction: one definition for one event (serving) and for a table (training).

`derive` is written once over an `Arithmetic`: Python's own for a single event, numpy's for columns. Both round every
+ - * / and square root to the nearest double (IEEE 754), operands become doubles before the first division, and the
order of operations is the order of the lines below, so the two agree bit for bit; a test compares every bit.
Knows nothing of Redis, of files or of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.fraud.columns import Column, aggregate_columns, aggregate_customer_columns
from serving.fraud.history import (
    DAY_S,
    FRAUD,
    GENUINE,
    SURPRISING_DENOMINATOR,
    SURPRISING_NUMERATOR,
    UNEXPLAINED_FRAUD,
    Aggregates,
    Spending,
)

FEATURES_VERSION = 2
# An amount this many times the customer's clean mean explains a fraud without the terminal.
SURPRISING_RATIO = SURPRISING_NUMERATOR / SURPRISING_DENOMINATOR

Number = Any  # an int, a float, or a column of them: what makes one definition serve both


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The operations that Python and numpy spell differently. divide: NaN where the divisor is not positive."""

    real: Callable[[Number], Number]
    where: Callable[[Number, Number, Number], Number]
    root: Callable[[Number], Number]
    divide: Callable[[Number, Number], Number]


MISSING = math.nan


def _divide_columns(above: Number, below: Number) -> Number:
    known = below > 0.0
    return np.where(known, above / np.where(known, below, 1.0), MISSING)


ONE_EVENT = Arithmetic(
    real=float,
    where=lambda condition, then, other: then if condition else other,
    root=math.sqrt,
    divide=lambda above, below: above / below if below > 0.0 else MISSING,
)
COLUMNS = Arithmetic(
    real=lambda values: np.asarray(values).astype(np.float64),
    where=np.where,
    root=np.sqrt,
    divide=_divide_columns,
)


def derive(
    ops: Arithmetic, at_s: Number, cents: Number, customer: tuple[Aggregates, Spending], terminal: Aggregates
) -> dict[str, Number]:
    """Every feature by name, doubles; NaN where history is too short to say (a cold start is NaN, never a guess)."""
    amount = ops.real(cents)
    return {
        **_of_the_event(ops, at_s, amount),
        **_of_the_customer(ops, amount, customer[0]),
        **_of_the_spending(ops, amount, *customer),
        **_of_the_terminal(ops, amount, terminal),
    }


def is_surprising(features: dict[str, Number]) -> Number:
    """Whether the amount alone would explain a fraud. False where the customer is new: NaN compares false."""
    return features["customer_amount_ratio"] >= SURPRISING_RATIO


def _of_the_event(ops: Arithmetic, at_s: Number, amount: Number) -> dict[str, Number]:
    hour = at_s % DAY_S // 3_600
    weekday = (at_s // DAY_S + 3) % 7  # 1970-01-01 was a Thursday
    return {
        "amount": amount,
        "hour": ops.real(hour),
        "night": ops.where(hour <= 6, 1.0, 0.0),
        "weekend": ops.where(weekday >= 5, 1.0, 0.0),
    }


def _age_days(ops: Arithmetic, age_s: Number) -> Number:
    return ops.where(age_s >= 0, ops.real(age_s) / 86_400.0, MISSING)


def _spread(ops: Arithmetic, count: Number, mean: Number, squares: Number) -> Number:
    """Standard deviation, NaN below two events."""
    variance = ops.divide(squares, count) - mean * mean
    return ops.where(count > 1.0, ops.root(ops.where(variance > 0.0, variance, 0.0)), MISSING)


def _of_the_customer(ops: Arithmetic, amount: Number, past: Aggregates) -> dict[str, Number]:
    count_1, count_7, count_30 = ops.real(past.count_1), ops.real(past.count_7), ops.real(past.count_30)
    clean_count = ops.real(past.clean_count)
    clean_mean = ops.divide(ops.real(past.clean_cents), clean_count)
    clean_spread = _spread(ops, clean_count, clean_mean, ops.real(past.clean_squares))
    mean_1 = ops.divide(ops.real(past.cents_1), count_1)
    mean_7 = ops.divide(ops.real(past.cents_7), count_7)
    mean_30 = ops.divide(ops.real(past.cents_30), count_30)
    return {
        "customer_count_1": count_1,
        "customer_count_7": count_7,
        "customer_count_30": count_30,
        "customer_mean_1": mean_1,
        "customer_mean_7": mean_7,
        "customer_mean_30": mean_30,
        "customer_clean_mean": clean_mean,
        "customer_clean_spread": clean_spread,
        "customer_amount_ratio": ops.divide(amount, clean_mean),
        "customer_amount_z": ops.divide(amount - clean_mean, clean_spread),
        "customer_ratio_1": ops.divide(mean_1, clean_mean),
        "customer_ratio_7": ops.divide(mean_7, clean_mean),
        "customer_pace_1": ops.divide(count_1 * 30.0, count_30),
        "customer_pace_7": ops.divide(count_7 * 30.0, count_30 * 7.0),
        "customer_last_days": _age_days(ops, past.last_age),
        "customer_fraud_1": ops.real(past.fraud_1),
        "customer_fraud_7": ops.real(past.fraud_7),
        "customer_fraud_30": ops.real(past.fraud_30),
        "customer_risk_7": ops.divide(ops.real(past.fraud_7), ops.real(past.delayed_7)),
        "customer_risk_30": ops.divide(ops.real(past.fraud_30), ops.real(past.delayed_30)),
        "customer_genuine_run": ops.real(past.genuine_run),
        "customer_first_fraud_days": _age_days(ops, past.first_fraud_age),
        "customer_last_fraud_days": _age_days(ops, past.last_fraud_age),
    }


def _of_the_spending(ops: Arithmetic, amount: Number, past: Aggregates, lately: Spending) -> dict[str, Number]:
    clean_mean = ops.divide(ops.real(past.clean_cents), ops.real(past.clean_count))
    plain_count = ops.real(lately.plain_count)
    plain_mean = ops.divide(ops.real(lately.plain_cents), plain_count)
    plain_spread = _spread(ops, plain_count, plain_mean, ops.real(lately.plain_squares))
    odd_14 = ops.real(lately.odd_14)
    return {
        "customer_odd_1": ops.real(lately.odd_1),
        "customer_odd_3": ops.real(lately.odd_3),
        "customer_odd_7": ops.real(lately.odd_7),
        "customer_odd_14": odd_14,
        "customer_odd_share_14": ops.divide(odd_14, ops.real(lately.count_14)),
        "customer_largest_ratio_14": ops.divide(ops.real(lately.largest_14), clean_mean),
        "customer_plain_ratio": ops.divide(amount, plain_mean),
        "customer_plain_z": ops.divide(amount - plain_mean, plain_spread),
    }


def _of_the_terminal(ops: Arithmetic, amount: Number, past: Aggregates) -> dict[str, Number]:
    count_1, count_7, count_30 = ops.real(past.count_1), ops.real(past.count_7), ops.real(past.count_30)
    mean_30 = ops.divide(ops.real(past.cents_30), count_30)
    spread_30 = _spread(ops, count_30, mean_30, ops.real(past.squares_30))
    delayed_7, delayed_30 = ops.real(past.delayed_7), ops.real(past.delayed_30)
    return {
        "terminal_count_1": count_1,
        "terminal_count_7": count_7,
        "terminal_count_30": count_30,
        "terminal_pace_7": ops.divide(count_7 * 30.0, count_30 * 7.0),
        "terminal_mean_30": mean_30,
        "terminal_amount_ratio": ops.divide(amount, mean_30),
        "terminal_amount_z": ops.divide(amount - mean_30, spread_30),
        "terminal_last_days": _age_days(ops, past.last_age),
        "terminal_known_7": delayed_7,
        "terminal_known_30": delayed_30,
        "terminal_fraud_1": ops.real(past.fraud_1),
        "terminal_fraud_7": ops.real(past.fraud_7),
        "terminal_fraud_30": ops.real(past.fraud_30),
        "terminal_unexplained_1": ops.real(past.unexplained_1),
        "terminal_unexplained_7": ops.real(past.unexplained_7),
        "terminal_unexplained_30": ops.real(past.unexplained_30),
        "terminal_risk_7": ops.divide(ops.real(past.fraud_7), delayed_7),
        "terminal_risk_30": ops.divide(ops.real(past.fraud_30), delayed_30),
        "terminal_unexplained_risk_7": ops.divide(ops.real(past.unexplained_7), delayed_7),
        "terminal_last_label": ops.real(past.last_label),
        "terminal_fraud_run": ops.real(past.fraud_run),
        "terminal_genuine_run": ops.real(past.genuine_run),
        "terminal_first_unexplained_days": _age_days(ops, past.first_unexplained_age),
        "terminal_last_unexplained_days": _age_days(ops, past.last_unexplained_age),
    }


def feature_names() -> tuple[str, ...]:
    """The names in the order of every row, as `derive` gives them."""
    nothing = Aggregates(**dict.fromkeys(Aggregates.__struct_fields__, 0))
    spent = Spending(**dict.fromkeys(Spending.__struct_fields__, 0))
    return tuple(derive(ONE_EVENT, 0, 0, (nothing, spent), nothing))


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """values: (rows, features) doubles in `feature_names` order. surprising: (rows,)."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    surprising: NDArray[np.bool_]


def table_features(customer: Column, terminal: Column, at_s: Column, cents: Column, fraud: Column) -> FeatureTable:
    """Features of every row of a history, labels counting from seven days after their event, as when serving.

    Two passes: whether a fraud is unexplained (a terminal's affair) depends on what its customer usually spends.
    """
    codes = np.where(fraud > 0, FRAUD, GENUINE).astype(np.int64)
    customers = aggregate_customer_columns(customer, at_s, cents, codes)
    surprising = is_surprising(_of_the_customer(COLUMNS, COLUMNS.real(cents), customers[0]))
    codes = np.where((fraud > 0) & ~surprising, UNEXPLAINED_FRAUD, codes)
    terminals = aggregate_columns(terminal, at_s, cents, codes)
    columns = derive(COLUMNS, at_s, cents, customers, terminals)
    return FeatureTable(tuple(columns), np.column_stack(list(columns.values())), surprising)
