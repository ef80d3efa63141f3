"""Sampled live calls judged as they come, under a budget, and written back to their spans as annotations.

Whole conversations are sampled, so that arms of unlike shares are of like conversations, and by their id, so that every process samples the same ones; what was annotated once is not paid for again. Where the budget of an
hour is spent, calls stay without a score and their spans say so: none becomes a 0 or a 1. Reads redacted text only (the gateway's spans hold nothing
else). A rollout (live.py) reads those annotations and the arm on their span, and misses what it knows to be sampled and has none. Opens nothing and knows no clock.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from evals.digests import digest
from evals.types import BUDGET_SPENT, Answer, Expectation, Judge, Message, Sample, Score

JUDGE_CALL = "callgate-judge"
"""What the call ids of judges begin with: what they say is traced like any call, and is not judged itself."""


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One call of a model as its span tells it. `about` (deployment, arm, model) is written beside each score. `conversation`: the call id that the application
    gave, else the trace.
    """

    conversation: str
    span_id: str
    started: datetime
    messages: tuple[Message, ...]
    text: str = field(repr=False)
    contexts: tuple[str, ...] = field(default=(), repr=False)
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    about: Mapping[str, str] = field(default_factory=dict)


class Spans(Protocol):
    """Where live calls are and their scores go. May raise anything for a server that is away."""

    def calls(self, project: str, since: datetime, limit: int) -> Sequence[LiveCall]: ...
    def judged(self, project: str, spans: Collection[str], metrics: Collection[str]) -> set[tuple[str, str]]: ...
    def annotate(self, span: str, score: Score, *, exact: bool, about: Mapping[str, str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Pass:
    """What one look did: calls seen and sampled, scores written, scores that could not be had, whether the budget ended it, and
    sampled calls whose question was not traced (`silent`).
    """

    seen: int = 0
    sampled: int = 0
    written: int = 0
    not_scored: int = 0
    out_of_budget: bool = False
    silent: int = 0

    def __str__(self) -> str:
        spent = "; the budget of this hour is spent, what is left stays without a score" if self.out_of_budget else ""
        silent = (
            f"; {self.silent} have no text on their span (no policy, or telemetry.record_texts: false)"
            if self.silent
            else ""
        )
        return f"{self.seen} calls, {self.sampled} sampled, {self.written} scores written, {self.not_scored} not scored{spent}{silent}"


def is_sampled(conversation: str, share: float) -> bool:
    """The same answer for the same conversation in every process. Were calls sampled one by one, a share under 1 would find the long conversations more often."""
    drawn = int.from_bytes(hashlib.sha256(f"callgate/online/{conversation}".encode()).digest()[:8], "big")
    return drawn < share * 2**64


class OnlineJudge:
    """`exact` names the metrics that are computed and not judged. `arm_shares`: another share for the calls that an arm of a rollout answered, by its
    name. Calls may be seen for `overlap` after they began: long ones arrive late.
    """

    def __init__(
        self,
        spans: Spans,
        judges: Mapping[str, Judge],
        exact: Collection[str],
        *,
        project: str,
        share: float,
        arm_shares: Mapping[str, float] | None = None,
        concurrency: int = 4,
        overlap: timedelta = timedelta(minutes=10),
    ) -> None:
        self._spans = spans
        self._judges = judges
        self._exact = exact
        self._project = project
        self._share = share
        self._arm_shares = arm_shares or {}
        self._concurrency = concurrency
        self._overlap = overlap
        self._unpaid: set[tuple[str, str]] = set()

    async def look(self, since: datetime, limit: int = 1000) -> Pass:
        """One pass over the calls since then. Raises what the server of the spans raises."""
        seen = await asyncio.to_thread(self._spans.calls, self._project, since - self._overlap, limit)
        sampled = [call for call in seen if is_sampled(call.conversation, self._share_of(call))]
        known = await asyncio.to_thread(self._spans.judged, self._project, [c.span_id for c in sampled], self._judges)
        waiting = iter(
            [
                (call, name, judge)
                for call in sampled
                for name, judge in self._judges.items()
                if (call.span_id, name) not in known and judge.applies(sample_of(call))
            ]
        )
        counted: Counter[str] = Counter()

        async def worker() -> None:
            for call, name, judge in waiting:
                score = await judge.score(sample_of(call), answer_of(call))
                unpaid = score.value is None and BUDGET_SPENT in score.reason
                counted["out_of_budget"] += unpaid
                if unpaid and (call.span_id, name) in self._unpaid:
                    continue
                about = {**call.about, "judge": score.judge}
                await asyncio.to_thread(
                    self._spans.annotate, call.span_id, score, exact=name in self._exact, about=about
                )
                if unpaid:
                    self._unpaid.add((call.span_id, name))
                else:
                    counted["written"] += 1
                    counted["not_scored"] += score.value is None

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(worker())
        return Pass(
            len(seen), len(sampled), counted["written"], counted["not_scored"], out_of_budget=counted["out_of_budget"] > 0,
            silent=sum(not call.messages for call in sampled),
        )  # fmt: skip

    def _share_of(self, call: LiveCall) -> float:
        return self._arm_shares.get(call.about.get("arm", ""), self._share)


def sample_of(call: LiveCall) -> Sample:
    """A live call as a case: nobody wrote down what a good answer does, so only metrics that need no expectation apply."""
    said = [[message.role, message.content] for message in call.messages]
    return Sample(
        call.span_id, call.conversation, "live", call.messages, Expectation(contexts=call.contexts), digest(said)
    )


def answer_of(call: LiveCall) -> Answer:
    error = None if call.text else "the span holds no text"
    return Answer(
        call.span_id, "live", 0, call.text, error=error, latency_ms=call.latency_ms,
        prompt_tokens=call.prompt_tokens, completion_tokens=call.completion_tokens,
    )  # fmt: skip
