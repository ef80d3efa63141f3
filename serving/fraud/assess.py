"""From features to a decision: the model's probability, the cheapest outcome, the rules, the reasons.

Pure but for the model's own buffers, so that a log can be replayed. Knows nothing of stores, logs or the clock.
"""

from __future__ import annotations

from serving.fraud.decide import apply_rules, cheapest, explain
from serving.fraud.model import Model
from serving.fraud.settings import FraudSettings
from serving.fraud.types import Decision


def decide(
    model: Model,
    settings: FraudSettings,
    policy: str,
    transaction_id: str,
    cents: int,
    features: dict[str, float],
    row: list[float],
    decided_s: float,
) -> Decision:
    """The decision that these features, this model and this policy make: pure, so that a log can be replayed."""
    probability = model.probability(model.margin(row))
    outcome, reasons = apply_rules(cheapest(probability, cents, settings.costs), features, settings.rules)
    if outcome != "approve":
        reasons = [*reasons, *explain(features, model.contributions(row))]
    return Decision(
        transaction_id=transaction_id,
        outcome=outcome,
        probability=probability,
        reasons=tuple(reasons),
        degraded=False,
        model=model.digest,
        policy=policy,
        decided_s=decided_s,
    )
