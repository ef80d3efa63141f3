"""A language model asked which of two replies is better, twice, with the order swapped: what it likes must not hang on the place.

A judge that names the same place both times has told of the place and not of the replies: that is a tie, and is counted as
position bias. Replies are shown as data, redacted, between marks that carry a digest of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from evals.judges.asked import DATA, AskedJudge, choice_in, json_reply
from evals.types import Answer, Sample, Score, fault_of, not_scored, scored


@dataclass(frozen=True, slots=True)
class Preference:
    """`for_first_reply` is 1, 0.5 (a tie) or 0, None where it could not be had; `same_place` names a place named twice."""

    for_first_reply: float | None
    reason: str
    same_place: str | None = None
    raw: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PositionBias:
    """Over judged pairs: how often one place was named twice, and for how many of those it was the first place."""

    pairs: int
    same_place: int
    first_place: int

    @property
    def share(self) -> float | None:
        """Share of the pairs whose outcome hung on the place; None where no pair was judged."""
        return self.same_place / self.pairs if self.pairs else None


@dataclass(frozen=True, slots=True)
class PairwiseJudge(AskedJudge):
    """`question` says what better means."""

    KIND: ClassVar[str] = "pairwise"
    SYSTEM: ClassVar[str] = f"You compare two replies of a contact centre. {DATA}"
    FIELD: ClassVar[str] = "better"
    CHOICES: ClassVar[tuple[str, str]] = ("first", "second")
    FORMAT: ClassVar[dict[str, Any]] = json_reply("choice", FIELD, CHOICES)

    async def score_pair(self, sample: Sample, one: Answer, other: Answer) -> tuple[Score, Score]:
        """A Score for each: 1 and 0 for a win, a half each for a tie, so that their difference lies in [-1, 1]."""
        judge = f"{self.id}@{self.version}"
        faults = [f"{fault} ({answer.setting})" for answer in (one, other) if (fault := fault_of(answer)) is not None]
        if faults:
            return self._unscored(one, other, judge, f"{faults[0]}: there are no two texts to compare", None)
        found = await self.prefer(sample, one.text, other.text, one.repeat)
        if found.for_first_reply is None:
            return self._unscored(one, other, judge, found.reason, found.raw)
        value = found.for_first_reply
        return (
            scored(self.metric, one, judge, value, reason=found.reason, raw=found.raw),
            scored(self.metric, other, judge, 1 - value, reason=found.reason, raw=found.raw),
        )

    def _unscored(self, one: Answer, other: Answer, judge: str, reason: str, raw: str | None) -> tuple[Score, Score]:
        mine, others = (not_scored(self.metric, answer, judge, reason=reason, raw=raw) for answer in (one, other))
        return mine, others

    async def prefer(self, sample: Sample, one: str, other: str, repeat: int = 0) -> Preference:
        if one == other:
            return Preference(0.5, "the replies are the same text")
        choices, raws = [], []
        for first, second in ((one, other), (other, one)):
            said = await self.choose(self.body(sample, first, second), repeat)
            raws.append(said.raw)
            if said.value is None:
                return Preference(None, said.reason, raw=json.dumps(raws))
            choices.append(said.value)
        raw = json.dumps(raws)
        if choices[0] == choices[1]:
            return Preference(0.5, f"tie: the {choices[0]} place was named in both orders", choices[0], raw)
        return Preference(float(choices[0] == "first"), "the same reply was named in both orders", None, raw)

    def body(self, sample: Sample, first: str, second: str) -> dict[str, Any]:
        ask = f'{self.question}\nAnswer as {{"reason": "...", "better": "first" or "second"}}.'
        return self.request(sample, {"first": first, "second": second}, ask)


def read_choice(text: str) -> str | None:
    return choice_in(text, "better", ("first", "second"))


def position_bias(scores: Sequence[Score], metric: str, setting: str) -> PositionBias:
    """Read off the scores of one side, whose raw replies carry what was named in each order."""
    judged = same = first = 0
    for score in scores:
        if score.metric != metric or score.setting != setting or score.value is None or score.raw is None:
            continue
        choices = [read_choice(raw) for raw in json.loads(score.raw)]
        judged += 1
        same += choices[0] == choices[1]
        first += choices == ["first", "first"]
    return PositionBias(judged, same, first)
