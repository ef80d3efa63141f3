"""Champion and challenger side by side: who decides for whom, and what the other one would have said.

A customer belongs to one of the two by a stable hash, so nobody is judged now by one and now by the other. The other model scores the
same features after the answer is out; both are on record, so that labels can judge them later. Knows nothing of stores or HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.fraud.assess import decide
from serving.fraud.decide import cost_of
from serving.fraud.entries import Compared, Decided, Filed, Labelled, decode_entry
from serving.fraud.evaluate import average_precision
from serving.fraud.features import feature_names
from serving.fraud.journal import read_journal
from serving.fraud.model import Model
from serving.fraud.settings import Costs, FraudSettings

_BUCKETS = 10_000


class Rivals:
    """The champion, and perhaps a challenger that decides for `challenger_share` of the customers."""

    def __init__(self, settings: FraudSettings, champion: Model, challenger: Model | None) -> None:
        self._settings, self._policy = settings, settings.policy_digest()
        self.champion, self.challenger = champion, challenger
        self._below = round(settings.challenger_share * _BUCKETS) if challenger else 0
        self.compared = self.disagreed = 0
        self._names = feature_names()

    def choose(self, customer_id: str) -> Model:
        """The model that decides for this customer."""
        if self._below and self.challenger and bucket_of(customer_id) < self._below:
            return self.challenger
        return self.champion

    def compare(self, filed: Filed, cents: int, row: list[float]) -> Compared | None:
        """What the model that did not decide says to the same features. None without a challenger."""
        other = self.challenger
        if other is None:
            return None
        if filed.decision.model == other.digest:
            other = self.champion
        features = dict(zip(self._names, row, strict=True))
        name = filed.transaction.transaction_id
        said = decide(other, self._settings, self._policy, name, cents, features, row, filed.decision.decided_s)
        self.compared += 1
        self.disagreed += said.outcome != filed.decision.outcome
        return Compared(
            transaction_id=name, model=other.digest, outcome=said.outcome, probability=said.probability or 0.0
        )

    def close(self) -> None:
        for model in (self.champion, self.challenger):
            if model is not None:
                model.close()


def bucket_of(customer_id: str) -> int:
    """0 to 9,999, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(customer_id.encode(), digest_size=8, person=b"rivals").digest()) % _BUCKETS


@dataclass(frozen=True, slots=True)
class Verdict:
    """A challenger on the payments that both have scored and whose labels are in; costs in cents a payment, as the decisions of each
    would have turned out. promote: it may become champion."""

    rows: int
    frauds: int
    champion_ap: float
    challenger_ap: float
    champion_cost: float
    challenger_cost: float
    disagreement: float
    promote: bool
    reason: str


def judge_shadow(
    log: Path,
    champion: str,
    challenger: str,
    least_frauds: int = 30,
    most_loss: float = 0.02,
    most_disagreement: float = 0.1,
    costs: Costs | None = None,
) -> Verdict:
    """From a decision log: both models' scores on the same labelled payments. After a drift they should disagree: much disagreement stands
    in the way only of a challenger whose decisions were no cheaper."""
    said, labels, cents = _said(log)
    both = [name for name, by_model in said.items() if {champion, challenger} <= by_model.keys()]
    told = [name for name in both if name in labels]
    fraud = np.array([labels[name] for name in told], dtype=np.int64)
    frauds = int(fraud.sum())
    disagreement = _share(said[name][champion][1] != said[name][challenger][1] for name in both)
    unknown = float("nan")
    if frauds < least_frauds or frauds == len(fraud):
        reason = f"{frauds} labelled frauds; {least_frauds} are needed"
        return Verdict(len(told), frauds, unknown, unknown, unknown, unknown, disagreement, False, reason)
    theirs, ours = (
        average_precision(fraud, np.array([said[name][one][0] for name in told])) for one in (champion, challenger)
    )
    price, our_price = (
        float(np.mean([cost_of(said[name][one][1], labels[name], cents[name], costs or Costs()) for name in told]))
        for one in (champion, challenger)
    )
    reason = ""
    if ours < theirs - most_loss:
        reason = f"average precision {ours:.3f}, the champion's {theirs:.3f}"
    elif disagreement > most_disagreement and our_price >= price:
        reason = f"decides otherwise in {disagreement:.1%} of payments, and not for less: {our_price:.0f} cents a payment, the champion's {price:.0f}"  # fmt: skip
    worth = reason or f"no worse than the champion: {our_price:.0f} cents a payment, the champion's {price:.0f}"
    return Verdict(len(told), frauds, theirs, ours, price, our_price, disagreement, not reason, worth)


def _said(log: Path) -> tuple[dict[str, dict[str, tuple[float, str]]], dict[str, bool], dict[str, int]]:
    """Of each payment what each model said (probability, outcome), its label, its cents."""
    said: dict[str, dict[str, tuple[float, str]]] = {}
    labels: dict[str, bool] = {}
    cents: dict[str, int] = {}
    for data in read_journal(log):
        entry = decode_entry(data)
        if isinstance(entry, Decided) and not entry.filed.decision.degraded:
            decision = entry.filed.decision
            said.setdefault(decision.transaction_id, {})[decision.model] = decision.probability or 0.0, decision.outcome
            cents[decision.transaction_id] = entry.cents
        elif isinstance(entry, Compared):
            said.setdefault(entry.transaction_id, {})[entry.model] = entry.probability, entry.outcome
        elif isinstance(entry, Labelled):
            labels[entry.label.transaction_id] = entry.label.fraud
    return said, labels, cents


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values) if values else 0.0
