"""Guardrails and retrieval as steps of a request: this folder alone translates between the gateway and the other packages.

It decides nothing itself: verdicts come from guardrails, passages from rag, fraud decisions from serving; here they become errors of
gateway/errors.py, changed bodies and lines of the Record. Fails closed: a rail that could not run stops the request, unless its policy says
otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.errors import BadRequest, ContentBlocked, RailUnavailable
from gateway.policies import PolicyTable
from gateway.steps.added import CleanedReply, unchecked
from gateway.steps.calls import checked_calls, declarations
from gateway.steps.guard import Guard
from gateway.steps.reply import CheckedReply, heard, rail_result, restored, ruling_json
from gateway.steps.risk import RiskSource, apply_risk, risk_rulings
from gateway.types import ChatRequest, Chunk, RailResult, Recording, Route, Span
from gateway.wire.texts import (
    conversation,
    request_texts,
    unreadable_parts,
)
from guardrails.asked import ANSWERS, Answers
from guardrails.types import PersonalDataBlocked, RedactionUnavailable, Segment
from guardrails.verdict import Ruling
from rag.answer import ground
from rag.retrieve import Knowledge
from rag.types import Passage


class GuardedSteps:
    """The steps of every route, given the policies and knowledge bases by name. ``record_texts``: redacted texts go into records."""

    def __init__(self, guards: PolicyTable[Guard], knowledge: Mapping[str, Knowledge], *, record_texts: bool) -> None:
        self._guards = guards
        self._knowledge = knowledge
        self._record_texts = record_texts
        self.risk: RiskSource | None = None  # set where fraud is scored, too

    @contextmanager
    def pin(self, route: Route, request: ChatRequest) -> Iterator[None]:
        """One policy for the whole request, whatever is applied meanwhile."""
        with self._guards.pinned(route.policy) as guard:
            request.guard = guard
            if guard is not None:
                record = request.record
                record.policy, record.policy_digest = guard.policy.name, guard.policy.digest
                if route.record_share:
                    record.recording = Recording(route.record_share)
                    ANSWERS.set(Answers(record.recording.answered))
            try:
                yield
            finally:
                if request.pending is not None:
                    request.pending.cancel()
                    request.pending.add_done_callback(_heard)
                if guard is not None and request.record.rails:
                    request.record.rails.extend(_never_run(guard, route, request))

    async def redact(self, route: Route, request: ChatRequest) -> None:  # noqa: ARG002
        """Replaces personal data by tokens in every text of the request. Raises: BadRequest, ContentBlocked, RailUnavailable."""
        guard: Guard | None = request.guard
        if guard is None:
            return
        media = _passed_unread(guard, request)
        slots = request_texts(request)
        begun_ns = time.time_ns()
        try:
            said = [Segment(slot.text, slot.role, slot.form) for slot in slots]
            redaction = await guard.redactor.redact(said, one_way=request.keep_masked)
        except RedactionUnavailable as error:
            request.record.rails.append(_not_run("redaction", str(error)))
            raise RailUnavailable(
                "Personal data could not be checked, so nothing was sent; try again soon.", retry_after_s=1.0
            ) from None
        except PersonalDataBlocked as error:
            request.record.rails.append(RailResult("redaction", "input", "block", str(error), None, None, 0.0, True))
            if request.record.recording is not None:
                request.record.recording.refused_redaction = ", ".join(error.kinds)
            raise ContentBlocked(
                f"This model's policy takes no request with {', '.join(error.kinds)} in it.",
                code="content_policy_violation",
            ) from None
        for slot, text in zip(slots, redaction.texts, strict=True):
            if text != slot.text:
                slot.write(text)
        request.tokens, request.said = redaction.tokens, redaction.said
        record = request.record
        record.redacted = dict(redaction.counts)
        if redaction.not_checked:
            record.rails.append(
                _not_run("redaction", f"not checked for {', '.join(redaction.not_checked)}", enforced=False)
            )
        record.spans.append(_redaction_span(begun_ns, redaction.counts, redaction.not_checked, media))
        if self._record_texts:
            record.input = [dict(message) for message in conversation(request)]

    async def check_input(self, route: Route, request: ChatRequest) -> None:
        """Raises: ContentBlocked, RailUnavailable. Sets ``request.refusal`` when the policy answers politely itself.

        Where the policy is speculative it only begins, as ``request.pending``. Routes with a cache wait: a stored answer comes at once.
        """
        guard: Guard | None = request.guard
        if guard is None:
            return
        if guard.policy.speculative and not route.cache_ttl_s:
            request.pending = asyncio.create_task(self._check_input(guard, request))
            return
        await self._check_input(guard, request)

    async def _check_input(self, guard: Guard, request: ChatRequest) -> None:
        messages = conversation(request)
        if guard.policy.risk is not None:
            await apply_risk(guard.policy.risk, self.risk, request)
        ruling = await guard.rails.check_input(messages)
        request.record.rails.extend(map(rail_result, ruling.verdicts))
        if (recording := request.record.recording) is not None:
            recording.conversation = messages
            recording.rulings.append(ruling_json("input", "", ruling))
            if ruling.decision != "block" and recording.risk is not None and guard.policy.risk is not None:
                recording.rulings.extend(risk_rulings(guard.policy.risk, recording.risk))
        if ruling.decision == "block":
            _stop(ruling, request)
        elif ruling.decision == "rewrite" and ruling.text is not None:
            turns = [slot for slot in request_texts(request) if slot.role == "user" and slot.prose]
            turns[-1].write(ruling.text)
            request.rewritten = True

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
        found = await self._knowledge[route.knowledge].retrieve(questions[-1] if questions else "")
        passages = await _harmless(request, found)
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
        request.passages = ground(passages)
        messages.insert(after_system, {"role": "system", "content": request.passages})
        request.sources = [
            {"n": n, "id": p.id, "title": p.title, "source": p.source} for n, p in enumerate(passages, 1)
        ]
        if self._record_texts:
            request.record.input = [dict(message) for message in conversation(request)]

    def redact_answer(
        self,
        route: Route,  # noqa: ARG002
        request: ChatRequest,
        reply: AsyncGenerator[Chunk],
    ) -> AsyncGenerator[Chunk]:
        """The answer without the personal data that the model adds."""
        guard: Guard | None = request.guard
        if guard is None or request.refusal is not None or request.endpoint == "embedding":
            return reply
        if guard.redactor.added is None:
            unchecked(request)
            return reply
        return CleanedReply(guard.redactor.added, request).chunks(reply)

    def check_output(
        self,
        route: Route,  # noqa: ARG002
        request: ChatRequest,
        reply: AsyncGenerator[Chunk],
    ) -> AsyncGenerator[Chunk]:
        """The answer, each text of it held back until its rails have passed it. After a block: finish_reason content_filter."""
        guard: Guard | None = request.guard
        if guard is None or request.refusal is not None:
            return reply
        if guard.rails.checks_output:
            reply = CheckedReply(guard.rails, request).chunks(reply)
        elif request.record.recording is not None:
            reply = heard(request, reply)
        return checked_calls(guard.rails, request, reply) if guard.rails.checks_calls else reply

    def restore(self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        """The answer with the caller's own values back in place of tokens."""
        return reply if route.policy is None or request.keep_masked else restored(request, reply)


def _heard(task: asyncio.Task[None]) -> None:
    """Takes what a task raised that nobody waits for any more: the request has ended otherwise."""
    if not task.cancelled():
        task.exception()


async def _harmless(request: ChatRequest, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that the retrieval rails let through; the others are left out. Raises: RailUnavailable."""
    guard: Guard | None = request.guard
    recording = request.record.recording
    if recording is not None:
        recording.passages = [passage.text for passage in passages]
    if guard is None or not guard.rails.checks_passages:
        return list(passages)
    kept = []
    for place, passage in enumerate(passages):
        ruling = await guard.rails.check_passage(passage.text)
        request.record.rails.extend(map(rail_result, ruling.verdicts))
        if recording is not None:
            recording.rulings.append(ruling_json("retrieval", str(place), ruling))
        if ruling.kind == "rail_unavailable":
            _stop(ruling, request)
        if ruling.decision != "block":
            kept.append(passage)
    return kept


def _stop(ruling: Ruling, request: ChatRequest) -> None:
    if ruling.kind == "rail_unavailable":
        raise RailUnavailable(
            "A guardrail could not run, and its policy does not let requests pass unchecked.", retry_after_s=1.0
        )
    if ruling.respond == "refusal" and ruling.text:
        request.refusal = ruling.text
        return
    raise ContentBlocked("The request was blocked by this model's guardrail policy.", code="content_policy_violation")


def _never_run(guard: Guard, route: Route, request: ChatRequest) -> list[RailResult]:
    """The rails that have no verdict: the request ended before them, or there was nothing to check. Those of passages and calls count
    where the route has a knowledge base, and where the request declares tools."""
    have = {rail.rail for rail in request.record.rails}
    stages = {"input", "output", "retrieval" if route.knowledge else "", "tool" if declarations(request.body) else ""}
    missing = ((name, rail) for name, rail in guard.policy.rails.items() if name not in have and rail.stage in stages)
    reason = "the request ended before it, or had no text for it"
    return [RailResult(name, rail.stage, "not_run", reason, None, None, 0.0, False) for name, rail in missing]


def _passed_unread(guard: Guard, request: ChatRequest) -> Mapping[str, int]:
    """How many parts of each type that nothing can read go to the model as the policy says. Raises: BadRequest for one it refuses."""
    passed: Counter[str] = Counter()
    flagged: set[str] = set()
    for where, kind in unreadable_parts(request.body):
        action = guard.redaction.media.action(kind)
        if action == "refuse":
            raise BadRequest(
                f"Parts of type '{kind[:40]}' cannot be checked by this model's policy; send text parts only.",
                param=where,
                code="unsupported_content",
            )
        passed[kind] += 1
        flagged |= {kind} if action == "flag" else set()
    if flagged:
        request.record.rails.append(_not_run("media", f"not read: {', '.join(sorted(flagged))}", enforced=False))
    return passed


def _not_run(rail: str, reason: str, *, enforced: bool = True) -> RailResult:
    return RailResult(rail, "input", "not_run", reason, None, None, 0.0, enforced)


def _redaction_span(
    begun_ns: int, counts: Mapping[str, int], not_checked: tuple[str, ...], media: Mapping[str, int]
) -> Span:
    verdict = "not_run" if not_checked else "rewrite" if counts else "pass"
    attributes: dict[str, Any] = {
        "guardrail.name": "redaction",
        "guardrail.stage": "input",
        "guardrail.verdict": verdict,
    }
    attributes |= {f"callgate.redacted.{kind}": count for kind, count in counts.items()}
    attributes |= {f"callgate.passed_unread.{kind}": count for kind, count in media.items()}
    attributes |= {"callgate.not_checked": ", ".join(not_checked)} if not_checked else {}
    return Span("rail.redaction", "GUARDRAIL", begun_ns, time.time_ns(), attributes)
