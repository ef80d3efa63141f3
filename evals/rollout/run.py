"""One rollout, top to bottom: a candidate gets a growing share of live calls for as long as nothing is shown against it, and loses it by itself.

It decides by numbers (live.py), moves the share at a gateway over HTTP (admin.py) and reads scores where they were written (phoenix.py). What it cannot
see it does not promote: scores that stay away, or a share at which nothing can be shown in time, end at the champion. Where this process
dies, the gateway's lease ends the same way. Opens nothing; time comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from evals.calibrate import Labels, human_of
from evals.compare import rectifier
from evals.errors import EvalError, LabelsError, RecordError
from evals.judges.build import applies_live
from evals.report import Report, labels_digest
from evals.rollout.admin import AdminAway, AdminRefused
from evals.rollout.live import ANSWERED, PASSED, Action, Arms, LiveMetric, Reading, Shown, Step, decide
from evals.statistics.differences import interval
from evals.types import Standing, Verdict

MOST_EVERY_S = 900.0
AGAIN_S = 2.0  # between two attempts to tell a gateway that is away how it ended


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """`stages`: shares of the calls, growing, each under 1. A conversation is its calls within `settle` of the first, and counts `wait` after that.
    `patience`: how long a share may last; `blind`: how long no score may be readable.
    """

    model: str
    owner: str
    stages: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    alpha: float = 0.05
    min_conversations: int = 50
    every_s: float = 30.0
    settle: timedelta = timedelta(minutes=5)
    wait: timedelta = timedelta(minutes=5)
    patience: timedelta = timedelta(hours=24)
    blind: timedelta = timedelta(minutes=15)
    operational_margin: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError naming what is wrong."""
        growing = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not growing or self.stages[0] <= 0 or self.stages[-1] >= 1:
            raise ValueError(
                f"stages are shares above 0 and below 1 that grow, for instance 0.05,0.1,0.25,0.5, not {self.stages}"
            )
        if not 0 < self.every_s <= MOST_EVERY_S:
            raise ValueError(
                f"at most {MOST_EVERY_S:g} seconds lie between two looks (every_s), not {self.every_s:g}: the gateway lends a share for an hour"
            )
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha lies between 0 and 0.5, not {self.alpha:g}")

    @property
    def lease_s(self) -> float:
        """Three looks may be missed before the gateway takes the share back; one may take a third of it."""
        return max(30.0, 4 * self.every_s)


class Outcome(StrEnum):
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    UNDECIDED = "undecided"  # and back at the champion
    STOPPED = "stopped"  # by a person, or its lease ran out: not ours to move any more


@dataclass(frozen=True, slots=True)
class Ending:
    outcome: Outcome
    reasons: tuple[str, ...]
    share: float
    """The last share that the candidate had while it was measured."""


class Door(Protocol):
    """The gateway's /admin. Raises AdminRefused, AdminAway."""

    async def start(self, model: str, owner: str, share: float, lease_s: float, report: str) -> None: ...
    async def move(self, model: str, owner: str, share: float, lease_s: float, reason: str) -> None: ...
    async def end(self, model: str, owner: str, outcome: str, reason: str) -> None: ...


class Traffic(Protocol):
    """Live calls of both arms that began since then with their scores, in any order: a call that is to be scored, as soon as it is known of; its score, until
    `settle` and `wait` after the call. May be of an earlier time than `now`, and says so. May raise anything for a server that is away.
    """

    async def read(self, since: datetime, now: datetime) -> Reading: ...


class Clock(Protocol):
    def now(self) -> datetime: ...
    async def pause(self, seconds: float) -> None: ...


Say = Callable[[Mapping[str, Any]], None]
"""Hears of every look: time, share, action, reasons, and the numbers by metric."""


class Rollout:
    def __init__(
        self, plan: RolloutPlan, metrics: Sequence[LiveMetric], door: Door, traffic: Traffic, clock: Clock, say: Say
    ) -> None:
        self._plan, self._door, self._traffic, self._clock, self._say = plan, door, traffic, clock, say
        self._arms = Arms(metrics, plan.settle, plan.wait)
        self._began = self._read = clock.now()

    async def run(self, report: str) -> Ending:
        """From the first share to the end; who is cancelled or breaks gives the share back first. `report`: the digest of what it rests on. Raises AdminRefused or
        AdminAway where it cannot even start.
        """
        plan = self._plan
        await self._door.start(plan.model, plan.owner, plan.stages[0], plan.lease_s, report)
        try:
            return await self._steps()
        except BaseException as error:
            interrupted = isinstance(error, asyncio.CancelledError)
            why = "its run was interrupted" if interrupted else f"its run broke ({type(error).__name__})"
            await self._end(Step(Action.ROLL_BACK, (why,)), 0.0, patiently=False)
            raise

    async def _steps(self) -> Ending:
        plan = self._plan
        step, share = Step(Action.HOLD, ("started",)), 0.0
        for share in plan.stages:
            try:
                step = await self._stage(share, last=share == plan.stages[-1])
            except AdminRefused as error:
                return Ending(Outcome.STOPPED, (str(error),), share)
            if step.action is not Action.ADVANCE:
                break
        return await self._end(step, share)

    async def _stage(self, share: float, *, last: bool) -> Step:
        """What one share ends with; held out of patience or sight, the step is still `hold`."""
        plan, began = self._plan, self._clock.now()
        step = Step(Action.HOLD, ("the share begins",))
        while True:
            await self._renew(share, step)
            await self._clock.pause(plan.every_s)
            await self._look()
            shown = self._arms.look(plan.alpha, began)
            step = decide(shown, alpha=plan.alpha, min_conversations=plan.min_conversations, last=last)
            self._tell(share, step, shown)
            now = self._clock.now()
            if step.action is not Action.HOLD:
                return step
            if now - self._read > plan.blind:
                return Step(Action.HOLD, (f"no scores could be read for {_told(now - self._read)}",))
            if now - began > plan.patience:
                return Step(Action.HOLD, (f"not decided in {_told(plan.patience)}", *step.reasons))

    async def _renew(self, share: float, step: Step) -> None:
        """A gateway that is away is asked again at the next look; its lease says what happens meanwhile."""
        try:
            await self._door.move(
                self._plan.model, self._plan.owner, share, self._plan.lease_s, "; ".join(step.reasons)[:500]
            )
        except AdminAway as error:
            self._say({"share": share, "action": "hold", "reasons": [str(error)]})

    async def _look(self) -> None:
        """A look that takes too long is none, since the share must be renewed meanwhile."""
        now = self._clock.now()
        try:
            async with asyncio.timeout(self._plan.lease_s / 3):
                reading = await self._traffic.read(self._began, now)
        except Exception as error:  # noqa: BLE001 - whatever a vendor raises is a look without scores
            why = str(error) if isinstance(error, EvalError) else type(error).__name__
            self._say({"action": "hold", "reasons": [f"no scores could be read ({why})"]})
            return
        self._read = reading.at
        self._arms.take(reading)

    async def _end(self, step: Step, share: float, *, patiently: bool = True) -> Ending:
        """`patiently`: a gateway that is away is told again for as long as the lease may still hold there."""
        outcome = {Action.PROMOTE: Outcome.PROMOTED, Action.ROLL_BACK: Outcome.ROLLED_BACK}.get(
            step.action, Outcome.UNDECIDED
        )
        told = "promoted" if outcome is Outcome.PROMOTED else "rolled_back"
        reasons = step.reasons
        until = self._clock.now() + timedelta(seconds=self._plan.lease_s if patiently else 0)
        try:
            await self._end_by(until, told, "; ".join(reasons)[:500])
        except AdminRefused as error:
            return Ending(Outcome.STOPPED, (str(error), *reasons), share)
        except AdminAway as error:
            outcome = Outcome.STOPPED if outcome is Outcome.PROMOTED else outcome
            reasons = (f"{error}; the share ends with its lease, in {self._plan.lease_s:.0f} s", *reasons)
        return Ending(outcome, reasons, share)

    async def _end_by(self, until: datetime, told: str, reason: str) -> None:
        """Raises AdminRefused, or AdminAway when it is too late to ask again."""
        while True:
            try:
                return await self._door.end(self._plan.model, self._plan.owner, told, reason)
            except AdminAway:
                if self._clock.now() >= until:
                    raise
                await self._clock.pause(min(AGAIN_S, self._plan.every_s))

    def _tell(self, share: float, step: Step, shown: Sequence[Shown]) -> None:
        self._say(
            {
                "share": share, "action": step.action.value, "reasons": list(step.reasons),
                "metrics": [{**asdict(one), "metric": one.metric.name, "margin": one.metric.margin, "decides": one.metric.decides} for one in shown],
            }
        )  # fmt: skip


def metrics_of(
    report: Report, labels: Labels | None, operational_margin: float, only: Collection[str] = ()
) -> tuple[LiveMetric, ...]:
    """What is watched live: the two operational metrics, and those of the suite that can be scored without knowing what a good answer does. A judged one
    decides if the gate trusted its judge. `only`: the metrics of the suite that are wanted; empty: all.

    Raises RecordError where the report's verdict is not promote, LabelsError for other labels than those that the report was made with.
    """
    if report.gate.verdict is not Verdict.PROMOTE:
        raise RecordError(
            f"the gate said {report.gate.verdict.value}: {'; '.join(report.gate.reasons)}; only promote may go live"
        )
    if report.labels_digest is not None and labels is None:
        raise LabelsError(
            "the report was corrected by labels; name the same file (--labels), live scores are corrected by them too"
        )
    if labels is not None and labels_digest(labels) != report.labels_digest:
        raise LabelsError("these are not the labels that the report was made with")
    human = human_of(report.evidence, labels or {})
    trusted = {one.metric: one for one in report.comparisons}
    found = [LiveMetric(name, operational_margin) for name in (ANSWERED, PASSED)]
    names = {plan.name for plan in report.evidence.metrics}
    if strange := sorted(set(only) - names):
        raise RecordError(f"the report has no metric {strange[0]!r}; it has {', '.join(sorted(names))}")
    if taken := names & {ANSWERED, PASSED}:
        raise RecordError(f"the suite has a metric {min(taken)!r}, which here is computed of every call; rename it")
    for plan in report.evidence.metrics:
        if not applies_live(plan.judge) or (only and plan.name not in only):
            continue
        comparison = trusted[plan.name]
        decides = plan.decides and comparison.trust.may_decide
        shift = None
        if comparison.trust.standing is not Standing.EXACT:
            difference = rectifier(report.evidence, plan, human) if decides and human else None
            shift = interval(difference, report.evidence.limits.alpha / 2, span=2.0) if difference else (-2.0, 2.0)
        found.append(LiveMetric(plan.name, plan.margin, decides, shift, plan.judge))
    return tuple(found)


def _told(duration: timedelta) -> str:
    return f"{duration.total_seconds() / 60:.0f} minutes"
