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

from evals.phoenix import ONLINE, Phoenix
from evals.rollout.launch import PhoenixTraffic, RolloutOptions
from evals.rollout.live import ANSWERED, LiveScore
from evals.rollout.run import RolloutPlan

START = datetime(2026, 11, 27, 8, tzinfo=UTC)
JUDGE = "model/j/m/0123@1"


def span(number: int, minute: float = 0.0, **attributes: Any) -> dict[str, Any]:
    at = (START + timedelta(minutes=minute)).isoformat()
    told = {"callgate.assigned": "canary", "callgate.arm": "canary", "output.value": "fine"}
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
        self.gate: threading.Event | None = None

    def get_spans(self, *, start_time: datetime, **_: Any) -> list[dict[str, Any]]:
        if self.gate is not None:
            self.gate.wait(20)
        return [one for one in self.kept if datetime.fromisoformat(one["start_time"]) >= start_time]

    def get_span_annotations(self, *, span_ids: Sequence[str], **_: Any) -> list[dict[str, Any]]:
        if self.fails:
            raise ConnectionError
        return [one for one in self.written if one["span_id"] in span_ids]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def traffic(server: Server) -> PhoenixTraffic:
    phoenix = Phoenix("http://127.0.0.1:9")
    phoenix._client = server
    plan = RolloutPlan("m", "run-12345678")
    options = RolloutOptions(plan, Path("r"), None, "", "", "p", Path("o"), "token", None)
    return PhoenixTraffic(phoenix, options, "canary", {"helpful": JUDGE})


def values(scores: Sequence[LiveScore], metric: str = ANSWERED) -> dict[str, float | None]:
    return {score.span: score.value for score in scores if score.metric == metric}


async def test_a_call_that_hung_until_its_deadline_is_read_though_younger_ones_were_read_before(
    server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(1, minute=10)]
    await traffic.scores(START)
    server.kept.append(span(0, minute=7.9, arm="old", error_code="upstream_timeout"))
    assert values(await traffic.scores(START))["s0"] == 0.0


async def test_what_a_failing_look_had_found_is_found_again(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.fails = [span(0, minute=0), span(1, minute=30)], True
    with pytest.raises(ConnectionError):
        await traffic.scores(START)
    server.fails = False
    assert set(values(await traffic.scores(START))) == {"s0", "s1"}


async def test_what_a_look_found_that_took_too_long_is_not_lost(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.gate = [span(0, minute=0), span(1, minute=30)], threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await traffic.scores(START)
    server.gate.set()
    assert set(values(await traffic.scores(START))) == {"s0", "s1"}
    server.kept.append(span(2, minute=31))
    assert "s2" in values(await traffic.scores(START))


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
    assert values(await traffic.scores(START)) == {"s0": answered}


async def test_the_word_of_another_tool_another_judge_or_a_person_is_no_score(
    server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept = [span(0)]
    server.written = [
        note(0.0, identifier="another tool"), note(0.0, annotator_kind="HUMAN"), note(0.0, metadata={"judge": "model/other@1"}),
        note(0.0, metadata=None),
    ]  # fmt: skip
    assert values(await traffic.scores(START), "helpful") == {}
    server.written.append(note(1.0))
    assert values(await traffic.scores(START), "helpful") == {"s0": 1.0}


@pytest.mark.parametrize("strange", [math.nan, math.inf, -1.0, 5, "1", None])
async def test_what_is_no_number_between_0_and_1_is_no_score(
    strange: Any, server: Server, traffic: PhoenixTraffic
) -> None:
    server.kept, server.written = [span(0)], [note(strange)]
    assert values(await traffic.scores(START), "helpful") == {"s0": None}


async def test_a_trace_kept_for_what_rails_found_is_not_judged(server: Server, traffic: PhoenixTraffic) -> None:
    server.kept, server.written = [span(0, kept="not drawn")], [note(0.0)]
    assert await traffic.scores(START) == []
