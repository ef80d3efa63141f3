"""Calls and scores as Phoenix tells them to a rollout: what counts, whose word it is, and that nothing is lost to a slow or failing server."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evals.errors import EvalError
from evals.online import is_sampled
from evals.phoenix import ONLINE, Phoenix
from evals.rollout.launch import NO_SCORE, NO_TEXT, PhoenixTraffic, RolloutOptions
from evals.rollout.live import ANSWERED, Arms, LiveMetric, LiveScore
from evals.rollout.run import RolloutPlan
from evals.types import BUDGET_SPENT

START = datetime(2026, 11, 27, 8, tzinfo=UTC)
NOW = START + timedelta(minutes=31)
JUDGE, GROUNDED = "model/j/m/0123@1", "local/faithfulness@1"


def span(number: int | str, minute: float = 0.0, **attributes: Any) -> dict[str, Any]:
    at = (START + timedelta(minutes=minute)).isoformat()
    told = {"callgate.assigned": "canary", "callgate.arm": "canary", "output.value": "fine"}
    told |= {"llm.input_messages.0.message.content": "how are you?"}
    told |= {f"callgate.{name}": value for name, value in attributes.items()}
    context = {"trace_id": f"t{number}", "span_id": f"s{number}"}
    return {"context": context, "start_time": at, "end_time": at, "status_code": "OK", "attributes": told}


def note(value: Any, **about: Any) -> dict[str, Any]:
    told = {
        "span_id": "s0",
        "name": "helpful",
        "annotator_kind": "LLM",
        "identifier": ONLINE,
        "metadata": {"judge": JUDGE},
    }
    return told | {"result": {"score": value}} | about


class Server:
    """A double of Phoenix's client: its spans and annotations, and what happens before they are told."""

    def __init__(self) -> None:
        self.spans = self
        self.kept: list[dict[str, Any]] = []
        self.written: list[dict[str, Any]] = []
        self.fails = False
        self.retrieved: list[dict[str, Any]] = []
        self.gate: threading.Event | None = None

    def get_spans(self, *, start_time: datetime, span_kind: list[str], limit: int, **_: Any) -> list[dict[str, Any]]:
        if self.gate is not None:
            self.gate.wait(20)
        kept = self.kept if span_kind == ["LLM"] else self.retrieved
        return [one for one in kept if datetime.fromisoformat(one["start_time"]) >= start_time][:limit]

    def get_span_annotations(self, *, span_ids: Sequence[str], **_: Any) -> list[dict[str, Any]]:
        if self.fails:
            raise ConnectionError
        return [one for one in self.written if one["span_id"] in span_ids]


@pytest.fixture
def server() -> Server:
    return Server()


def reader(server: Server, **more: Any) -> PhoenixTraffic:
    phoenix = Phoenix("http://127.0.0.1:9")
    phoenix._client = server
    plan = RolloutPlan("m", "run-12345678")
    options = RolloutOptions(plan, Path("r"), None, "", "", "p", Path("o"), "token", None, **more)
    return PhoenixTraffic(phoenix, options, "canary", {"helpful": JUDGE, "grounded": GROUNDED})


@pytest.fixture
def traffic(server: Server) -> PhoenixTraffic:
    return reader(server)


def values(scores: Sequence[LiveScore], metric: str = ANSWERED) -> dict[str, float | None]:
    return {score.span: score.value for score in scores if score.metric == metric}


def missing(scores: Sequence[LiveScore], metric: str = "helpful") -> dict[str, str]:
    return {score.span: score.reason for score in scores if score.metric == metric and score.value is None}


async def test_a_call_that_hung_until_its_deadline_is_read_though_younger_ones_were_read_before(
    server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(1, minute=10)]
    await traffic.read(START, NOW)
    server.kept.append(span(0, minute=7.9, arm="old", error_code="upstream_timeout"))
    assert values((await traffic.read(START, NOW)).scores)["s0"] == 0.0


async def test_what_a_failing_look_had_found_is_found_again(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.fails = [span(0, minute=0), span(1, minute=30)], True
    with pytest.raises(ConnectionError):
        await traffic.read(START, NOW)
    server.fails = False
    assert set(values((await traffic.read(START, NOW)).scores)) == {"s0", "s1"}


async def test_what_a_look_found_that_took_too_long_is_not_lost(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.gate = [span(0, minute=0), span(1, minute=30)], threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await traffic.read(START, NOW)
    server.gate.set()
    found = await traffic.read(START, NOW + timedelta(minutes=5))
    assert (set(values(found.scores)), found.at) == ({"s0", "s1"}, NOW)  # what was written since is not in it
    server.kept.append(span(2, minute=31))
    assert "s2" in values((await traffic.read(START, NOW)).scores)


@pytest.mark.parametrize(
    ("error", "text", "answered"),
    [
        ("", "fine", 1.0), ("upstream_cut", "fi", 0.0), ("context_length_exceeded", "", 0.0), ("client_hung_up", "", 0.0),
        ("client_hung_up", "fi", 1.0), ("content_policy_violation", "fine", 1.0), ("guardrail_unavailable", "fine", 1.0),
    ],
)  # fmt: skip
async def test_what_a_backend_refused_or_nobody_waited_for_is_not_answered(
    error: str, text: str, answered: float, server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(0, error_code=error) | {}]
    server.kept[0]["attributes"]["output.value"] = text
    assert values((await traffic.read(START, NOW)).scores) == {"s0": answered}


async def test_the_word_of_another_tool_another_judge_or_a_person_is_no_score(
    server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(0)]
    server.written = [
        note(0.0, identifier="another tool"), note(0.0, annotator_kind="HUMAN"), note(0.0, metadata={"judge": "model/other@1"}),
        note(0.0, metadata=None),
    ]  # fmt: skip
    assert missing((await traffic.read(START, NOW)).scores) == {"s0": "scored by another judge than in the report"}
    server.written = server.written[:2]
    assert missing((await traffic.read(START, NOW)).scores) == {"s0": NO_SCORE}
    server.written.append(note(1.0))
    assert values((await traffic.read(START, NOW)).scores, "helpful") == {"s0": 1.0}


@pytest.mark.parametrize("strange", [math.nan, math.inf, -1.0, 5, "1", None])
async def test_what_is_no_number_between_0_and_1_is_no_score(
    strange: Any, server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept, server.written = [span(0)], [note(strange)]
    assert values((await traffic.read(START, NOW)).scores, "helpful") == {"s0": None}


async def test_what_a_watch_samples_is_missing_from_the_start_and_asked_for_until_it_counts(server: Server) -> None:
    traffic = reader(server, share=0.3, arm_shares={"old": 0.0})
    server.kept = [span(number) for number in range(40)] + [span(99, assigned="old", arm="old")]
    sampled = {f"s{number}" for number in range(40) if is_sampled(f"t{number}", 0.3)}
    assert missing((await traffic.read(START, START)).scores) == dict.fromkeys(sampled, NO_SCORE)
    server.kept = [span(100, minute=60)]  # the others are read no more
    at = START + timedelta(minutes=9.9)
    assert sampled <= set(missing((await traffic.read(START, at)).scores))
    first = min(sampled)
    server.written = [note(0.0, span_id=first)]
    assert values((await traffic.read(START, at)).scores, "helpful")[first] == 0.0
    server.written = []  # what was read is not lost with it
    assert values((await traffic.read(START, at)).scores, "helpful")[first] == 0.0
    await traffic.read(START, START + timedelta(minutes=10))
    assert not sampled & set(missing((await traffic.read(START, NOW)).scores))


async def test_what_is_missing_says_why(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept = [span(number) for number in range(3)]
    del server.kept[1]["attributes"]["llm.input_messages.0.message.content"]
    told = {"label": "not scored", "explanation": f"judge: {BUDGET_SPENT}"}
    server.written = [note(None, span_id="s2", result=told)]
    found = (await traffic.read(START, NOW)).scores
    assert missing(found) == {"s0": NO_SCORE, "s1": NO_TEXT, "s2": f"not scored: judge: {BUDGET_SPENT}"}
    server.written = [note(1.0, span_id="s2")]  # the next hour paid for it
    assert values((await traffic.read(START, NOW)).scores, "helpful")["s2"] == 1.0


async def test_a_metric_of_passages_is_owed_where_passages_were_retrieved(
    server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(0, minute=10), span(1, minute=10), span(2, minute=10)]
    found, none = ({**span(number, minute=9.9), "attributes": {}} for number in (0, 1))
    found["attributes"]["retrieval.documents.0.document.content"] = "a passage"
    server.retrieved = [found, none]
    for _ in range(2):
        assert missing((await traffic.read(START, NOW)).scores, "grounded") == {"s0": NO_SCORE}


async def test_more_calls_than_one_look_may_hold_are_no_look(
    server: Server, traffic: PhoenixTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.rollout.launch.MOST_CALLS", 3)
    server.kept = [span(number) for number in range(2)]
    assert len(values((await traffic.read(START, NOW)).scores)) == 2
    server.kept.append(span(2))
    with pytest.raises(EvalError, match="3 or more spans at one look"):
        await traffic.read(START, NOW)


async def test_a_trace_kept_for_what_rails_found_is_not_judged(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.written = [span(0, kept="not drawn")], [note(0.0)]
    assert (await traffic.read(START, NOW)).scores == []


async def test_arms_of_unlike_shares_are_compared_by_like_conversations(server: Server) -> None:
    """Both arms are equal: ten calls of long conversations are bad, the only one of short ones is good. Calls sampled one by one would find more of the long."""
    traffic = reader(server, share=0.2, arm_shares={"canary": 1.0})
    arms = Arms([LiveMetric("helpful", 0.05)], timedelta(minutes=5), timedelta(minutes=5))
    for number in range(1600):
        arm, length = "old" if number % 2 else "canary", 10 if number % 4 < 2 else 1
        for call in range(length):
            made = span(f"{number}-{call}", minute=number / 800, assigned=arm, arm=arm)
            made["attributes"]["session.id"] = f"c{number}"
            server.kept.append(made)
            server.written.append(note(float(length == 1), span_id=f"s{number}-{call}"))
    arms.take(await traffic.read(START, NOW))
    (shown,) = arms.look(0.05, START)
    assert shown.candidate == 800
    assert shown.candidate_mean == 0.5
    assert abs(shown.baseline_mean - 0.5) < 0.1  # found one by one: .2
