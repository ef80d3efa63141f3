"""The caller's fraud risk tightens the policy of a chat: fewer tools, values that stay masked, a person instead of the model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.steps.risk import apply_risk
from gateway.types import ChatRequest, Record
from guardrails.policy import load_policy
from guardrails.risk import RiskAction, RiskSettings
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for
from tests.gateway.test_telemetry import collector

POLICY = """version: 1
name: care
rails: {}
redaction: {ner: 'off'}
risk:
  elevated_at: 0.05
  elevated: {refuse_tools: [refund], keep_masked: true}
  high: {hand_off: A colleague takes over from here.}
"""
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("refund", "balance")]
MAIL = "ann@example.com"


@pytest.fixture
async def at(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[tuple[Gateway, list[bytes]]]:
    policy = tmp_path / "care"
    policy.mkdir()
    (policy / "config.yml").write_text("models: []\n")
    (policy / "policy.yaml").write_text(POLICY)
    deployment = {"name": "echo", "base_url": openai_backend.base_url, "model": "echo"}
    async with collector() as (url, got):
        settings = settings_for(
            tmp_path,
            openai_backend,
            redis_url,
            models=[{"name": "echo", "policy": "care", "deployments": [deployment]}],
            policies={"care": str(policy)},
            fraud={"enabled": True, "settings": {"log_sync": "kernel", "deadline_ms": 5_000}},
            telemetry={"otlp_endpoint": url, "flush_s": 0.05},
        )
        async with running(settings) as gateway:
            yield gateway, got


def payment(name: str, customer: str, amount: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {"transaction_id": f"{name}-{now[-20:-6].replace(':', '-')}", "customer_id": customer, "terminal_id": "m", "amount": amount, "currency": "EUR", "timestamp": now, "call_id": f"call-{customer}"}  # fmt: skip


def ask(**more: Any) -> dict[str, Any]:
    return {
        "model": "echo",
        "messages": [{"role": "user", "content": f"write to {MAIL} please"}],
        "tools": TOOLS,
    } | more


async def until_noted(gateway: Gateway, expected: str, **more: Any) -> str:
    """The answer once the decision, which is noted after its own answer, can be seen."""
    for _ in range(200):
        _, body, _ = await gateway.post("/v1/chat/completions", ask(**more))
        said: str = body["choices"][0]["message"]["content"]
        if said == expected:
            break
        await asyncio.sleep(0)
    return said


async def test_a_reviewed_customer_keeps_its_values_masked_and_loses_a_tool(
    at: tuple[Gateway, list[bytes]], openai_backend: Backend
) -> None:
    gateway, traces = at
    usual = f"write to {MAIL} please"
    assert await until_noted(gateway, usual, metadata={"customer_id": "calm"}) == usual
    assert [tool["function"]["name"] for tool in openai_backend.bodies[-1]["tools"]] == ["refund", "balance"]
    status, decision, _ = await gateway.post("/v1/fraud/score", payment("a", "odd", "9420.00"))
    assert (status, decision["decision"]) == (200, "review")
    masked = "write to [EMAIL_ADDRESS_1] please"
    assert await until_noted(gateway, masked, metadata={"customer_id": "odd"}) == masked
    assert [tool["function"]["name"] for tool in openai_backend.bodies[-1]["tools"]] == ["balance"]
    # the call that the payment belongs to carries the same risk
    _, body, _ = await gateway.post("/v1/chat/completions", ask(), headers={"x-call-id": "call-odd"})
    assert body["choices"][0]["message"]["content"] == masked
    for _ in range(400):
        if b"elevated (scored), refused tools: 1, masked" in b"".join(traces):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the trace does not show the risk")
    assert b"fraud-risk" in b"".join(traces)
    assert b"calm" not in b"".join(traces)


class Source:
    """A double of the fraud service: an answer, an error or silence."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def risk(self, subject: str) -> tuple[float | None, str] | None:
        if self._answer is Ellipsis:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        found: tuple[float | None, str] | None = self._answer
        return found


def request(**body: Any) -> ChatRequest:
    record = Record("r", b"0" * 16, b"0" * 8, b"", 0, "chat")
    return ChatRequest(
        "chat", "m", {"messages": [], "metadata": {"customer_id": "c"}, **body}, False, False, record, 0.0
    )


@pytest.mark.parametrize(
    ("source", "words", "outcome"),
    [
        (Source((0.01, "approve")), "low (scored)", "pass"),
        (Source((0.9, "approve")), "high (scored), hand-off", "block"),
        (Source((None, "decline")), "high (scored), hand-off", "block"),
        (Source((None, "review")), "elevated (scored), masked", "rewrite"),
        (Source(None), "elevated (nothing known), masked", "rewrite"),
        (Source(ConnectionError()), "elevated (fraud service away), masked", "rewrite"),
        (Source(...), "elevated (past the deadline), masked", "rewrite"),
        (None, "elevated (no fraud service), masked", "rewrite"),
    ],
)
async def test_the_level_is_the_scores_or_the_declared_default(source: Any, words: str, outcome: str) -> None:
    settings = RiskSettings(
        deadline_ms=5, default="elevated", elevated=RiskAction(keep_masked=True), high=RiskAction(hand_off="A person.")
    )
    asked = request()
    await apply_risk(settings, source, asked)
    rail = asked.record.rails[-1]
    assert (rail.reason, rail.outcome) == (words, outcome)
    assert (asked.refusal == "A person.") is (outcome == "block")
    assert asked.keep_masked is (outcome == "rewrite")


async def test_without_its_last_tool_a_request_asks_for_none() -> None:
    settings = RiskSettings(default="high", high=RiskAction(refuse_tools=("refund",)))
    asked = request(tools=TOOLS[:1], tool_choice={"type": "function", "function": {"name": "refund"}})
    await apply_risk(settings, None, asked)
    assert "tools" not in asked.body
    assert "tool_choice" not in asked.body


def test_a_policy_without_risk_keeps_its_digest_and_one_with_it_has_another(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("models: []\n")
    digests = set()
    for text in (POLICY, POLICY.partition("risk:")[0], POLICY.replace("0.05", "0.06")):
        (tmp_path / "policy.yaml").write_text(text)
        digests.add(load_policy(tmp_path).digest)
    assert len(digests) == 3
