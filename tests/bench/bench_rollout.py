"""bench-rollout: whole rollouts with known truth, beside what canaries are usually decided by; and calls that fail while shares move.

Run `python -m tests.bench.bench_rollout` from the root; QUICK=1 for a minute of it. A simulated call is a conversation; a hundred arrive between two
looks. In half of the worlds the day gets harder for both arms while the share grows. Naive: a two-sample z test of all calls so far, at every look, and a
threshold on the difference of the means. `calls_to_detect`: the candidate's calls until a median rollout is taken back. Then the same with a judge that says nothing in time
of some answers: ours beside ours that leaves out what has no score. Ends with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scipy import stats

from evals.rollout.live import Action, Arms, LiveMetric, LiveScore, Reading, decide
from gateway.ports import free_port
from gateway.rollouts import Rollout, Rollouts, backend_of
from gateway.stores import RedisStore
from gateway.types import Deployment
from tests.conftest import redis_at
from tests.doubles.openai_backend import backend
from tests.gateway.conftest import running, settings_for

QUICK = bool(os.environ.get("QUICK"))
ROLLOUTS = 20 if QUICK else 100
ALPHA, MARGIN, STAGES, MIN = 0.05, 0.05, (0.05, 0.1, 0.25, 0.5), 50
BETWEEN, MOST = 100, 6000
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """The share of good calls of the champion, the candidate's difference, and by how much both fall in the course of a rollout. `unjudged`: the share of
    answers without a score, by whether they are the candidate's and whether they are good.
    """

    name: str
    good: float
    difference: float
    harder: float = 0.0
    margin: float = MARGIN
    most: int = MOST
    unjudged: Callable[[bool, bool], float] = lambda candidate, good: 0.0


@dataclass
class Draw:
    """One rollout's calls, drawn as the share says."""

    world: World
    chance: random.Random
    number: int = 0

    def calls(self, share: float) -> list[LiveScore]:
        made = []
        for _ in range(BETWEEN):
            candidate = self.chance.random() < share
            good = (
                self.world.good - self.world.harder * self.number / self.world.most + self.world.difference * candidate
            )
            value = self.chance.random() < good
            hidden = self.chance.random() < self.world.unjudged(candidate, value)
            name, at = str(self.number), START + timedelta(seconds=self.number)
            made.append(LiveScore(name, name, "m", candidate, None if hidden else float(value), at))
            self.number += 1
        return made


def ours(world: World, chance: random.Random, *, dropping: bool = False) -> tuple[Action, int]:
    """As evals/rollout/run.py steps, without its clock. `dropping`: what has no score is left out."""
    arms, draw = Arms([LiveMetric("m", world.margin)], timedelta(0), timedelta(0)), Draw(world, chance)
    stage, began, shown = 0, START, None
    while draw.number < world.most:
        calls = [call for call in draw.calls(STAGES[stage]) if call.value is not None or not dropping]
        arms.take(Reading(START + timedelta(seconds=draw.number), calls))
        (shown,) = arms.look(ALPHA, began)
        step = decide([shown], alpha=ALPHA, min_conversations=MIN, last=stage == len(STAGES) - 1)
        if step.action in (Action.ROLL_BACK, Action.PROMOTE):
            return step.action, shown.candidate
        if step.action is Action.ADVANCE:
            stage, began = stage + 1, START + timedelta(seconds=draw.number)
    return Action.HOLD, shown.candidate if shown else 0


def naive(
    world: World, chance: random.Random, test: Callable[[Counter[tuple[bool, bool]], float], Action]
) -> tuple[Action, int]:
    draw, seen, stage, at_stage = Draw(world, chance), Counter[tuple[bool, bool]](), 0, 0
    while draw.number < world.most:
        for call in draw.calls(STAGES[stage]):
            seen[call.candidate, bool(call.value)] += 1
            at_stage += call.candidate
        if at_stage < MIN:
            continue
        said, last = test(seen, world.margin), stage == len(STAGES) - 1
        if said is Action.ROLL_BACK or (last and said is Action.PROMOTE):
            return said, seen[True, True] + seen[True, False]
        if not last:
            stage, at_stage = stage + 1, 0
    return Action.HOLD, seen[True, True] + seen[True, False]


def z_test(seen: Counter[tuple[bool, bool]], margin: float) -> Action:
    counts = {arm: seen[arm, True] + seen[arm, False] for arm in (True, False)}
    means = {arm: seen[arm, True] / counts[arm] for arm in (True, False)}
    error = sum(means[arm] * (1 - means[arm]) / counts[arm] for arm in (True, False)) ** 0.5 or 1e-9
    z = (means[True] - means[False] + margin) / error
    reach = stats.norm.ppf(1 - ALPHA)
    return Action.ROLL_BACK if z < -reach else Action.PROMOTE if z > reach else Action.HOLD


def threshold(seen: Counter[tuple[bool, bool]], margin: float) -> Action:
    means = {arm: seen[arm, True] / (seen[arm, True] + seen[arm, False]) for arm in (True, False)}
    return Action.ROLL_BACK if means[True] - means[False] < -margin else Action.PROMOTE


Method = Callable[[World, random.Random], tuple[Action, int]]
METHODS: dict[str, Method] = {
    "ours": ours,
    "z test at every look": lambda world, chance: naive(world, chance, z_test),
    "threshold": lambda world, chance: naive(world, chance, threshold),
}
WORLDS = (
    World("equal", 0.9, 0.0),
    World("equal, the day gets harder", 0.95, 0.0, harder=0.4),
    World("bad (on the margin)", 0.9, -0.05),
    World("bad, the day gets easier", 0.55, -0.05, harder=-0.4),
    World("worse by .2", 0.9, -0.2),
    World("better by .04", 0.9, 0.04),
    World("errors +3 %", 0.999, -0.03, margin=0.01, most=30_000),
    World("errors +10 %", 0.999, -0.1, margin=0.01, most=30_000),
)
LATE: dict[str, Method] = {"ours": ours, "left out": lambda world, chance: ours(world, chance, dropping=True)}
LATE_WORLDS = (
    World("worse by .15, bad ones hidden", 0.9, -0.15, unjudged=lambda candidate, good: 0.8 * (candidate and not good)),
    World("equal, good ones hidden", 0.9, 0.0, unjudged=lambda candidate, good: 0.8 * (candidate and good)),
    World("better by .04, 2 % hidden", 0.9, 0.04, unjudged=lambda candidate, good: 0.02),
    World("worse by .2, 2 % hidden", 0.9, -0.2, unjudged=lambda candidate, good: 0.02),
)


def main() -> int:
    """Exit code: 0 measured."""
    found = {(world.name, method): outcome for world, method, outcome in simulated(WORLDS, METHODS)}
    late = {(world.name, method): outcome for world, method, outcome in simulated(LATE_WORLDS, LATE)}
    hidden_bad, hidden_good, better, worse = (world.name for world in LATE_WORLDS)
    figures: dict[str, float | None] = {
        "rollout.alpha": ALPHA,
        "rollout.false_rollback": max(found[name, "ours"][0] for name in ("equal", "equal, the day gets harder")),
        "rollout.false_promotion": max(
            found[name, "ours"][1] for name in ("bad (on the margin)", "bad, the day gets easier")
        ),
        "rollout.false_rollback_z": found["equal, the day gets harder", "z test at every look"][0],
        "rollout.false_promotion_z": found["bad, the day gets easier", "z test at every look"][1],
        "rollout.promoted_better": found["better by .04", "ours"][1],
        "rollout.calls_to_detect.errors_3": found["errors +3 %", "ours"][2],
        "rollout.calls_to_detect.errors_10": found["errors +10 %", "ours"][2],
        "rollout.calls_to_detect.latency_20": None,
        "rollout.calls_to_detect.leak_05": None,
        "rollout.late.false_promotion": late[hidden_bad, "ours"][1],
        "rollout.late.false_promotion_left_out": late[hidden_bad, "left out"][1],
        "rollout.late.false_rollback": late[hidden_good, "ours"][0],
        "rollout.late.false_rollback_left_out": late[hidden_good, "left out"][0],
        "rollout.late.promoted_better": late[better, "ours"][1],
        "rollout.late.rolled_back_worse": late[worse, "ours"][0],
        **asyncio.run(moving()),
    }
    print(json.dumps(figures))
    return 0


def simulated(
    worlds: Iterable[World], methods: Mapping[str, Method]
) -> Iterator[tuple[World, str, tuple[float, float, float | None]]]:
    """Of each world and method: shares rolled back and promoted, and the candidate's calls until a median rollback."""
    print(
        f"{ROLLOUTS} rollouts each, alpha {ALPHA:g}, margin {MARGIN:g}, at most {MOST} calls (30000 for errors, whose margin is .01); seed 1"
    )
    print(f"{'':30} {'':22} rolled back   promoted   undecided   candidate's calls at the median rollback")
    for world in worlds:
        for name, method in methods.items():
            chance = random.Random(f"1/{world.name}/{name}")
            ends = [method(world, chance) for _ in range(ROLLOUTS)]
            count = Counter(action for action, _ in ends)
            calls = [number for action, number in ends if action is Action.ROLL_BACK]
            median = statistics.median(calls) if len(calls) > ROLLOUTS / 2 else None
            back, up = count[Action.ROLL_BACK] / ROLLOUTS, count[Action.PROMOTE] / ROLLOUTS
            print(
                f"{world.name:30} {name:22} {back:11.1%} {up:10.1%} {1 - back - up:11.1%}   {median or '-'}", flush=True
            )
            yield world, name, (back, up, median)


async def moving() -> dict[str, float | None]:
    """Calls through a real gateway and Redis before two doubles, while the share moves from nothing to all and back."""
    sent = failed = 0
    arms: Counter[str] = Counter()
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as folder, redis_at(port, Path(folder)):
        async with backend() as double:
            place = [{"name": name, "base_url": double.base_url, "model": "echo"} for name in ("old", "new")]
            model = {"name": "m", "policy": None, "deployments": place[:1], "candidate": place[1]}
            limits = {"requests_per_minute": None, "tokens_per_minute": None}
            settings = settings_for(
                Path(folder), double, url, models=[model], limits=limits, telemetry={"log_level": "error"}
            )
            store = RedisStore(url)
            async with running(settings) as at:
                done = asyncio.Event()

                async def calling() -> None:
                    nonlocal sent, failed
                    while not done.is_set():
                        status, _, response = await at.post("/v1/chat/completions", BODY)
                        sent, failed = sent + 1, failed + (status != 200)
                        arms[response.headers.get("x-callgate-arm", "")] += 1

                callers = [asyncio.create_task(calling()) for _ in range(8)]
                for share in (*STAGES, 1.0) * (1 if QUICK else 4):
                    await Rollouts(store).start(told(share, double.base_url), 60)
                    await asyncio.sleep(1.5)
                done.set()
                await asyncio.gather(*callers)
            await store.aclose()
    print(f"{sent} calls while the share moved {len(STAGES) + 1} times: {failed} failed; {dict(arms)}")
    return {"swap.calls": sent, "swap.failed": failed}


BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def told(share: float, url: str) -> Rollout:
    backend = backend_of(Deployment("new", "echo", base_url=url))
    return Rollout(
        model="m",
        candidate="new",
        backend=backend,
        share=share,
        state="running",
        owner="bench-rollout",
        by="bench",
        at="",
    )


if __name__ == "__main__":
    sys.exit(main())
