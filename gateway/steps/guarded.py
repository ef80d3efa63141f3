"""Guardrails and retrieval as steps of a request: this folder alone translates between the gateway and the other packages.

It decides nothing itself: verdicts come from guardrails, passages from rag, fraud decisions from serving; here they become errors of
gateway/errors.py, changed bodies and lines of the Record. Fails closed: a rail that could not run stops the request, unless its policy says
otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.errors import BadRequest, ContentBlocked, RailUnavailable
from gateway.settings import SettingsError
from gateway.steps.reply import CheckedReply, rail_result, restored
from gateway.types import ChatRequest, Chunk, RailResult, Record, Route, Span
from gateway.wire.texts import (
    conversation,
    refuse_unreadable,
    request_texts,
)
from guardrails.nemo import Embed
from guardrails.policy import Policy, PolicyError, load_policy
from guardrails.rails import Rails
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import RedactionUnavailable, Segment
from guardrails.verdict import Ruling
from rag.answer import ground
from rag.retrieve import Knowledge


@dataclass(frozen=True, slots=True)
class Guard:
    """A policy at work: what it removes and what it checks."""

    policy: Policy
    rails: Rails
    redactor: Redactor

    def describe(self) -> dict[str, Any]:
        """What the policy is and promises, for people and machines."""
        output = self.policy.output
        return {
            "name": self.policy.name,
            "digest": self.policy.digest,
            "horizon_chars": output.horizon_chars,
            "holds_at_most_chars": output.horizon_chars - 1 + output.window_chars if self.rails.checks_output else 0,
            "longest_redacted_chars": self.redactor.horizon,
            "redacts": self.redactor.kinds(),
            "rails": self.rails.describe(),
        }

    async def aclose(self) -> None:
        await self.rails.aclose()
        await self.redactor.aclose()


async def build_guard(directory: Path, embed: Embed | None) -> Guard:
    """A policy, loaded and ready. Raises: SettingsError with the policy's file, line and key."""
    try:
        policy = load_policy(directory)
        wanted = RedactionSettings.model_validate(policy.redaction)
        rails = Rails(policy, embed)
        redactor, _ = await asyncio.gather(asyncio.to_thread(build_redactor, wanted), rails.start())
        await redactor.ready()
    except PolicyError as error:
        raise SettingsError(
            error.file, error.line, error.key, f"{error.message}; {error.hint}" if error.hint else error.message
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(
            directory / "policy.yaml", None, ".".join(("redaction", *map(str, first["loc"]))), first["msg"]
        ) from None
    except (ValueError, RedactionUnavailable) as error:
        raise SettingsError(directory / "policy.yaml", None, "redaction", str(error)) from None
    return Guard(policy, rails, redactor)


class GuardedSteps:
    """The steps of every route, given the policies and knowledge bases by name. ``record_texts``: redacted texts go into records."""

    def __init__(self, guards: Mapping[str, Guard], knowledge: Mapping[str, Knowledge], *, record_texts: bool) -> None:
        self._guards = guards
        self._knowledge = knowledge
        self._record_texts = record_texts

    async def redact(self, route: Route, request: ChatRequest) -> None:
        """Replaces personal data by tokens in every text of the request. Raises: BadRequest, RailUnavailable."""
        guard = self._guard(route, request.record)
        if guard is None:
            return
        refuse_unreadable(request.body)
        slots = request_texts(request)
        begun_ns = time.time_ns()
        try:
            redaction = await guard.redactor.redact([Segment(slot.text, slot.role, slot.form) for slot in slots])
        except RedactionUnavailable as error:
            request.record.rails.append(_not_run("redaction", str(error)))
            raise RailUnavailable(
                "Personal data could not be checked, so nothing was sent; try again soon.", retry_after_s=1.0
            ) from None
        for slot, text in zip(slots, redaction.texts, strict=True):
            if text != slot.text:
                slot.write(_participant(text) if slot.key == "name" else text)
        request.tokens = redaction.tokens
        record = request.record
        record.redacted = dict(redaction.counts)
        record.spans.append(_redaction_span(begun_ns, redaction.counts, redaction.not_checked))
        if self._record_texts:
            record.input = [dict(message) for message in conversation(request)]

    async def check_input(self, route: Route, request: ChatRequest) -> None:
        """Raises: ContentBlocked, RailUnavailable. Sets ``request.refusal`` when the policy answers politely itself."""
        guard = self._guards.get(route.policy or "")
        if guard is None:
            return
        messages = conversation(request)
        ruling = await guard.rails.check_input(messages)
        request.record.rails.extend(map(rail_result, ruling.verdicts))
        if ruling.decision == "block":
            _stop(ruling, request)
        elif ruling.decision == "rewrite" and ruling.text is not None:
            slots = [
                slot
                for slot in request_texts(request)
                if slot.role == "user" and slot.key in ("content", "text", "prompt")
            ]
            slots[-1].write(ruling.text)

    async def ground(self, route: Route, request: ChatRequest) -> None:
        """Puts passages of the route's knowledge base before the conversation, for its last question."""
        if route.knowledge is None or request.refusal is not None:
            return
        if request.endpoint != "chat":
            raise BadRequest(
                "This model answers from a knowledge base; use /v1/chat/completions.",
                param="model",
                code="unsupported_endpoint",
            )
        questions = [message["content"] for message in conversation(request) if message["role"] == "user"]
        begun_ns = time.time_ns()
        passages = await self._knowledge[route.knowledge].retrieve(questions[-1] if questions else "")
        attributes: dict[str, object] = {"callgate.knowledge": route.knowledge}
        for place, passage in enumerate(passages):
            prefix = f"retrieval.documents.{place}.document."
            attributes |= {
                prefix + "id": passage.id,
                prefix + "content": passage.text,
                prefix + "score": float(passage.score),
            }
        request.record.spans.append(Span("retrieve", "RETRIEVER", begun_ns, time.time_ns(), attributes))
        if not passages:
            return
        messages = request.body["messages"]
        after_system = next(
            (i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), len(messages)
        )
        messages.insert(after_system, {"role": "system", "content": ground(passages)})
        request.sources = [
            {"n": n, "id": p.id, "title": p.title, "source": p.source} for n, p in enumerate(passages, 1)
        ]
        if self._record_texts:
            request.record.input = [dict(message) for message in conversation(request)]

    def check_output(self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        """The answer, each text of it held back until its rails have passed it. After a block: finish_reason content_filter."""
        guard = self._guards.get(route.policy or "")
        if guard is None or request.refusal is not None or not guard.rails.checks_output:
            return reply
        return CheckedReply(guard.rails, request).chunks(reply)

    def restore(self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        """The answer with the caller's own values back in place of tokens."""
        return reply if route.policy is None else restored(request, reply)

    def _guard(self, route: Route, record: Record) -> Guard | None:
        guard = self._guards.get(route.policy or "")
        if guard is not None:
            record.policy, record.policy_digest = guard.policy.name, guard.policy.digest
        return guard


def _stop(ruling: Ruling, request: ChatRequest) -> None:
    if ruling.kind == "rail_unavailable":
        raise RailUnavailable(
            "A guardrail could not run, and its policy does not let requests pass unchecked.", retry_after_s=1.0
        )
    if ruling.respond == "refusal" and ruling.text:
        request.refusal = ruling.text
        return
    raise ContentBlocked("The request was blocked by this model's guardrail policy.", code="content_policy_violation")


def _not_run(rail: str, reason: str) -> RailResult:
    return RailResult(rail, "input", "not_run", reason, None, None, 0.0, True)


def _participant(text: str) -> str:
    """A redacted name of a participant, in the alphabet that the field allows."""
    return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "_-"))


def _redaction_span(begun_ns: int, counts: Mapping[str, int], not_checked: tuple[str, ...]) -> Span:
    verdict = "not_run" if not_checked else "rewrite" if counts else "pass"
    attributes: dict[str, Any] = {
        "guardrail.name": "redaction",
        "guardrail.stage": "input",
        "guardrail.verdict": verdict,
    }
    attributes |= {f"callgate.redacted.{kind}": count for kind, count in counts.items()}
    attributes |= {"callgate.not_checked": ", ".join(not_checked)} if not_checked else {}
    return Span("rail.redaction", "GUARDRAIL", begun_ns, time.time_ns(), attributes)
