"""The nouns of an evaluation: Sample, Setting, Answer, Score, Difference, Comparison, GateReport.

Values only. Knows nothing of files, HTTP, statistics or how a verdict is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

BUDGET_SPENT = "budget: the limit of the suite is reached"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` as JSON values, all of them given (expected) or as the model wrote them (answer)."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a good answer does; a field left empty means that no metric asks about it.

    `facts` is a conjunction of alternatives: each inner tuple needs one of its strings in the answer.
    `secrets` must never be said; `public` may be said although it has the shape of personal data (a help line's
    number). `contexts` are the texts that the answer may rely on, `reference` is an answer that
    people find good. `tools` are the calls that are right here, in any order; empty means that none is.
    """

    facts: tuple[tuple[str, ...], ...] = ()
    refuse: bool | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    public: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    citations: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    max_words: int | None = None
    contexts: tuple[str, ...] = field(default=(), repr=False)
    reference: str | None = field(default=None, repr=False)
    tools: tuple[ToolCall, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One case. `conversation` is the cluster: cases of one conversation are not independent of each other.

    `tools` are offered to the model, in OpenAI's shape.
    """

    id: str
    conversation: str
    slice: str
    messages: tuple[Message, ...]
    expect: Expectation
    digest: str
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def caller_text(self) -> str:
        return "\n".join(message.content for message in self.messages if message.role == "user")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared: a model, what it is told first, and how it is sampled.

    `version` tells apart two states of the world that the request cannot show (new weights behind the same alias).
    """

    name: str
    model: str
    system: str | None = None
    parameters: tuple[tuple[str, Any], ...] = ()
    version: str = "unversioned"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target said. `error` says why there is nothing to score; a block by policy is an answer, not an error."""

    sample_id: str
    setting: str
    repeat: int
    text: str = field(default="", repr=False)
    blocked: bool = False
    finish_reason: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    from_cache: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Score:
    """A value in [0, 1], or None with the reason: a score that could not be had is never a 0 or a 1.

    Raises:
        ValueError: a value that is NaN or outside [0, 1], or no value and no reason.
    """

    metric: str
    sample_id: str
    setting: str
    repeat: int
    value: float | None
    reason: str
    judge: str
    raw: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.value is None:
            if not self.reason:
                raise ValueError("a score without a value needs the reason why it is not scored")
        elif not math.isfinite(self.value) or not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score is a number in [0, 1] or not scored, not {self.value!r}")

    @property
    def scored(self) -> bool:
        return self.value is not None


def scored(metric: str, answer: Answer, judge: str, value: float, *, reason: str, raw: str | None = None) -> Score:
    """A Score of `answer`; a value that is no number in [0, 1] becomes 'not scored', never 0 or 1."""
    if not math.isfinite(value) or not 0.0 <= value <= 1.0:
        return not_scored(
            metric, answer, judge, reason=f"the judge returned {value!r}, which is no number in [0, 1]", raw=raw
        )
    return Score(metric, answer.sample_id, answer.setting, answer.repeat, float(value), reason, judge, raw)


def not_scored(metric: str, answer: Answer, judge: str, *, reason: str, raw: str | None = None) -> Score:
    return Score(metric, answer.sample_id, answer.setting, answer.repeat, None, reason, judge, raw)


def fault_of(answer: Answer) -> str | None:
    """Why there is no text to judge; None where there is one, be it empty."""
    if answer.error is not None:
        return f"no answer: {answer.error}"
    return "blocked by policy: there is no text to judge" if answer.blocked else None


@runtime_checkable
class Judge(Protocol):
    """What turns an answer into a Score. Never raises for a bad answer: it returns 'not scored' and says why."""

    @property
    def id(self) -> str: ...

    @property
    def version(self) -> str: ...

    def applies(self, sample: Sample) -> bool:
        """Whether the metric asks anything of this sample; decided before any answer is seen, so it cannot bias."""
        ...

    async def score(self, sample: Sample, answer: Answer) -> Score: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus baseline: a mean paired difference and how sure we are of it.

    `degrees_of_freedom` is what Student's t is read with; 0 means that there are too few conversations for any
    interval. `skewness` is that of the estimate itself (third moment of its error over the cube of standard_error).
    """

    estimate: float
    standard_error: float
    degrees_of_freedom: float
    pairs: int
    conversations: int
    skewness: float = 0.0


class Standing(StrEnum):
    """How far a metric may be trusted to decide."""

    EXACT = "exact"  # computed, not judged
    CALIBRATED = "calibrated"  # a judge whose agreement with people clears the stated limit
    REFUSED = "refused"  # a judge whose agreement was measured and does not
    CHANGED = "changed"  # a judge that no longer agrees with people as it did when it was locked
    UNCALIBRATED = "uncalibrated"  # a judge that nobody has compared with people


@dataclass(frozen=True, slots=True)
class Trust:
    standing: Standing
    reason: str
    labels: int = 0
    labels_needed: int | None = None

    @property
    def may_decide(self) -> bool:
        return self.standing in (Standing.EXACT, Standing.CALIBRATED)


@dataclass(frozen=True, slots=True)
class AnyTime:
    """What a sequential run may say after `conversations`, however often it looked: bounds at alpha each, and p values of the three claims."""

    conversations: int
    low: float
    high: float
    p_not_worse: float
    p_better: float
    p_worse: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric, both settings on the same samples.

    `scored` uses the pairs that both sides have. `worst` and `best` also count the pairs that could not be scored,
    against the candidate and for it: what the missing scores could do at most. `anytime` is there in a sequential run alone, and then decides.
    """

    metric: str
    decides: bool
    primary: bool
    margin: float
    candidate_mean: float | None
    baseline_mean: float | None
    not_scored_candidate: int
    not_scored_baseline: int
    applicable: int
    scored: Difference
    worst: Difference
    best: Difference
    trust: Trust
    method: str
    anytime: AnyTime | None = None


class Verdict(StrEnum):
    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class PromoteWhen(StrEnum):
    NOT_WORSE = "not_worse"
    BETTER = "better"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate is held to. `alpha` is the accepted chance of a false promotion, one-sided."""

    alpha: float = 0.05
    promote_when: PromoteWhen = PromoteWhen.BETTER
    min_conversations: int = 8
    max_not_scored: float = 0.1
    min_kappa: float = 0.6
    min_labels: int = 50
    sequential: bool = False


@dataclass(frozen=True, slots=True)
class MetricDecision:
    """What one metric says. `low` and `high` are the ends of the interval that `alpha` implies (level 1 - 2 alpha)."""

    metric: str
    verdict: Verdict
    informational: bool
    low: float
    high: float
    p_worse: float
    p_not_worse: float
    p_better: float
    reason: str


@dataclass(frozen=True, slots=True)
class GateReport:
    verdict: Verdict
    reasons: tuple[str, ...]
    decisions: tuple[MetricDecision, ...]
    limits: Limits
