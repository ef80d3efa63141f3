"""Puts a rollout on its feet: verifies the report, opens gateway and Phoenix, gives it real time, and writes down every look.

The only file that opens anything for a rollout, so it also closes it. Decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evals.calibrate import load_labels
from evals.errors import EvalError
from evals.judges.build import applies_live
from evals.online import is_sampled
from evals.phoenix import Phoenix
from evals.report import load_report, verify
from evals.rollout.admin import Admin
from evals.rollout.live import ANSWERED, PASSED, ArmCall, LiveScore, Reading
from evals.rollout.page import page
from evals.rollout.run import Ending, Rollout, RolloutPlan, metrics_of
from evals.target import open_session

MOST_CALLS = 20_000  # of one look
LATE = timedelta(
    minutes=5
)  # a span arrives when its call has ended, and one that hangs takes its model's whole deadline (120 s)
NO_SCORE = "no score in time"
NO_TEXT = "no text on its span"


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """What the command line says. `share` and `arm_shares`: of the calls, those that a watch judges."""

    plan: RolloutPlan
    report: Path
    labels: Path | None
    url: str
    phoenix_url: str
    project: str
    out: Path
    token: str = field(repr=False)
    signing_key: bytes | None = field(repr=False)
    share: float = 1.0
    arm_shares: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class PhoenixTraffic:
    """Scores as Phoenix holds them. Only new spans are read at each look; what a watch owes of them is without a score from the start, so that one that never
    comes is missed, and is asked for until it is there or its conversation has counted.
    """

    def __init__(self, phoenix: Phoenix, options: RolloutOptions, arm: str, judges: Mapping[str, str]) -> None:
        """`judges`: by metric, whose scores count."""
        self._phoenix = phoenix
        self._options = options
        self._arm = arm
        self._judges = judges
        self._of_passages = {name for name, judge in judges.items() if not applies_live(judge, passages=False)}
        self._newest: datetime | None = None
        self._owed: dict[tuple[str, str], LiveScore] = {}
        self._reading: asyncio.Task[Reading] | None = None

    async def read(self, since: datetime, now: datetime) -> Reading:
        """A look that was too slow for its caller goes on, and the next one gets what it found."""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._read, since, now))
        try:
            return await asyncio.shield(self._reading)
        finally:
            if self._reading.done():
                self._reading = None

    def _read(self, since: datetime, now: datetime) -> Reading:
        options, plan = self._options, self._options.plan
        begin = max(since, self._newest - LATE - plan.wait) if self._newest else since
        calls = self._phoenix.arm_calls(options.project, plan.model, begin, MOST_CALLS)
        found = [score for call in calls for score in call.operational(self._arm)]
        for score in self._to_be_judged(calls, begin):
            self._owed.setdefault((score.span, score.metric), score)
        open_ = {span for (span, _), score in self._owed.items() if score.value is None}
        for note in self._phoenix.notes(options.project, open_, self._judges):
            key = note.span, note.metric
            if key in self._owed and self._owed[key].value is None:
                self._owed[key] = replace(self._owed[key], value=note.value, reason=note.reason)
        found += self._owed.values()
        if calls:
            self._newest = min(now, max(call.at for call in calls))  # only now: all of it was read
        oldest = now - max(plan.settle, LATE) - plan.wait
        self._owed = {key: score for key, score in self._owed.items() if score.at > oldest}
        return Reading(now, found)

    def _to_be_judged(self, calls: Sequence[ArmCall], begin: datetime) -> Iterator[LiveScore]:
        """What a watch of these shares and judges owes, drawn as it draws."""
        sampled = [
            call
            for call in calls
            if call.may_be_judged(self._arm) and is_sampled(call.conversation, self._share_of(call))
        ]
        retrieved = self._retrieved(begin) if sampled else frozenset()
        for call in sampled:
            for metric in self._judges:
                if metric not in self._of_passages or call.trace in retrieved:
                    yield call.judged(metric, None, self._arm, NO_TEXT if call.silent else NO_SCORE)

    def _retrieved(self, begin: datetime) -> frozenset[str]:
        """Traces with passages; what retrieves begins before its call."""
        if not self._of_passages:
            return frozenset()
        return self._phoenix.retrieved(self._options.project, begin - LATE, MOST_CALLS)

    def _share_of(self, call: ArmCall) -> float:
        return self._options.arm_shares.get(call.arm, self._options.share)


def launch_rollout(options: RolloutOptions, say: Callable[[str], None]) -> Ending | None:
    """Runs to the end; `say` hears a line a look. None when it was told to stop (SIGINT, SIGTERM). Raises EvalError where it cannot start."""

    async def run() -> Ending:
        task = asyncio.current_task()
        if task is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await _launch(options, say)

    try:
        return asyncio.run(run())
    except (asyncio.CancelledError, KeyboardInterrupt):
        return None


async def _launch(options: RolloutOptions, say: Callable[[str], None]) -> Ending:
    plan, report = options.plan, load_report(options.report)
    verify(report, options.signing_key)
    labels = load_labels(options.labels) if options.labels else None
    metrics = metrics_of(report, labels, plan.operational_margin, options.metrics)
    options.out.mkdir(parents=True, exist_ok=True)
    looks: list[dict[str, Any]] = []
    async with open_session(2) as session:
        admin, clock = Admin(options.url, session, options.token), RealClock()
        arm = await _arm(admin, plan.model)
        judged = {metric.name: metric.judge for metric in metrics if metric.name not in (ANSWERED, PASSED)}
        traffic = PhoenixTraffic(Phoenix(options.phoenix_url), options, arm, judged)
        with (options.out / "rollout.jsonl").open("a", encoding="utf-8") as log:

            def hear(told: Mapping[str, Any]) -> None:
                look = {"at": clock.now().isoformat(timespec="seconds"), "model": plan.model, "run": plan.owner, **told}
                looks.append(look)
                log.write(json.dumps(_finite(look)) + "\n")
                log.flush()
                say(line_of(look))

            ending = await Rollout(plan, metrics, admin, traffic, clock, hear).run(report.digest)
            hear({"action": ending.outcome.value, "share": ending.share, "reasons": list(ending.reasons)})
    (options.out / "rollout.html").write_text(page(plan, ending, looks), encoding="utf-8")
    return ending


async def _arm(admin: Admin, model: str) -> str:
    """The candidate's name for itself on spans. Raises EvalError where the model has no candidate."""
    found = {one["model"]: one for one in await admin.rollouts()}
    if model not in found:
        raise EvalError(
            f"the gateway's model {model!r} has no candidate; those that have one: {', '.join(found) or 'none'}"
        )
    return str(found[model]["arm"])


def line_of(look: Mapping[str, Any]) -> str:
    """One look, for people: what decides, with its interval, the conversations of both arms, and their calls without a score."""
    numbers = "  ".join(
        f"{one['metric']} {one['estimate']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}] {one['candidate']}:{one['baseline']}{_missing(one)}"
        for one in look.get("metrics", ())
        if one["decides"] and one["pairs"]
    )
    share = f"{look['share']:4.0%}" if "share" in look else " " * 4
    return f"{look['at'][11:19]} {share}  {look['action']}: {'; '.join(look['reasons'])}" + (
        f"  |  {numbers}" if numbers else ""
    )


def _missing(one: Mapping[str, Any]) -> str:
    mine, theirs = (sum(one[f"{arm}_missing"].values()) for arm in ("candidate", "baseline"))
    return f" missing {mine}:{theirs}" if mine or theirs else ""


def _finite(value: Any) -> Any:
    """JSON has no NaN: a mean of nothing is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
