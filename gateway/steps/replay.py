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
from guardrails.tokens import LITERAL, TOKEN_SHAPE
from guardrails.types import PersonalDataBlocked, Segment

Recorded = Mapping[str, Any]


async def replay(guard: Guard, recorded: Recorded, running: Guard | None = None) -> dict[str, Any]:
    """What the policy makes of a recording: ``rulings``, ``redaction`` (what changes against ``running``), ``unknown`` and ``spent_ms``.

    ``running`` is the policy that it was recorded under; without it, or where both redact alike, texts are taken as they were recorded.
    """
    out: dict[str, Any] = {
        "rulings": [],
        "redaction": {},
        "unknown": [],
        "refused_redaction": "",
        "digest": guard.digest,
    }
    begun = time.perf_counter()
    blocked = _blocked_kinds(guard, recorded)
    if blocked:
        out["refused_redaction"] = ", ".join(blocked)
    elif recorded["refused_redaction"]:
        out["unknown"].append("its text was not recorded, since redaction refused it")
    else:
        conversation = recorded["conversation"]
        if running is not None and running.policy.redaction_digest != guard.policy.redaction_digest:
            conversation = await _redacted_again(guard, running, recorded, out)
        await _rails(guard, recorded, conversation, out)
    out["spent_ms"] = round((time.perf_counter() - begun) * 1000, 3)
    return out


async def _rails(
    guard: Guard, recorded: Recorded, conversation: Sequence[Mapping[str, str]], out: dict[str, Any]
) -> None:
    ruling = await guard.rails.check_input(conversation)
    out["rulings"].append(ruling_json("input", "", ruling))
    if ruling.decision == "block":
        return
    if not recorded["channels"]:
        if _was_stopped(recorded):
            out["unknown"].append("the model was never asked, so there is no answer to check")
        return
    if not guard.rails.checks_output:
        return
    last = recorded["grounded"] or conversation[-1:]
    for channel, pieces in recorded["channels"].items():
        output = guard.rails.guard_output(last)
        for piece in pieces:
            await output.feed(piece)
        if channel in recorded["ended"]:
            await output.finish()
        elif output.ruling.decision != "block" and _was_withheld(recorded, channel):
            out["unknown"].append("the rest of the answer, which was blocked before it came")
        out["rulings"].append(ruling_json("output", channel, output.ruling))


def _was_stopped(recorded: Recorded) -> bool:
    return any(r["stage"] == "input" and r["decision"] == "block" for r in recorded["rulings"])


def _was_withheld(recorded: Recorded, channel: str) -> bool:
    return any(
        r["channel"] == channel and r["decision"] == "block" for r in recorded["rulings"] if r["stage"] == "output"
    )


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
    if before is None or after is None:
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


async def _over(guard: Guard, conversation: Sequence[Mapping[str, str]]) -> tuple[list[str], Mapping[str, int]] | None:
    """Redacted text redacted once more: its tokens stay what they are, and new finds are numbered beside them."""
    try:
        redaction = await guard.redactor.redact([Segment(m["content"], m["role"]) for m in conversation])
    except PersonalDataBlocked:
        return None
    tokens = {token: value for token, value in redaction.tokens.items() if token.startswith(f"[{LITERAL}_")}
    texts = [TOKEN_SHAPE.sub(lambda match: tokens.get(match[0], match[0]), text) for text in redaction.texts]
    return texts, {kind: count for kind, count in redaction.counts.items() if kind != LITERAL}
