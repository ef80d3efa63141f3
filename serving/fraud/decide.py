"""From a probability to a decision, and from contributions to words.

The outcome is the one that is expected to cost least; rules may make it stricter, never milder. Pure functions: knows
nothing of the model, the store or the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.fraud.settings import Costs, Rule
from serving.fraud.types import Outcome, Reason

_STRICTNESS: dict[Outcome, int] = {"approve": 0, "review": 1, "decline": 2}
MOST_REASONS = 3

# Code, words for a person on the phone with the customer, the fact that makes them true (a feature and its least value),
# and the beginnings of the features that tell this story.
_STORIES: tuple[tuple[str, str, tuple[str, float] | None, tuple[str, ...]], ...] = (
    ("terminal_risk", "Confirmed fraud was recently reported at this terminal.", ("terminal_fraud_30", 1.0),
     ("terminal_fraud", "terminal_unexplained", "terminal_risk", "terminal_last_label", "terminal_genuine_run",
      "terminal_known", "terminal_first", "terminal_last_unexplained")),
    ("customer_fraud", "Confirmed fraud was recently reported for this customer.", ("customer_fraud_30", 1.0),
     ("customer_fraud", "customer_risk", "customer_genuine_run", "customer_first_fraud", "customer_last_fraud")),
    ("unusual_amount", "The amount is larger than usual for this customer.", ("customer_amount_ratio", 1.5),
     ("customer_amount", "customer_clean", "customer_mean", "customer_plain")),
    ("amount", "The amount stands out.", None, ("amount", "terminal_amount", "terminal_mean")),
    ("recent_spending", "The customer has recently spent more than usual.", ("customer_ratio_7", 1.2),
     ("customer_ratio", "customer_odd", "customer_largest")),
    ("customer_activity", "The customer's number of recent payments stands out.", None,
     ("customer_count", "customer_pace", "customer_last_days")),
    ("terminal_activity", "The terminal's number of recent payments stands out.", None,
     ("terminal_count", "terminal_pace", "terminal_last_days")),
    ("time", "The time of the payment stands out.", None, ("hour", "night", "weekend")),
)  # fmt: skip


def cheapest(probability: float, cents: int, costs: Costs) -> Outcome:
    """The outcome with the least expected cost (Elkan 2001, "The Foundations of Cost-Sensitive Learning", section 2)."""
    loss = cents + costs.chargeback_cents
    expected: dict[Outcome, float] = {
        "approve": probability * loss,
        "review": costs.review_cents + probability * costs.review_misses * loss,
        "decline": (1.0 - probability) * (costs.false_decline_cents + costs.false_decline_share * cents),
    }
    return min(expected, key=lambda outcome: (expected[outcome], _STRICTNESS[outcome]))


def cost_of(outcome: str, fraud: bool, cents: int, costs: Costs) -> float:
    """What an outcome has cost once it is known whether it was fraud, in cents."""
    loss = cents + costs.chargeback_cents
    if outcome == "approve":
        return loss * fraud
    if outcome == "review":
        return costs.review_cents + costs.review_misses * loss * fraud
    return 0.0 if fraud else costs.false_decline_cents + costs.false_decline_share * cents


def apply_rules(outcome: Outcome, features: Mapping[str, float], rules: Sequence[Rule]) -> tuple[Outcome, list[Reason]]:
    """The outcome made as strict as the rules that hold demand, and their reasons. A missing feature (NaN) holds nothing."""
    held = [rule for rule in rules if features[rule.feature] >= rule.at_least]
    strictest = max([outcome, *(rule.outcome for rule in held)], key=_STRICTNESS.__getitem__)
    return strictest, [Reason(rule.name, rule.message) for rule in held]


def story_of(feature: str) -> str:
    """The reason code that a feature counts towards."""
    best = max(
        ((len(start), code) for code, _, _, starts in _STORIES for start in starts if feature.startswith(start)),
        default=(0, ""),
    )
    return best[1]


def explain(features: Mapping[str, float], contributions: Sequence[float]) -> list[Reason]:
    """Up to three reasons that raised the score most, strongest first; only those whose words are true here.

    contributions: one for each feature, in the order of the mapping.
    """
    weight: dict[str, float] = {}
    for feature, contribution in zip(features, contributions, strict=True):
        code = story_of(feature)
        weight[code] = weight.get(code, 0.0) + contribution
    true = [
        Reason(code, message)
        for code, message, fact, _ in _STORIES
        if weight.get(code, 0.0) > 0.0 and (fact is None or features[fact[0]] >= fact[1])
    ]
    return sorted(true, key=lambda reason: -weight[reason.code])[:MOST_REASONS]
