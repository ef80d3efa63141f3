"""Live calls judged as they come: sampling, budget, nothing paid for twice, and what a server that is away costs. The real Phoenix is in life_of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.judges.build import build_judges
from evals.judges.checks import Check
from evals.online import JUDGE_CALL, LiveCall, OnlineJudge, is_sampled
from evals.phoenix import is_judges
from evals.suite import load_suite
from evals.target import Budget
from evals.types import BUDGET_SPENT, Message, Score
from tests.evals.conftest import ClientFactory, Double, completion
from tests.evals.tiny import Served

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@dataclass
class Kept:
    """A double of Phoenix: calls in, annotations out."""

    live: list[LiveCall]
    notes: dict[tuple[str, str], tuple[Score, bool, Mapping[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, datetime]] = field(default_factory=list)
    annotated: int = 0

    def calls(self, project: str, since: datetime, limit: int) -> Sequence[LiveCall]:
        self.asked.append((project, since))
        return self.live[:limit]

    def judged(self, project: str, spans: Collection[str], metrics: Collection[str]) -> set[tuple[str, str]]:
        paid = {key for key, (score, _, _) in self.notes.items() if BUDGET_SPENT not in score.reason}
        return {key for key in paid if key[0] in spans and key[1] in metrics}

    def annotate(self, span: str, score: Score, *, exact: bool, about: Mapping[str, str]) -> None:
        assert (span, score.metric) not in self.notes or BUDGET_SPENT in self.notes[span, score.metric][0].reason
        self.annotated += 1
        self.notes[span, score.metric] = (score, exact, about)


@pytest.fixture
def kept() -> Kept:
    return Kept(
        [
            LiveCall(f"t{n}", f"s{n}", NOW, (Message("user", "my mail is a.b@example.com"),), "fine", about={"arm": "canary"})
            for n in range(20)
        ]
    )  # fmt: skip


async def test_sampled_calls_get_scores_once_and_say_which_arm_they_are_of(
    kept: Kept, suite: Path, double: Double, make_client: ClientFactory
) -> None:
    double.script = lambda body, number: completion('{"reason": "r", "verdict": "yes"}')
    judges = {**build_judges(load_suite(suite).model, make_client()), "fast": Check("fast", "latency", 100.0)}
    online = OnlineJudge(kept, judges, {"brief", "fast"}, project="callgate", share=0.4)
    first = await online.look(NOW)
    sampled = [call for call in kept.live if is_sampled(call.conversation, 0.4)]
    assert 0 < len(sampled) < 20
    assert (first.seen, first.sampled, first.written) == (20, len(sampled), 2 * len(sampled))
    assert kept.asked == [("callgate", NOW - timedelta(minutes=10))]
    score, exact, about = kept.notes[sampled[0].span_id, "helpful"]
    assert (score.value, exact, about["arm"]) == (1.0, False, "canary")
    assert about["judge"].startswith("model/j/m/")
    assert kept.notes[sampled[0].span_id, "fast"][1]
    assert "a.b@example.com" not in str(double.seen)
    paid = len(double.seen)
    assert (await online.look(NOW)).written == 0
    assert len(double.seen) == paid


async def test_where_the_budget_is_spent_calls_stay_without_a_score(
    kept: Kept, suite: Path, double: Double, make_client: ClientFactory
) -> None:
    double.script = lambda body, number: completion(f'{{"reason": "{number}", "verdict": "no"}}')
    kept.live = [LiveCall(c.conversation, c.span_id, NOW, (Message("user", c.span_id),), "fine") for c in kept.live]
    judges = build_judges(load_suite(suite).model, make_client(budget=Budget(max_requests=5)))
    online = OnlineJudge(kept, judges, {"brief"}, project="p", share=1.0)
    done = await online.look(NOW)
    assert (done.written, done.out_of_budget, len(double.seen)) == (5, True, 5)
    assert "stays without a score" in str(done)
    assert Counter(score.reason for score, _, _ in kept.notes.values())[f"judge: {BUDGET_SPENT}"] == 15
    assert ((await online.look(NOW)).out_of_budget, kept.annotated) == (True, 20)  # each is told once an hour
    rest = build_judges(load_suite(suite).model, make_client("next-hour.jsonl"))
    assert (await OnlineJudge(kept, rest, {"brief"}, project="p", share=1.0).look(NOW)).written == 15


async def test_a_judge_that_says_nothing_clear_leaves_no_number(
    kept: Kept, suite: Path, double: Double, make_client: ClientFactory
) -> None:
    double.script = lambda body, number: completion("rather not")
    kept.live = [*kept.live[:2], LiveCall("t", "empty", NOW, (Message("user", "q"),), "")]
    online = OnlineJudge(
        kept, build_judges(load_suite(suite).model, make_client()), (), project="p", share=1.0, concurrency=1
    )
    assert (await online.look(NOW)).not_scored == 3
    assert {score.value for score, _, _ in kept.notes.values()} == {None}
    assert kept.notes["empty", "helpful"][0].reason == "no answer: the span holds no text"


def test_samples_are_of_the_stated_share_and_larger_ones_hold_smaller_ones() -> None:
    traces = [f"{n:032x}" for n in range(4000)]
    few, many = ({t for t in traces if is_sampled(t, share)} for share in (0.05, 0.5))
    assert few < many
    assert 150 < len(few) < 250
    assert not any(is_sampled(t, 0.0) for t in traces[:50])
    assert all(is_sampled(t, 1.0) for t in traces[:50])


def test_a_phoenix_that_is_away_costs_a_line_and_a_judge_that_is_away_the_command(suite: Path, served: Served) -> None:
    command = ["watch", str(suite), "--phoenix", "http://127.0.0.1:9", "--once", "--judge-url"]
    away = CliRunner().invoke(app, [*command, served.url])
    assert (away.exit_code, "phoenix: not read (" in away.output) == (0, True), away.output
    assert CliRunner().invoke(app, [*command, "http://127.0.0.1:9/v1"]).exit_code == 3


async def test_an_arm_may_have_a_share_of_its_own_and_calls_without_text_are_told(
    kept: Kept, suite: Path, double: Double, make_client: ClientFactory
) -> None:
    double.script = lambda body, number: completion('{"reason": "r", "verdict": "yes"}')
    others = [LiveCall(f"u{n}", f"o{n}", NOW, (Message("user", "q"),), "fine", about={"arm": "old"}) for n in range(20)]
    kept.live = [*kept.live, *others, LiveCall("v", "mute", NOW, (), "", about={"arm": "canary"})]
    judges = build_judges(load_suite(suite).model, make_client())
    online = OnlineJudge(kept, judges, (), project="p", share=0.0, arm_shares={"canary": 1.0})
    done = await online.look(NOW)
    assert (done.sampled, done.silent) == (21, 1)
    assert {span for span, _ in kept.notes} <= {f"s{n}" for n in range(20)} | {"mute"}
    assert str(done).endswith("; 1 have no text on their span (no policy, or telemetry.record_texts: false)")


async def test_what_judges_are_asked_is_known_by_its_call_id_and_not_judged_itself(
    kept: Kept, suite: Path, double: Double, make_client: ClientFactory
) -> None:
    double.script = lambda body, number: completion('{"reason": "r", "verdict": "yes"}')
    judges = build_judges(load_suite(suite).model, make_client(calls=JUDGE_CALL))
    await OnlineJudge(kept, judges, (), project="p", share=1.0).look(NOW)
    assert len(set(double.calls)) == 1  # twenty calls that said the same
    call_id = double.calls[0]
    assert call_id is not None
    assert call_id.startswith(f"{JUDGE_CALL}.")
    assert [is_judges({"attributes": {"session.id": value}}) for value in (call_id, "a-caller's", None)] == [
        True,
        False,
        False,
    ]
