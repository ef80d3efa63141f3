"""Several judges on one metric: the majority counts, and so does how often they disagree.

A tie, or fewer than half of the judges with a score, is not scored. Judges of one family err together: a panel of three copies is one judge.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from evals.types import Answer, Judge, Sample, Score, not_scored, scored


@dataclass(frozen=True, slots=True)
class Panel:
    """At least two judges, each with its own identity and version, which are part of the panel's."""

    metric: str
    judges: tuple[Judge, ...]

    @property
    def id(self) -> str:
        return "panel/" + "+".join(judge.id for judge in self.judges)

    @property
    def version(self) -> str:
        return "+".join(judge.version for judge in self.judges)

    @property
    def prompt(self) -> str:
        return json.dumps([getattr(judge, "prompt", None) for judge in self.judges])

    def applies(self, sample: Sample) -> bool:
        return all(judge.applies(sample) for judge in self.judges)

    async def score(self, sample: Sample, answer: Answer) -> Score:
        votes = [await judge.score(sample, answer) for judge in self.judges]
        values = [vote.value for vote in votes if vote.value is not None]
        raw = json.dumps([{"judge": v.judge, "value": v.value, "reason": v.reason, "raw": v.raw} for v in votes])
        judge = f"{self.id}@{self.version}"
        if 2 * len(values) <= len(self.judges):
            reasons = "; ".join(sorted({vote.reason for vote in votes if vote.value is None}))
            return not_scored(
                self.metric, answer, judge, reason=f"{len(values)} of {len(votes)} judges: {reasons}", raw=raw
            )
        passes = sum(value >= 0.5 for value in values)
        if 2 * passes == len(values):
            return not_scored(self.metric, answer, judge, reason="the judges are split evenly", raw=raw)
        reason = f"{max(passes, len(values) - passes)} of {len(values)} judges agree"
        return scored(self.metric, answer, judge, float(2 * passes > len(values)), reason=reason, raw=raw)


def disagreement(score: Score) -> float:
    """Share of the judges that voted against the outcome, from the record of a panel's score; NaN where there is none."""
    votes = [bool(vote["value"] >= 0.5) for vote in json.loads(score.raw or "[]") if vote["value"] is not None]
    if not votes or score.value is None:
        return math.nan
    return sum(bool(vote != (score.value >= 0.5)) for vote in votes) / len(votes)
