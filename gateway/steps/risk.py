"""The caller's fraud risk as a rail: what the policy's `risk` says is done to the request, and a line of the record tells it.

A request names a customer under `metadata.customer_id` or a call by the `x-call-id` header. Fails to the policy's declared default, within
its deadline. No id is put on record.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from gateway.types import ChatRequest, RailResult
from guardrails.risk import Level, RiskSettings


class RiskSource(Protocol):
    """The riskiest recent decision of a customer or call as (probability, outcome); None when there is none. Raises: OSError."""

    async def risk(self, subject: str) -> tuple[float | None, str] | None: ...


async def apply_risk(settings: RiskSettings, source: RiskSource | None, request: ChatRequest) -> None:
    """Changes the request as its caller's risk demands: fewer tools, values that stay masked, or an answer by a person."""
    begun = time.perf_counter()
    level, reason, score = await _level(settings, source, request)
    action = settings.action(level)
    tools = _without(request, frozenset(action.refuse_tools))
    request.keep_masked = action.keep_masked
    if action.hand_off:
        request.refusal = action.hand_off
    done = [
        f"refused tools: {tools}" if tools else "",
        "masked" if action.keep_masked else "",
        "hand-off" if action.hand_off else "",
    ]
    words = ", ".join(part for part in (f"{level} ({reason})", *done) if part)
    outcome = "block" if action.hand_off else "rewrite" if tools or action.keep_masked else "pass"
    if reason not in ("scored", "nobody named"):
        outcome = "not_run" if outcome == "pass" else outcome
    took_s = time.perf_counter() - begun
    request.record.rails.append(
        RailResult("fraud-risk", "input", outcome, words, score, settings.high_at, took_s, True)
    )


async def _level(
    settings: RiskSettings, source: RiskSource | None, request: ChatRequest
) -> tuple[Level, str, float | None]:
    subjects = _subjects(request)
    if not subjects:
        return settings.default, "nobody named", None
    if source is None:
        return settings.default, "no fraud service", None
    try:
        async with asyncio.timeout(settings.deadline_ms / 1000):
            found = [one for subject in subjects if (one := await source.risk(subject)) is not None]
    except TimeoutError:
        return settings.default, "past the deadline", None
    except OSError:
        return settings.default, "fraud service away", None
    if not found:
        return settings.default, "nothing known", None
    levels: list[Level] = [settings.level(*one) for one in found]
    worst = max(levels, key=("low", "elevated", "high").index)
    return worst, "scored", max((probability or 0.0 for probability, _ in found), default=None)


def _subjects(request: ChatRequest) -> list[str]:
    metadata = request.body.get("metadata")
    customer: Any = metadata.get("customer_id") if isinstance(metadata, dict) else None
    named = [f"customer:{customer}"] if isinstance(customer, str) and 0 < len(customer) <= 64 else []
    return [*named, f"call:{request.record.call_id}"] if request.record.call_id else named


def _without(request: ChatRequest, refused: frozenset[str]) -> int:
    """Takes refused tools out of the request; how many. A demand for one of them becomes a free choice."""
    tools = request.body.get("tools")
    if not refused or not isinstance(tools, list):
        return 0
    kept = [tool for tool in tools if _name(tool) not in refused]
    gone = len(tools) - len(kept)
    if gone:
        request.body["tools"] = kept
        choice = request.body.get("tool_choice")
        if not kept:
            request.body.pop("tools")
            request.body.pop("tool_choice", None)
            request.body.pop("parallel_tool_calls", None)
        elif isinstance(choice, dict) and _name(choice) in refused:
            request.body["tool_choice"] = "auto"
    return gone


def _name(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    return str(function.get("name", "")) if isinstance(function, dict) else ""
