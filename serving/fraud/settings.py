"""What an operator may set for the fraud service.

Data only: it reads neither the environment nor a file, and knows nothing of the parts that it configures.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.fraud.types import Outcome

SHIPPED_MODEL = Path(__file__).parent / "default_model"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Costs(_Strict):
    """What each kind of mistake costs, in minor units of the settlement currency; the cheapest outcome is chosen."""

    chargeback_cents: int = Field(default=2_500, ge=0, description="paid for a fraud on top of its amount")
    review_cents: int = Field(default=300, ge=0, description="a person's time for one review")
    review_misses: float = Field(default=0.2, ge=0, le=1, description="share of frauds that a review lets pass")
    false_decline_cents: int = Field(default=5_000, ge=0, description="a good customer turned away")
    false_decline_share: float = Field(default=0.2, ge=0, description="and that share of the amount")


class Rule(_Strict):
    """When a feature is at least a value, the outcome is at least this strict, whatever the score says."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    feature: str
    at_least: float
    outcome: Literal["review", "decline"]
    message: str = Field(min_length=1, max_length=200, description="said to the agent; no personal data")


class HopsworksGroup(_Strict):
    """A feature group of Hopsworks and a view of it, in place of Redis as the feature store (serving/fraud/hopsworks.py)."""

    feature_group: str = Field(min_length=1)
    feature_view: str = Field(min_length=1)
    version: int = Field(default=1, ge=1)


class FraudSettings(_Strict):
    """Unknown keys stop the start. The defaults serve the shipped model, which was trained on generated data only."""

    model_path: Path = Field(default=SHIPPED_MODEL, description="folder with model.txt and model.json")
    challenger_path: Path | None = Field(
        default=None, description="a second model, scored on everything after the answer"
    )
    challenger_share: float = Field(
        default=0.0, ge=0, le=1, description="share of customers (by stable hash) that the challenger decides for"
    )
    models_path: Path | None = Field(
        default=None,
        description="folder of model versions that continuous training keeps: its champion and challenger are followed",
    )
    history_path: Path | None = Field(
        default=None, description="folder of fraud_tx_*.parquet from before the decision log, to train on as well"
    )
    drift_every_s: int = Field(
        default=3_600, ge=0, description="how often the log is looked at for drift and what is due is done; 0: never"
    )
    tracking_uri: str = Field(default="", description="MLflow server to which trained models are told; empty: none")
    log_directory: Path = Field(default=Path(".callgate/fraud"), description="the durable decision log")
    log_sync: Literal["disk", "kernel"] = Field(default="disk", description="what durable means: fdatasync, or write")
    log_keep_days: int = Field(default=90, ge=1)
    deadline_ms: int = Field(default=50, ge=1, le=60_000, description="for the feature store's one round trip")
    degraded_outcome: Outcome = Field(default="review", description="the answer when the store misses the deadline")
    future_tolerance_s: int = Field(default=60, ge=0, description="clock skew allowed in a transaction's time")
    oldest_s: int = Field(default=7 * 86_400, ge=0, description="a transaction older than this is refused")
    currencies: dict[str, int] = Field(
        default={"EUR": 1_000_000, "USD": 920_000, "GBP": 1_170_000},
        description="served currencies: settlement minor units per million minor units (a fixed reference rate)",
    )
    costs: Costs = Costs()
    rules: tuple[Rule, ...] = ()
    hopsworks: HopsworksGroup | None = Field(default=None, description="the feature store, if it is not Redis")
    key_prefix: str = Field(default="fraud:", pattern=r"^[a-z0-9:_-]{1,32}$")
    record_ttl_days: int = Field(
        default=60, ge=40, description="an idle entity is forgotten; features look back 37 days"
    )

    def policy_json(self) -> str:
        """What decides besides the model: costs, rules, rates and the degraded outcome."""
        return self.model_dump_json(include={"costs", "rules", "currencies", "degraded_outcome"})

    def policy_digest(self) -> str:
        """Twelve hex digits that change when `policy_json` does."""
        return hashlib.sha256(self.policy_json().encode()).hexdigest()[:12]
