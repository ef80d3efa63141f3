"""Two arms of live traffic beside each other, looked at as often as one likes: what has been shown, and the next step of a rollout. Pure.

A conversation counts once, when it is over and its scores had time to come. In the order in which they began they are paired: one of the arm that has
fewer with the mean of those of the other arm since the last pair. So both sides of a pair are of the same hour; a day that gets harder moves neither
side against the other, and the share may change meanwhile. Pairs are never changed again, so the p values (betting, see statistics/sequential.py) hold at every look.

A call that was to be scored and has no score when its conversation counts is missing, and never left out: who is judged late, or not at all, may be
who is bad. Each pair is read twice, with all that is missing against the candidate (only this may promote it) and all in its favour (only this may roll it
back), so that both error rates hold whatever the missing scores would have been. What is missing too often leaves both open: undecided.

A judge that favours one arm is corrected by the labels of the gate's report: `LiveMetric.shift` bounds what people would add to the judged difference.
That this is on live traffic as it was on the suite is assumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import fmean

import numpy as np

from evals.statistics.differences import Array, holm
from evals.statistics.sequential import betting_bounds, betting_p

ANSWERED, PASSED = "answered", "passed"
"""Computed of every call: the arm that a call was given to answered it itself; its answer was not stopped by an output rail."""

TOO_LATE = "traced after its conversation had been counted"

NOT_BELOW = 0.999  # a bound beyond the range of a difference can neither be shown nor refuted


@dataclass(frozen=True, slots=True)
class LiveScore:
    """What one metric says of one call, 0 to 1; None: nothing (yet), and `reason` says why. `candidate` is the arm, `at` when the call began."""

    span: str
    conversation: str
    metric: str
    candidate: bool
    value: float | None
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was known of the live calls `at` some time; a call that is to be scored is among them before it has a score."""

    at: datetime
    scores: Sequence[LiveScore]


@dataclass(frozen=True, slots=True)
class ArmCall:
    """A call as its span tells it: the arm that a rollout gave it to (`assigned`), the one that answered (`arm`; another where the first one failed),
    and whether an output rail stopped the answer. `elsewhere`: another model answered in its stead. `drawn`: not traced only because it failed. `silent`: its
    question is not on its span, so no judge can be asked.

    The champion may be several deployments with names of their own: what is not the candidate is the champion.
    """

    span: str
    trace: str
    conversation: str
    at: datetime
    assigned: str
    arm: str
    failed: bool
    blocked: bool
    drawn: bool
    elsewhere: bool = False
    silent: bool = False

    def answered(self, candidate_arm: str) -> bool:
        """By the arm that it was given to."""
        same = (self.arm == candidate_arm) == (self.assigned == candidate_arm)
        return same and not self.failed and not self.elsewhere

    def operational(self, candidate_arm: str) -> Iterator[LiveScore]:
        """ANSWERED, of the arm that it was given to; PASSED, where that arm answered."""
        answered = self.answered(candidate_arm)
        values = {ANSWERED: answered} | ({PASSED: not self.blocked} if answered else {})
        for name, value in values.items() if self.drawn else ():
            yield LiveScore(self.span, self.conversation, name, self.assigned == candidate_arm, float(value), self.at)

    def may_be_judged(self, candidate_arm: str) -> bool:
        """Drawn, and answered by its own arm: one that covers for the other is given that one's hard calls, and traces that are kept
        for what rails found are the worse calls of the arm of which they find more.
        """
        return self.drawn and self.answered(candidate_arm)

    def judged(self, metric: str, value: float | None, candidate_arm: str, reason: str = "") -> LiveScore:
        return LiveScore(self.span, self.conversation, metric, self.assigned == candidate_arm, value, self.at, reason)


@dataclass(frozen=True, slots=True)
class LiveMetric:
    """`shift`: what people add to the judged difference at least and at most, each at half of alpha; None for what is computed and not judged.
    `judge`: whose scores these are; the shift holds for no other one.
    """

    name: str
    margin: float
    decides: bool = True
    shift: tuple[float, float] | None = None
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """One metric so far: conversations of each arm (`at_stage`: the candidate's since this share began), pairs, means as judged, the corrected
    difference (`at_worst`: with all that is missing against the candidate) with bounds at alpha each, p values that hold however often one looks, and by arm
    the calls that counted and those of them that are missing, by reason.
    """

    metric: LiveMetric
    candidate: int
    baseline: int
    at_stage: int
    pairs: int
    candidate_mean: float
    baseline_mean: float
    estimate: float
    at_worst: float
    low: float
    high: float
    p_worse: float
    p_not_worse: float
    candidate_calls: int = 0
    baseline_calls: int = 0
    candidate_missing: Mapping[str, int] = field(default_factory=dict)
    baseline_missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """For people: how many calls of each arm have no score, and why."""
        return f"missing {_missing(self.candidate_missing, self.candidate_calls)} of the candidate, {_missing(self.baseline_missing, self.baseline_calls)} of the champion"


class Action(StrEnum):
    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    reasons: tuple[str, ...]


def decide(shown: Sequence[Shown], *, alpha: float, min_conversations: int, last: bool) -> Step:
    """The next step at this share.

    Roll back: one metric is shown to be worse by more than its margin; any one will do, so Holm applies. Advance: enough conversations of the candidate
    ended at this share, and none of the estimates is beyond its margin, at worst. Promote, at the last share alone: every metric is shown not to
    be worse by its margin; all claims must hold at once, so no correction is due.
    """
    deciding = [one for one in shown if one.metric.decides]
    if not deciding:
        return Step(Action.HOLD, ("no metric decides",))
    adjusted = holm([one.p_worse for one in deciding])
    worse = tuple(
        f"{one.metric.name}: worse by more than {one.metric.margin:g} ({one.estimate:+.3f} [{one.low:+.3f}, {one.high:+.3f}], p {p:.2g} after Holm)"
        for one, p in zip(deciding, adjusted, strict=True)
        if p <= alpha
    )
    if worse:
        return Step(Action.ROLL_BACK, worse)
    few = [one for one in deciding if one.at_stage < min_conversations]
    if few:
        told = (f"{one.metric.name}: {one.at_stage} of {min_conversations} conversations at this share" for one in few)
        return Step(Action.HOLD, tuple(told))
    low = [one for one in deciding if one.estimate < -one.metric.margin]
    if low:
        return Step(
            Action.HOLD, tuple(f"{one.metric.name}: looks worse ({one.estimate:+.3f}), not shown" for one in low)
        )
    blind = [one for one in deciding if one.at_worst < -one.metric.margin]
    if blind:
        return Step(
            Action.HOLD,
            tuple(f"{one.metric.name}: may be worse ({one.at_worst:+.3f} at worst), {one.missing}" for one in blind),
        )
    if not last:
        return Step(
            Action.ADVANCE, tuple(f"{one.metric.name}: {one.estimate:+.3f}, not shown worse" for one in deciding)
        )
    open_ = [one for one in deciding if one.p_not_worse > alpha]
    if open_:
        told = (
            f"{one.metric.name}: not yet shown to be at most {one.metric.margin:g} worse (lower bound {one.low:+.3f})"
            for one in open_
        )
        return Step(Action.HOLD, tuple(told))
    return Step(
        Action.PROMOTE,
        tuple(f"{one.metric.name}: not worse by {one.metric.margin:g} (p {one.p_not_worse:.2g})" for one in deciding),
    )


@dataclass(slots=True)
class _Series:
    """One metric: conversations that are going on, by span; of those that ended until when their calls counted, and which; and their pairs, read as worst
    and as best where a score is missing.
    """

    going: dict[tuple[str, bool], dict[str, LiveScore]] = field(default_factory=dict)
    ended: dict[tuple[str, bool], tuple[datetime, frozenset[str]]] = field(default_factory=dict)
    waiting: dict[bool, list[tuple[float, float]]] = field(default_factory=lambda: {True: [], False: []})
    pairs: list[tuple[float, float]] = field(default_factory=list)
    means: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    count: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    calls: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    missing: dict[bool, Counter[str]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    began: list[datetime] = field(default_factory=list)

    def take(self, score: LiveScore) -> None:
        """A number that was once read stays, also where it is lost afterwards. Nothing is changed in a conversation that has counted: a score that comes then
        is left out, its call was missing; a call that is only known of then is missing, as a conversation of its own.
        """
        key = score.conversation, score.candidate
        if key in self.ended:
            until, counted = self.ended[key]
            key = score.span, score.candidate
            if score.at > until or score.span in counted or key in self.ended:
                return
            score = replace(score, conversation=score.span, value=None, reason=TOO_LATE)
        calls = self.going.setdefault(key, {})
        if score.span not in calls or calls[score.span].value is None:
            calls[score.span] = score

    def end_those_begun_before(self, latest: datetime, settle: timedelta) -> None:
        begun = {key: min(call.at for call in calls.values()) for key, calls in self.going.items()}
        for at, conversation, candidate in sorted((at, *key) for key, at in begun.items() if at <= latest):
            self.end(conversation, candidate, at + settle)

    def end(self, conversation: str, candidate: bool, until: datetime) -> None:
        calls = [call for call in self.going.pop((conversation, candidate)).values() if call.at <= until]
        self.ended[conversation, candidate] = until, frozenset(call.span for call in calls)
        self.count[candidate] += 1
        self.calls[candidate] += len(calls)
        self.missing[candidate].update(call.reason or "not scored" for call in calls if call.value is None)
        known = [call.value for call in calls if call.value is not None]
        if known:
            self.means[candidate].append(fmean(known))
        if candidate:
            self.began.append(min(call.at for call in calls))
        against, in_favour = (0.0, 1.0) if candidate else (1.0, 0.0)
        worst, best = (
            fmean(gap if call.value is None else call.value for call in calls) for gap in (against, in_favour)
        )
        self.waiting[candidate].append((worst, best))
        if all(self.waiting.values()):
            mine, theirs = self.waiting[True], self.waiting[False]
            self.pairs.append(tuple(fmean(m[i] for m in mine) - fmean(t[i] for t in theirs) for i in (0, 1)))  # type: ignore[arg-type]
            self.waiting = {True: [], False: []}


class Arms:
    """All that is known of both arms. A conversation is over `settle` after it began, as if nothing came later, and counts `wait` after that: a rule that
    looked at how long it goes on, or when its scores came, would count the good ones of an arm before its bad ones. What counted is remembered for
    `forget` more, and calls that began before that are left out.
    """

    def __init__(
        self, metrics: Sequence[LiveMetric], settle: timedelta, wait: timedelta, forget: timedelta = timedelta(hours=2)
    ) -> None:
        self._metrics = metrics
        self._settle = settle
        self._age = settle + wait
        self._forget = self._age + forget
        self._forgot: datetime | None = None
        self._series = {metric.name: _Series() for metric in metrics}

    def take(self, reading: Reading) -> None:
        """Scores in any order, again and again."""
        oldest = reading.at - self._forget
        for score in reading.scores:
            if score.metric in self._series and score.at > oldest:
                self._series[score.metric].take(score)
        for series in self._series.values():
            series.end_those_begun_before(reading.at - self._age, self._settle)
        if self._forgot is None or reading.at - self._forgot > self._forget / 4:
            self._forgot = reading.at
            for series in self._series.values():
                series.ended = {key: kept for key, kept in series.ended.items() if kept[0] > oldest}

    def look(self, alpha: float, stage_began: datetime) -> tuple[Shown, ...]:
        return tuple(_shown(metric, self._series[metric.name], alpha, stage_began) for metric in self._metrics)


def _shown(metric: LiveMetric, series: _Series, alpha: float, stage_began: datetime) -> Shown:
    """Where there is a shift its bounds took half of alpha, so the pairs have the other half and their p values count twice."""
    worst, best = (np.array([pair[i] for pair in series.pairs], dtype=np.float64) for i in (0, 1))
    least, most = metric.shift or (0.0, 0.0)
    level, twice = (alpha, 1) if metric.shift is None else (alpha / 2, 2)
    p_worse = _p(best, -metric.margin - most, level, above=False)
    p_not_worse = _p(worst, -metric.margin - least, level, above=True)
    low, high = -1.0, 1.0
    if series.pairs:
        low = max(low, betting_bounds(worst, level)[0] + least)
        high = min(high, betting_bounds(best, level)[1] + most)
    shift = (least + most) / 2
    at_worst = float(worst.mean()) + shift if series.pairs else 0.0
    middle = float((worst.mean() + best.mean()) / 2) + shift if series.pairs else 0.0
    return Shown(
        metric, series.count[True], series.count[False], sum(at >= stage_began for at in series.began), len(series.pairs),
        _mean(series.means[True]), _mean(series.means[False]), middle, at_worst, low, high, min(1.0, twice * p_worse), min(1.0, twice * p_not_worse),
        series.calls[True], series.calls[False], dict(series.missing[True]), dict(series.missing[False]),
    )  # fmt: skip


def _p(values: Array, bound: float, level: float, *, above: bool) -> float:
    return betting_p(values, bound, level, above=above) if abs(bound) <= NOT_BELOW else 1.0


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def _missing(reasons: Mapping[str, int], calls: int) -> str:
    told = "; ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"{sum(reasons.values())} of {calls} calls" + (f" ({told})" if told else "")
