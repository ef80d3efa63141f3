"""How good a ranking of transactions is: AUC, average precision and card precision, on a week as it would be lived.

The protocol is the Fraud Detection Handbook's (chapters 3 and 4): labels come seven days late, cards that are known to
be compromised are taken out of the test, a card caught on one day counts no more on the next. Plain numpy, written anew
and checked against scikit-learn and the handbook's figures. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.fraud.dataset import Transactions

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quality:
    """auc, average_precision and card_precision_100, each 0 to 1."""

    auc: float
    average_precision: float
    card_precision_100: float


def roc_auc(fraud: NDArray[np.int64], scores: Scores) -> float:
    """Chance that a fraud ranks above a genuine one, ties counting half (Mann and Whitney, 1947)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    frauds = int(fraud.sum())
    return float((ranks[fraud == 1].sum() - frauds * (frauds + 1) / 2) / (frauds * (len(fraud) - frauds)))


def average_precision(fraud: NDArray[np.int64], scores: Scores) -> float:
    """Sum of precision times the gain in recall over the distinct thresholds, as scikit-learn defines it."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(fraud[order])
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits, taken = hits[last_of_tie], np.flatnonzero(last_of_tie) + 1
    return float((np.diff(hits, prepend=0) * hits / taken).sum() / hits[-1])


def card_precision(table: Transactions, rows: Mask, scores: Scores, cards: int = 100) -> float:
    """Share of compromised among the `cards` highest ranked cards of a day, averaged over the days of the rows."""
    caught: set[int] = set()
    precisions = []
    for day in np.unique(table.day[rows]):
        today = table.day[rows] == day
        best: dict[int, tuple[float, int]] = {}
        pairs = zip(table.customer[rows][today].tolist(), scores[today].tolist(), table.fraud[rows][today].tolist(), strict=True)  # fmt: skip
        for customer, score, fraud in pairs:
            if customer not in caught:
                before = best.get(customer, (-np.inf, 0))
                best[customer] = max(before[0], score), max(before[1], fraud)
        top = sorted(best.items(), key=lambda card: -card[1][0])[:cards]
        found = [customer for customer, (_, fraud) in top if fraud]
        caught.update(found)
        precisions.append(len(found) / cards)
    return float(np.mean(precisions))


def lived_week(table: Transactions, first_day: int, days: int = 7, training_days: int = 7, delay: int = 7) -> Mask:
    """The rows of a test week whose cards were not known to be compromised by then."""
    train_start = first_day - delay - training_days
    fraud, day = table.fraud == 1, table.day
    known = set(table.customer[fraud & (day >= train_start) & (day < first_day - delay)].tolist())
    rows = np.zeros(len(day), dtype=bool)
    for offset in range(days):
        known |= set(table.customer[fraud & (day == first_day - delay + offset - 1)].tolist())
        today = day == first_day + offset
        rows |= today & ~np.isin(table.customer, np.fromiter(known, dtype=np.int64))
    return rows


def measure(table: Transactions, rows: Mask, scores: Scores) -> Quality:
    """scores: one for each row of the mask, higher is more suspicious."""
    fraud = table.fraud[rows]
    return Quality(roc_auc(fraud, scores), average_precision(fraud, scores), card_precision(table, rows, scores))


def intervals(table: Transactions, rows: Mask, scores: Scores, draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap intervals of `auc` and `ap`, drawing customers (a customer's payments stand together)."""
    rng = np.random.default_rng(seed)
    names, owner = np.unique(table.customer[rows], return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    fraud, owner = table.fraud[rows][order], owner[order]
    values = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[owner]
        values.append((_weighted_auc(fraud, weight), _weighted_precision(fraud, weight)))
    low, high = np.quantile(values, [0.025, 0.975], axis=0).tolist()
    return {name: (low[at], high[at]) for at, name in enumerate(("auc", "ap"))}


def paired_gain(
    table: Transactions, rows: Mask, scores: Scores, others: Scores, draws: int, seed: int
) -> tuple[float, float, float]:
    """How much average precision `scores` have over `others` on the same rows, with the 95 % bootstrap interval of the
    difference, the same customers drawn for both."""
    rng = np.random.default_rng(seed)
    names, owner = np.unique(table.customer[rows], return_inverse=True)
    fraud = table.fraud[rows]
    ranked = []
    for one in (scores, others):
        order = np.argsort(-one, kind="stable")
        ranked.append((fraud[order], owner[order]))
    gains = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        ours, theirs = (_weighted_precision(frauds, weight[owners]) for frauds, owners in ranked)
        gains.append(ours - theirs)
    low, high = np.quantile(gains, [0.025, 0.975])
    return average_precision(fraud, scores) - average_precision(fraud, others), float(low), float(high)


def _weighted_precision(fraud: NDArray[np.int64], weight: NDArray[np.int64]) -> float:
    """Average precision of rows in the order of their rank, each counted `weight` times; ties as they stand."""
    hits, taken = np.cumsum(weight * fraud), np.maximum(np.cumsum(weight), 1)
    return float((weight * fraud * hits / taken).sum() / max(hits[-1], 1))


def _weighted_auc(fraud: NDArray[np.int64], weight: NDArray[np.int64]) -> float:
    """AUC of rows in the order of their rank, each counted `weight` times; ties as they stand."""
    genuine = weight * (1 - fraud)
    below = genuine.sum() - np.cumsum(genuine)
    frauds = weight * fraud
    return float((frauds * below).sum() / max(int(frauds.sum()) * int(genuine.sum()), 1))
