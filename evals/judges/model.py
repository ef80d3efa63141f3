"""A language model asked one yes/no question about an answer; what it cannot say clearly is not scored, and counted.

Whether its word is worth anything is not decided here: see calibrate.py. The answer is shown as data between marks that
carry a digest of it, so that an answer cannot close them; it and the case are redacted first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from evals.judges.asked import DATA, AskedJudge, json_reply
from evals.types import Answer, Sample, Score, fault_of, not_scored, scored


@dataclass(frozen=True, slots=True)
class ModelJudge(AskedJudge):
    """`question` is answered with yes (1) or no (0)."""

    KIND: ClassVar[str] = "model"
    SYSTEM: ClassVar[str] = f"You grade one reply of a contact centre. {DATA}"
    FIELD: ClassVar[str] = "verdict"
    CHOICES: ClassVar[tuple[str, str]] = ("yes", "no")
    FORMAT: ClassVar[dict[str, Any]] = json_reply("verdict", FIELD, CHOICES)

    async def score(self, sample: Sample, answer: Answer) -> Score:
        judge = f"{self.id}@{self.version}"
        fault = fault_of(answer)
        if fault is not None:
            return not_scored(self.metric, answer, judge, reason=fault)
        said = await self.choose(self.body(sample, answer), answer.repeat)
        if said.value is None:
            return not_scored(self.metric, answer, judge, reason=said.reason, raw=said.raw)
        return scored(self.metric, answer, judge, float(said.value == "yes"), reason=said.value, raw=said.raw)

    def body(self, sample: Sample, answer: Answer) -> dict[str, Any]:
        ask = f'Question about the reply: {self.question}\nAnswer as {{"reason": "...", "verdict": "yes" or "no"}}.'
        return self.request(sample, {"reply": answer.text}, ask)
