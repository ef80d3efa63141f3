"""The caller's fraud risk as a rail: what the policy's `risk` says is done to the request, and a line of the record tells it.

A request names a customer under `metadata.customer_id` or a call by the `x-call-id` header. Fails to the policy's declared default, within
its deadline. No id is put on record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.types import ChatRequest, Json, RailResult
from guardrails.risk import RiskAction, RiskSettings

Found = Sequence[tuple[float | None, str]]
RAIL = "fraud-risk"


class RiskSource(Protocol):
    """The riskiest recent decision of a customer or call as (probability, outcome); None when there is none. Raises: OSError."""

    async def risk(self, subject: str) -> tuple[float | None, str] | None: ...


async def apply_risk(settings: RiskSettings, source: RiskSource | None, request: ChatRequest) -> None:
    """Changes the request as its caller's risk demands: fewer tools, values that stay masked, or an answer by a person."""
    begun = time.perf_counter()
    found, reason = await _found(settings, source, request)
    level = settings.worst(found)
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
    if (recording := request.record.recording) is not None:
        recording.risk = {"found": list(found)}
    if reason not in ("scored", "nobody named"):
        outcome = "not_run" if outcome == "pass" else outcome
    took_s = time.perf_counter() - begun
    score = _score(found)
    request.record.rails.append(RailResult(RAIL, "input", outcome, words, score, settings.high_at, took_s, True))


def action_at(settings: RiskSettings, risk: Json) -> RiskAction:
    """What a policy does at the risk that a recording holds."""
    return settings.action(settings.worst(risk["found"]))


def risk_rulings(settings: RiskSettings, risk: Json) -> list[Json]:
    """That a person takes over, as a recording holds what a stage ruled; nothing where the model is asked."""
    words = action_at(settings, risk).hand_off
    if not words:
        return []
    score, limit = _score(risk["found"]), settings.high_at
    verdict = {"rail": RAIL, "outcome": "block", "enforced": True, "score": score, "threshold": limit}
    ruling = {"stage": "risk", "channel": "", "decision": "block", "kind": "content", "respond": "refusal"}
    return [{**ruling, "text": words, "verdicts": [{**verdict, "reason": "", "duration_ms": 0.0}]}]


def _score(found: Found) -> float | None:
    return max((probability or 0.0 for probability, _ in found), default=None)


async def _found(settings: RiskSettings, source: RiskSource | None, request: ChatRequest) -> tuple[Found, str]:
    """What is known of those whom the request names, and in a word why nothing is."""
    subjects = _subjects(request)
    if not subjects:
        return [], "nobody named"
    if source is None:
        return [], "no fraud service"
    try:
        async with asyncio.timeout(settings.deadline_ms / 1000):
            found = [one for subject in subjects if (one := await source.risk(subject)) is not None]
    except TimeoutError:
        return [], "past the deadline"
    except OSError:
        return [], "fraud service away"
    return found, "scored" if found else "nothing known"


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
