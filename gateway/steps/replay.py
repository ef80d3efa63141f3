"""A recording run again under a policy: the same texts in the same pieces, through its redaction and rails, without any model.

It compares nothing (gateway/policy_plan.py does). A recording holds redacted text only, so of a change in redaction it can show what would be
replaced besides, and by kind what would no longer be; rails on a text that was never recorded cannot be replayed, and this says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.steps.guard import Guard
from gateway.steps.reply import ruling_json
from gateway.steps.risk import action_at, risk_rulings
from guardrails.asked import ANSWERS, Answers
from guardrails.tokens import LITERAL, TOKEN_SHAPE
from guardrails.tools import ToolCall
from guardrails.types import PersonalDataBlocked, Segment

Recorded = Mapping[str, Any]


async def replay(guard: Guard, recorded: Recorded, running: Guard | None = None) -> dict[str, Any]:
    """What the policy makes of a recording: ``rulings``, ``redaction`` (what changes against ``running``), ``unknown``, ``unasked``
    (rails that ask a model what it was not asked then), ``asked_tokens`` and ``spent_ms``.

    ``running`` is the policy that it was recorded under; without it, or where both redact alike, texts are taken as they were recorded.
    """
    out: dict[str, Any] = {
        "rulings": [],
        "redaction": {},
        "unknown": [],
        "unasked": [],
        "refused_redaction": "",
        "digest": guard.digest,
    }
    begun = time.perf_counter()
    answers = Answers(dict(recorded["answered"]))
    ANSWERS.set(answers)
    blocked = _blocked_kinds(guard, recorded)
    if blocked:
        out["refused_redaction"] = ", ".join(blocked)
    elif recorded["refused_redaction"]:
        out["unknown"].append("its text was not recorded, since redaction refused it")
    else:
        conversation = recorded["conversation"]
        if running is not None and running.policy.redaction_digest != guard.policy.redaction_digest:
            conversation = await _redacted_again(guard, running, recorded, out)
        await _stages(guard, recorded, conversation, out)
        _note_unasked(guard, out)
    out["asked_tokens"] = answers.tokens
    out["spent_ms"] = round((time.perf_counter() - begun) * 1000, 3)
    return out


async def _stages(
    guard: Guard, recorded: Recorded, conversation: Sequence[Mapping[str, str]], out: dict[str, Any]
) -> None:
    """The stages in the order of a request, as far as it would have come."""
    ruling = await guard.rails.check_input(conversation)
    out["rulings"].append(ruling_json("input", "", ruling))
    if ruling.decision == "block" or _handed_off(guard, recorded, out):
        return
    if guard.rails.checks_passages and not await _passages(guard, recorded, out):
        return
    if not recorded["channels"] and not recorded["calls"]:
        if recorded["cache"] == "hit":
            out["unknown"].append("the answer, which was a stored one")
        elif _was_stopped(recorded):
            out["unknown"].append("the model was never asked, so there is no answer to check")
        return
    if guard.rails.checks_output:
        await _answer(guard, recorded, recorded["grounded"] or conversation, out)
    if guard.rails.checks_calls:
        await _calls(guard, recorded, out)


def _handed_off(guard: Guard, recorded: Recorded, out: dict[str, Any]) -> bool:
    """Whether a person answers instead, for the risk that the caller had then."""
    settings = guard.policy.risk
    if settings is None:
        return False
    if recorded["risk"] is None:
        out["unknown"].append("what its caller's fraud risk changes: nobody asked for it then")
        return False
    action = action_at(settings, recorded["risk"])
    if action.refuse_tools or action.keep_masked:
        out["unknown"].append("what the model says with fewer tools or masked values at its caller's fraud risk")
    rulings = risk_rulings(settings, recorded["risk"])
    out["rulings"].extend(rulings)
    return bool(rulings)


async def _passages(guard: Guard, recorded: Recorded, out: dict[str, Any]) -> bool:
    """Whether the request went on after its passages. Other ones left out than then: the answer to that is not known."""
    left_out = set()
    for place, text in enumerate(recorded["passages"]):
        ruling = await guard.rails.check_passage(text)
        out["rulings"].append(ruling_json("retrieval", str(place), ruling))
        if ruling.kind == "rail_unavailable":
            return False
        if ruling.decision == "block":
            left_out.add(str(place))
    if left_out != {r["channel"] for r in recorded["rulings"] if _stopped_by(r, "retrieval")}:
        out["unknown"].append(f"the answer without {len(left_out)} of its passages, others than then")
    return True


async def _answer(guard: Guard, recorded: Recorded, read: Sequence[Mapping[str, str]], out: dict[str, Any]) -> None:
    for channel, pieces in recorded["channels"].items():
        output = guard.rails.guard_output(read)
        for piece in pieces:
            await output.feed(piece)
        if channel in recorded["ended"]:
            await output.finish()
        elif output.ruling.decision != "block" and _was_withheld(recorded, channel):
            out["unknown"].append("the rest of the answer, which was blocked before it came")
        out["rulings"].append(ruling_json("output", channel, output.ruling))


async def _calls(guard: Guard, recorded: Recorded, out: dict[str, Any]) -> None:
    """Calls of tools, by name and by what was wrong with them then; the arguments hold a caller's own values, so nobody kept them."""
    if not recorded["calls"] and any("/arguments/" in channel for channel in recorded["channels"]):
        out["unknown"].append("its calls of tools, which no rail judged then")
    stopped = set()
    for call in recorded["calls"]:
        choice = call["channel"].partition("/")[0]
        if choice in stopped:
            continue
        ruling = await guard.rails.check_call(ToolCall(call["name"], "", {}, call["misfit"]))
        out["rulings"].append(ruling_json("tool", call["channel"], ruling))
        if ruling.decision == "block":
            stopped.add(choice)
        elif any(r["channel"] == call["channel"] and _stopped_by(r, "tool") for r in recorded["rulings"]):
            out["unknown"].append("calls of tools after one that was withheld")


def _note_unasked(guard: Guard, out: dict[str, Any]) -> None:
    for ruling in out["rulings"]:
        for verdict in ruling["verdicts"]:
            raised = verdict["outcome"] == "not_run" and verdict["reason"].startswith("raised")
            if raised and verdict["rail"] in guard.rails.asking:
                out["unasked"].append(verdict["rail"])
                out["unknown"].append(f"'{verdict['rail']}' asks a model what it was not asked then")


def _stopped_by(ruling: Mapping[str, Any], stage: str) -> bool:
    return bool(ruling["stage"] == stage and ruling["decision"] == "block")


def _was_stopped(recorded: Recorded) -> bool:
    return any(_stopped_by(ruling, "input") or _stopped_by(ruling, "risk") for ruling in recorded["rulings"])


def _was_withheld(recorded: Recorded, channel: str) -> bool:
    return any(r["channel"] == channel and _stopped_by(r, "output") for r in recorded["rulings"])


def _blocked_kinds(guard: Guard, recorded: Recorded) -> list[str]:
    """The kinds found in it that the policy blocks. A blocked request's kinds are known by name, its text is not."""
    found = set(recorded["redacted"]) | {kind for kind in recorded["refused_redaction"].split(", ") if kind}
    return sorted(kind for kind in found if kind != LITERAL and guard.redaction.action(kind) == "block")


async def _redacted_again(
    guard: Guard, running: Guard, recorded: Recorded, out: dict[str, Any]
) -> list[dict[str, str]]:
    """The conversation as the policy would have redacted it, as far as redacted text can tell."""
    before, after = await _over(running, recorded["conversation"]), await _over(guard, recorded["conversation"])
    changed: dict[str, str] = {}
    for kind, count in recorded["redacted"].items():
        was, now = running.redaction.action(kind), guard.redaction.action(kind)
        if kind not in guard.redactor.kinds() and kind in running.redactor.kinds():
            now = "allow"
        if was != now and kind != LITERAL:
            changed[kind] = f"{count} {was} -> {'no longer replaced' if now == 'allow' else now}"
            out["unknown"].append(f"rails on the text with {kind} as {now}: the recording holds it as {was}")
    changed |= _answers_redacted(guard, running, recorded)
    if before is None or after is None:
        out["redaction"] = changed
        out["unknown"].append("redaction refused the recorded text")
        return list(recorded["conversation"])
    for kind in sorted({*before[1], *after[1]}):
        more = after[1].get(kind, 0) - before[1].get(kind, 0)
        if more > 0:
            changed[kind] = f"{more} more replaced"
    out["redaction"] = changed
    if after[0] == before[0]:
        return list(recorded["conversation"])
    return [{**message, "content": text} for message, text in zip(recorded["conversation"], after[0], strict=True)]


def _answers_redacted(guard: Guard, running: Guard, recorded: Recorded) -> dict[str, str]:
    """Kinds that were taken out of the answer, and with which something else would be done now."""
    changed = {}
    for kind, count in recorded["redacted_answer"].items():
        was, now = running.redaction.answer_action(kind), guard.redaction.answer_action(kind)
        if was != now:
            changed[f"{kind} in the answer"] = f"{count} {was} -> {now}"
    return changed


async def _over(guard: Guard, conversation: Sequence[Mapping[str, str]]) -> tuple[list[str], Mapping[str, int]] | None:
    """Redacted text redacted once more: its tokens stay what they are, and new finds are numbered beside them."""
    try:
        redaction = await guard.redactor.redact([Segment(m["content"], m["role"]) for m in conversation])
    except PersonalDataBlocked:
        return None
    tokens = {token: value for token, value in redaction.tokens.items() if token.startswith(f"[{LITERAL}_")}
    texts = [TOKEN_SHAPE.sub(lambda match: tokens.get(match[0], match[0]), text) for text in redaction.texts]
    return texts, {kind: count for kind, count in redaction.counts.items() if kind != LITERAL}
