"""What a policy does at which fraud risk of the caller: data only. Who knows the risk, and what acts on it, is the gateway's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Level = Literal["low", "elevated", "high"]
LEVELS: tuple[Level, ...] = ("low", "elevated", "high")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RiskAction(_Strict):
    """At a level: tools that the model is not shown, whether the caller's own personal data stays masked in the answer, and the words
    with which the conversation goes to a person instead of to the model."""

    refuse_tools: tuple[str, ...] = ()
    keep_masked: bool = False
    hand_off: str = ""


class RiskSettings(_Strict):
    """``risk`` of policy.yaml. ``default``: the level when nobody is named, nothing is known, or the score misses ``deadline_ms``.
    ``elevated_at``, ``high_at``: least probability of fraud; a declined payment is high and a reviewed one elevated in any case."""

    deadline_ms: Annotated[int, Field(ge=1, le=1_000)] = 20
    default: Level = "low"
    elevated_at: Annotated[float, Field(ge=0, le=1)] = 0.05
    high_at: Annotated[float, Field(ge=0, le=1)] = 0.3
    elevated: RiskAction = RiskAction()
    high: RiskAction = RiskAction()

    @model_validator(mode="after")
    def _in_order(self) -> RiskSettings:
        if self.elevated_at > self.high_at:
            raise ValueError("elevated_at must not be above high_at")
        return self

    def action(self, level: Level) -> RiskAction:
        return {"low": RiskAction(), "elevated": self.elevated, "high": self.high}[level]

    def worst(self, found: Sequence[tuple[float | None, str]]) -> Level:
        """The highest level among decisions; the declared default where there is none."""
        return max((self.level(*one) for one in found), key=LEVELS.index, default=self.default)

    def level(self, probability: float | None, outcome: str) -> Level:
        """The level of a decision; without a probability (a degraded decision) its outcome alone speaks."""
        chance = probability or 0.0
        if outcome == "decline" or chance >= self.high_at:
            return "high"
        if outcome == "review" or chance >= self.elevated_at:
            return "elevated"
        return "low"
