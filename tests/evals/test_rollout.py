"""A rollout from its first share to its end: what moves it, what ends it, and that everything it cannot see or reach ends at the champion."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from evals.calibrate import Label
from evals.errors import LabelsError, RecordError
from evals.judges.build import applies_live
from evals.launch import launch
from evals.report import Report, build_report, labels_digest, save_report
from evals.rollout.admin import Admin, AdminAway, AdminRefused
from evals.rollout.cli import app
from evals.rollout.live import ANSWERED, PASSED, LiveMetric, LiveScore, Reading
from evals.rollout.page import page
from evals.rollout.run import Ending, Outcome, Rollout, RolloutPlan, metrics_of
from evals.target import open_session
from evals.types import PromoteWhen, Verdict
from tests.evals.tiny import Served, options

START = datetime(2026, 11, 27, 8, tzinfo=UTC)
PLAN = RolloutPlan(
    "m", "run-12345678", min_conversations=20, every_s=60, settle=timedelta(minutes=1), wait=timedelta(minutes=1)
)
METRICS = (LiveMetric(ANSWERED, 0.02), LiveMetric("helpful", 0.1))


@dataclass
class World:
    """A gateway, its callers and their scores: a hundred calls between two looks, split by the share that holds. `judge`: the seconds until 'helpful' is written of
    the candidate or the champion, good or not, at this minute of the rollout; None: never.
    """

    quality: Callable[[bool], float] = lambda candidate: 0.9
    answers: Callable[[bool], float] = lambda candidate: 1.0
    judge: Callable[[bool, bool, float], float | None] = lambda candidate, good, minute: 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    at: datetime = START
    share: float = 0.0
    moved: list[float] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    faults: Callable[[World, str], None] = lambda world, what: None
    said: list[Mapping[str, Any]] = field(default_factory=list)
    written: list[tuple[datetime | None, LiveScore]] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    async def pause(self, seconds: float) -> None:
        for number in range(100):
            at = self.at + timedelta(seconds=seconds * number / 100)
            candidate, name = self.chance.random() < self.share, f"{len(self.written)}"
            answered, good = (self.chance.random() < of(candidate) for of in (self.answers, self.quality))
            delay = self.judge(candidate, good, (at - START) / timedelta(minutes=1))
            judged = None if delay is None else at + timedelta(seconds=delay)
            self.written.append((at, LiveScore(name, name, ANSWERED, candidate, float(answered), at)))
            self.written.append(
                (judged, LiveScore(name, name, "helpful", candidate, float(good), at, "no score in time"))
            )
        self.at += timedelta(seconds=seconds)

    async def start(self, model: str, owner: str, share: float, lease_s: float, report: str) -> None:
        self.faults(self, "start")
        self.share = share

    async def move(self, model: str, owner: str, share: float, lease_s: float, reason: str) -> None:
        self.faults(self, "move")
        assert lease_s >= 3 * PLAN.every_s
        self.moved += [share] if share not in self.moved else []
        self.share = share

    async def end(self, model: str, owner: str, outcome: str, reason: str) -> None:
        self.faults(self, "end")
        self.ended.append((outcome, reason))
        self.share = 1.0 if outcome == "promoted" else 0.0

    async def read(self, since: datetime, now: datetime) -> Reading:
        self.faults(self, "read")
        known = self.written[-1000:]  # of five looks
        return Reading(now, [one if by is not None and by <= now else replace(one, value=None) for by, one in known])


async def play(world: World, plan: RolloutPlan = PLAN, metrics: Sequence[LiveMetric] = METRICS) -> Ending:
    return await Rollout(plan, metrics, world, world, world, world.said.append).run("sha256:0")


async def test_a_better_candidate_goes_through_every_share_and_is_promoted() -> None:
    world = World(quality=lambda candidate: 0.97 if candidate else 0.85)
    ending = await play(world)
    assert (ending.outcome, ending.share, world.moved) == (Outcome.PROMOTED, 0.5, [0.05, 0.1, 0.25, 0.5])
    assert world.share == 1.0
    assert world.ended[0][0] == "promoted"
    assert "helpful: not worse by 0.1" in world.ended[0][1]
    text = page(PLAN, ending, [{"at": START.isoformat(), **one} for one in world.said])
    assert "Promoted" in text
    assert text.count("<svg") == 2
    assert json.dumps(world.said[-1])


async def test_a_worse_candidate_loses_its_share_early() -> None:
    world = World(quality=lambda candidate: 0.4 if candidate else 0.9)
    ending = await play(world)
    assert ending.outcome is Outcome.ROLLED_BACK
    assert (world.share, ending.share <= 0.1) == (0.0, True)
    assert ending.reasons[0].startswith("helpful: worse by more than 0.1")


async def test_a_candidate_that_fails_is_rolled_back_without_any_judge() -> None:
    world = World(answers=lambda candidate: 0.3 if candidate else 0.999)
    ending = await play(world, metrics=METRICS[:1])
    assert (ending.outcome, world.share) == (Outcome.ROLLED_BACK, 0.0)


async def test_equal_ones_are_not_promoted_where_the_margin_cannot_be_shown_in_time() -> None:
    world = World(quality=lambda _: 0.5)
    plan = replace(PLAN, patience=timedelta(minutes=40))
    ending = await play(world, plan, [LiveMetric("helpful", 0.01)])
    assert (ending.outcome, world.share) == (Outcome.UNDECIDED, 0.0)
    assert ending.reasons[0] == "not decided in 40 minutes"


async def test_scores_that_cannot_be_read_end_at_the_champion() -> None:
    def away(world: World, what: str) -> None:
        if what == "read" and world.at > START + timedelta(minutes=5):
            raise ConnectionError("a text that nobody should see")

    world = World(faults=away)
    ending = await play(world)
    assert (ending.outcome, world.share) == (Outcome.UNDECIDED, 0.0)
    assert ending.reasons == ("no scores could be read for 16 minutes",)
    assert "nobody should see" not in str(world.said)


async def test_scores_that_nobody_writes_end_at_the_champion_when_patience_is_over() -> None:
    world = World()
    ending = await play(world, replace(PLAN, patience=timedelta(minutes=30)), [LiveMetric("unheard of", 0.1)])
    assert (ending.outcome, world.share, world.moved) == (Outcome.UNDECIDED, 0.0, [0.05])
    assert "unheard of: 0 of 20 conversations at this share" in ending.reasons


BAD = {"bad answers are judged late": 600.0, "bad answers are never judged": None}


@pytest.mark.parametrize("delay", BAD.values(), ids=list(BAD))
async def test_a_judge_that_hides_the_bad_answers_of_a_worse_candidate_promotes_nothing(delay: float | None) -> None:
    world = World(
        quality=lambda candidate: 0.6 if candidate else 0.9,
        judge=lambda candidate, good, minute: delay if candidate and not good else 0.0,
    )
    ending = await play(world, replace(PLAN, patience=timedelta(minutes=40)))
    assert (ending.outcome, ending.share, world.share) == (Outcome.UNDECIDED, 0.05, 0.0)
    assert "helpful: may be worse" in ending.reasons[-1]
    last = world.said[-1]["metrics"][1]
    assert last["candidate_mean"] == 1.0
    assert set(last["candidate_missing"]) == {"no score in time"}
    assert last["candidate_missing"]["no score in time"] > 0.3 * last["candidate_calls"]
    assert last["baseline_missing"] == {}
    text = page(PLAN, ending, [{"at": START.isoformat(), **one} for one in world.said])
    assert f"<td>{last['candidate_missing']['no score in time']} no score in time</td>" in text


async def test_a_judge_that_hides_the_good_answers_of_an_equal_candidate_takes_nothing_from_it() -> None:
    world = World(judge=lambda candidate, good, minute: 600.0 if candidate and good else 0.0)
    ending = await play(world, replace(PLAN, patience=timedelta(minutes=40)))
    assert (ending.outcome, world.said[-1]["metrics"][1]["candidate_mean"]) == (Outcome.UNDECIDED, 0.0)


STOPS: dict[str, Callable[[bool, bool, float], float | None]] = {
    "the watch is stopped half-way": lambda candidate, good, minute: 0.0 if minute < 8 else None,
    "the budget of every hour is spent": lambda candidate, good, minute: 0.0 if minute % 60 < 8 else None,
}


@pytest.mark.parametrize("judge", STOPS.values(), ids=list(STOPS))
async def test_a_watch_that_ends_leaves_it_undecided_and_says_how_many_are_missing(
    judge: Callable[[bool, bool, float], float | None],
) -> None:
    world = World(quality=lambda candidate: 0.97 if candidate else 0.85, judge=judge)
    ending = await play(world, replace(PLAN, patience=timedelta(minutes=40)))
    assert (ending.outcome, world.share) == (Outcome.UNDECIDED, 0.0)
    last = world.said[-1]["metrics"][1]
    assert min(last["candidate_missing"]["no score in time"], last["baseline_missing"]["no score in time"]) > 100


async def test_a_judge_that_takes_its_time_but_less_than_the_wait_decides_as_one_at_once() -> None:
    world = World(
        quality=lambda candidate: 0.97 if candidate else 0.85,
        judge=lambda candidate, good, minute: 5.0 if good else 59.0,
    )
    assert (await play(world)).outcome is Outcome.PROMOTED
    assert world.said[-1]["metrics"][1]["candidate_missing"] == {}


async def test_a_person_who_stops_it_is_obeyed() -> None:
    def stopped(world: World, what: str) -> None:
        if what == "move" and world.at > START + timedelta(minutes=10):
            raise AdminRefused("it was ended: rolled_back, a person said so")

    world = World(faults=stopped)
    ending = await play(world)
    assert (ending.outcome, world.ended) == (Outcome.STOPPED, [])
    assert "a person said so" in ending.reasons[0]


async def test_a_gateway_that_is_away_for_some_looks_is_asked_again() -> None:
    def flaky(world: World, what: str) -> None:
        if what == "move" and 3 < (world.at - START) / timedelta(minutes=1) < 6:
            raise AdminAway("no answer of a gateway")

    world = World(quality=lambda candidate: 0.97 if candidate else 0.85, faults=flaky)
    assert (await play(world)).outcome is Outcome.PROMOTED
    assert sum(one["reasons"] == ["no answer of a gateway"] for one in world.said) == 2


async def test_what_cannot_be_told_to_the_gateway_at_the_end_is_no_promotion() -> None:
    def gone(world: World, what: str) -> None:
        if what == "end":
            raise AdminAway("no answer of a gateway")

    ending = await play(World(quality=lambda candidate: 0.97 if candidate else 0.85, faults=gone))
    assert ending.outcome is Outcome.STOPPED
    assert "the share ends with its lease" in ending.reasons[0]


async def test_a_gateway_that_is_away_at_the_end_is_told_again_while_the_lease_may_hold() -> None:
    tries = []

    def flaky(world: World, what: str) -> None:
        if what == "end":
            tries.append(world.at)
            if len(tries) < 3:
                raise AdminAway("no answer of a gateway")

    world = World(quality=lambda candidate: 0.4 if candidate else 0.9, faults=flaky)
    ending = await play(world)
    assert (ending.outcome, world.share, len(tries)) == (Outcome.ROLLED_BACK, 0.0, 3)
    assert tries[-1] - tries[0] <= timedelta(seconds=10)


async def test_who_is_interrupted_gives_the_share_back_first() -> None:
    def interrupted(world: World, what: str) -> None:
        if what == "read" and world.at > START + timedelta(minutes=5):
            raise asyncio.CancelledError

    world = World(faults=interrupted)
    with pytest.raises(asyncio.CancelledError):
        await play(world)
    assert (world.ended, world.share) == ([("rolled_back", "its run was interrupted")], 0.0)


async def test_a_run_that_breaks_gives_the_share_back_first() -> None:
    def full(told: Mapping[str, Any]) -> None:
        raise OSError("no space left")

    world = World()
    with pytest.raises(OSError, match="no space left"):
        await Rollout(PLAN, METRICS, world, world, world, full).run("sha256:0")
    assert (world.ended, world.share) == ([("rolled_back", "its run broke (OSError)")], 0.0)


@pytest.mark.parametrize(
    ("status", "error"), [(429, AdminAway), (503, AdminAway), (401, AdminRefused), (409, AdminRefused)]
)
async def test_a_proxy_that_asks_to_wait_is_no_word_of_the_gateway(status: int, error: type[Exception]) -> None:
    async def say(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "not now"}}, status=status)

    door = web.Application()
    door.router.add_post("/admin/rollouts/m/clear", say)
    async with TestServer(door) as server, open_session(2) as session:
        with pytest.raises(error, match="not now"):
            await Admin(str(server.make_url("")), session, "a-token").clear("m")


@pytest.mark.parametrize(
    ("judge", "live"),
    [
        ("check/latency/2000@1", True), ("check/length@1", False), ("check/facts@1", False), ("model/j/m/0123@1", True),
        ("ragas/faithfulness/m@1", True), ("ragas/context_recall/m@1", False), ("deepeval/tone/m@1", True), ("pairwise/j/m/0@1", False),
        ("local/faithfulness@1", True), ("panel/model/a/m/0+model/b/m/1@1", True),
    ],
)  # fmt: skip
def test_what_needs_to_know_a_good_answer_cannot_be_scored_live(judge: str, live: bool) -> None:
    assert applies_live(judge) is live


@pytest.mark.parametrize("stages", [(), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_stages_that_do_not_grow_below_one_are_refused(stages: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"for instance 0\.05"):
        replace(PLAN, stages=stages)


def test_looks_are_not_so_far_apart_that_no_lease_would_hold_between_them() -> None:
    assert replace(PLAN, every_s=900).lease_s <= 3600
    with pytest.raises(ValueError, match="at most 900 seconds lie between two looks"):
        replace(PLAN, every_s=901)


# --- what it rests on


@pytest.fixture
def judged(suite: Path, served: Served) -> Report:
    """'good' against 'bad', the judge's word decides, and nobody has labelled anything yet."""
    evidence = launch(options(suite, served, candidate="good", baseline="bad")).evidence
    metrics = tuple(replace(metric, decides=True, primary=True) for metric in evidence.metrics)
    limits = replace(evidence.limits, promote_when=PromoteWhen.BETTER)
    return build_report(replace(evidence, metrics=metrics, limits=limits))


def test_only_what_the_gate_promoted_goes_live_and_with_the_labels_that_it_was_given(judged: Report) -> None:
    assert judged.gate.verdict is Verdict.INCONCLUSIVE
    with pytest.raises(RecordError, match="only promote may go live"):
        metrics_of(judged, None, 0.02)
    # people find a third of what the judge liked in the candidate poor: it favours that side
    labels = {
        (s.metric, s.sample_id, s.setting, s.repeat): Label(s.value == 1.0 and not (s.setting == "good" and s.sample_id.endswith(("3", "6", "9"))))
        for s in judged.evidence.scores
        if s.metric == "helpful"
    }  # fmt: skip
    report = build_report(judged.evidence, labels)
    assert report.gate.verdict is Verdict.PROMOTE
    for wrong, message in (
        (None, "--labels"),
        ({**labels, ("helpful", "x", "good", 0): Label(True)}, "not the labels"),
    ):
        with pytest.raises(LabelsError, match=message):
            metrics_of(report, wrong, 0.02)
    assert report.labels_digest == labels_digest(labels)
    answered, passed, helpful = metrics_of(
        report, labels, 0.03
    )  # not `brief`: nobody said how long a live answer may be
    assert [one.name for one in (answered, passed, helpful)] == [ANSWERED, PASSED, "helpful"]
    assert (answered.margin, answered.shift, helpful.margin) == (0.03, None, 0.05)
    assert metrics_of(report, labels, 0.03, ["brief"]) == (answered, passed)
    with pytest.raises(RecordError, match="no metric 'toe'; it has brief, helpful"):
        metrics_of(report, labels, 0.03, ["toe"])
    assert helpful.shift is not None
    assert -0.6 < helpful.shift[0] < -0.3 < helpful.shift[1] < 0  # 12 of 40 pairs, and what 20 conversations leave open


def test_a_judge_that_decides_nothing_in_the_gate_decides_nothing_live(suite: Path, served: Served) -> None:
    report = launch(options(suite, served, candidate="good", baseline="bad"))
    assert report.gate.verdict is Verdict.PROMOTE  # by the length of the answers alone
    assert [(one.name, one.decides) for one in metrics_of(report, None, 0.02)][2:] == [("helpful", False)]


# --- the command


def test_the_command_names_what_is_missing(judged: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALLGATE_ROLLOUT_TOKEN", "CALLGATE_EVAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "report.json"
    save_report(judged, file)
    command = ["run", "m", "--report", str(file), "--out", str(tmp_path), "--url", "http://127.0.0.1:9"]

    def said(*more: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*command, *more])
        return found.exit_code, found.output

    assert said() == (3, "error: set CALLGATE_ROLLOUT_TOKEN to a token that the gateway's CALLGATE_ADMIN_TOKEN holds\n")
    monkeypatch.setenv("CALLGATE_ROLLOUT_TOKEN", "a-token-of-the-gateway")
    assert "set CALLGATE_EVAL_KEY to the key that signed the report, or say --unsigned" in said()[1]
    monkeypatch.setenv("CALLGATE_EVAL_KEY", "sixteen bytes or more")
    code, told = said()
    assert (code, "the report is not signed" in told) == (3, True)
    monkeypatch.delenv("CALLGATE_EVAL_KEY")
    assert "only promote may go live" in said("--unsigned")[1]
    assert "shares separated by commas" in said("--unsigned", "--stages", "ten")[1]
    assert said("--nonsense")[0] == 3
    for other in (["status"], ["stop", "m"], ["clear", "m"]):
        found = CliRunner().invoke(app, [*other, "--url", "http://127.0.0.1:9"])
        assert (found.exit_code, "no answer of a gateway" in found.output) == (3, True)
    assert not list(tmp_path.glob("rollout.*"))
