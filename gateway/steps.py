"""Guardrails, retrieval and fraud as steps of a request: the only file that translates between the gateway and the other packages.

It decides nothing itself: verdicts come from guardrails, passages from rag, fraud decisions from serving; here they become errors of
gateway/errors.py, changed bodies and lines of the Record. Fails closed: a rail that could not run stops the request, unless its policy says
otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.errors import BadRequest, ContentBlocked, NotFound, Overloaded, RailUnavailable
from gateway.settings import SettingsError
from gateway.types import ChatRequest, Chunk, Json, RailResult, Record, Route, Span
from gateway.wire.texts import (
    ChannelKey,
    append_text,
    chunk_texts,
    conversation,
    is_empty,
    refuse_unreadable,
    request_texts,
)
from guardrails.nemo import Embed
from guardrails.policy import Policy, PolicyError, load_policy
from guardrails.rails import OutputGuard, Rails
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.restore import Restorer
from guardrails.types import RedactionUnavailable, Segment
from guardrails.verdict import Ruling, Verdict
from rag.answer import ground
from rag.retrieve import Knowledge
from serving.fraud.journal import JournalUnavailable
from serving.fraud.score import FraudScorer, build_scorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import StoreUnavailable, open_redis
from serving.fraud.types import InvalidTransaction, UnknownTransaction, parse_label, parse_transaction


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
        request.record.rails.extend(map(_result, ruling.verdicts))
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
        return _CheckedReply(guard.rails, request).chunks(reply)

    def restore(self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        """The answer with the caller's own values back in place of tokens."""
        return reply if route.policy is None else _restored(request, reply)

    def _guard(self, route: Route, record: Record) -> Guard | None:
        guard = self._guards.get(route.policy or "")
        if guard is not None:
            record.policy, record.policy_digest = guard.policy.name, guard.policy.digest
        return guard


class _CheckedReply:
    """One answer under output rails: a guard for each of its texts."""

    def __init__(self, rails: Rails, request: ChatRequest) -> None:
        self._rails = rails
        self._request = request
        self._messages = conversation(request)
        self._guards: dict[ChannelKey, OutputGuard] = {}
        self._blocked: set[int] = set()
        self._choices = request.body.get("n") or 1

    async def chunks(self, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        chunk: Chunk = {}
        try:
            async with aclosing(reply):
                async for chunk in reply:
                    await self._check(chunk)
                    if not is_empty(chunk):
                        yield chunk
                    if len(self._blocked) >= self._choices:
                        break
            for last in await self._leftover(chunk):
                yield last
        finally:
            for guard in self._guards.values():
                self._request.record.rails.extend(map(_result, guard.ruling.verdicts))
                self._request.record.held_chars = max(self._request.record.held_chars, guard.held_chars)

    async def _check(self, chunk: Chunk) -> None:
        choices = chunk.get("choices") or []
        if self._blocked:
            choices[:] = [choice for choice in choices if choice.get("index", 0) not in self._blocked]
        for key, holder, name in list(chunk_texts(chunk)):
            guard = self._guards.get(key) or self._guards.setdefault(key, self._rails.guard_output(self._messages))
            holder[name] = await guard.feed(holder[name])
        for choice in choices:
            index = choice.get("index", 0)
            mine = [(key, guard) for key, guard in self._guards.items() if key[0] == index]
            if choice.get("finish_reason"):
                for key, guard in mine:
                    if rest := await guard.finish():
                        append_text(choice, key, rest)
            self._stop_if_blocked(choice, index, [guard for _, guard in mine])

    def _stop_if_blocked(self, choice: Chunk, index: int, guards: list[OutputGuard]) -> None:
        for guard in guards:
            if guard.ruling.decision != "block":
                continue
            if guard.ruling.kind == "rail_unavailable":
                raise RailUnavailable("The answer could not be checked, so the rest of it was withheld.")
            if choice.get("delta") is not None:
                choice["delta"] = {"role": "assistant", "content": ""} if not self._request.stream else {}
            else:
                choice["text"] = ""
            choice.pop("logprobs", None)
            choice["finish_reason"] = self._request.record.finish_reason = "content_filter"
            self._blocked.add(index)
            return

    async def _leftover(self, like: Chunk) -> list[Chunk]:
        """What was still held when the answer ended without a finish_reason."""
        out = []
        for key, guard in self._guards.items():
            if key[0] in self._blocked or not (rest := await guard.finish()):
                continue
            out.append(_last_words(like, key, rest))
        return out


async def _restored(request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    restorers: dict[ChannelKey, Restorer] = {}
    chunk: Chunk = {}
    try:
        async with aclosing(reply):
            async for chunk in reply:
                for key, holder, name in list(chunk_texts(chunk)):
                    restorer = restorers.get(key)
                    if restorer is None:
                        restorer = restorers[key] = Restorer(
                            request.tokens, "json" if key[1] == "arguments" else "plain"
                        )
                    holder[name] = restorer.feed(holder[name])
                for choice in chunk.get("choices") or ():
                    if choice.get("finish_reason"):
                        for key in [key for key in restorers if key[0] == choice.get("index", 0)]:
                            if rest := restorers[key].flush():
                                append_text(choice, key, rest)
                if not is_empty(chunk):
                    yield chunk
        for key, restorer in restorers.items():
            if rest := restorer.flush():
                yield _last_words(chunk, key, rest)
    finally:
        request.record.unresolved_tokens = sum(restorer.unresolved for restorer in restorers.values())


def _last_words(like: Chunk, key: ChannelKey, text: str) -> Chunk:
    """A chunk of a stream for text that was still held when it ended."""
    choice: Chunk = {"index": key[0], "finish_reason": None}
    append_text(choice, key, text)
    kept: Chunk = {name: like[name] for name in ("id", "object", "created", "model") if name in like}
    return {**kept, "choices": [choice]}


def _stop(ruling: Ruling, request: ChatRequest) -> None:
    if ruling.kind == "rail_unavailable":
        raise RailUnavailable(
            "A guardrail could not run, and its policy does not let requests pass unchecked.", retry_after_s=1.0
        )
    if ruling.respond == "refusal" and ruling.text:
        request.refusal = ruling.text
        return
    raise ContentBlocked("The request was blocked by this model's guardrail policy.", code="content_policy_violation")


def _result(verdict: Verdict) -> RailResult:
    return RailResult(
        verdict.rail,
        verdict.stage,
        str(verdict.outcome),
        verdict.reason,
        verdict.score,
        verdict.threshold,
        verdict.duration_s,
        verdict.enforced,
    )


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


# --- fraud --------------------------------------------------------------------------------------------------------------


class FraudSteps:
    """Fraud scores, confirmed labels and past decisions, as bodies of /v1/fraud/*. ``aclose`` ends what was opened for it."""

    def __init__(self, scorer: FraudScorer, stack: AsyncExitStack) -> None:
        self._scorer = scorer
        self._stack = stack

    async def handle(self, path: str, raw: bytes) -> Json:
        """Raises: BadRequest naming the field, NotFound, Overloaded when a decision cannot be put on record."""
        try:
            if path == "/v1/fraud/score":
                return await self._score(raw)
            if path == "/v1/fraud/labels":
                return await self._label(raw)
            decision = await self._scorer.find(path.removeprefix("/v1/fraud/decisions/"))
        except InvalidTransaction as error:
            raise BadRequest(f"{error}.", param=error.path or None, code="invalid_transaction") from None
        except UnknownTransaction as error:
            raise NotFound(f"{error}.", param="transaction_id", code="unknown_transaction") from None
        except (StoreUnavailable, JournalUnavailable):
            raise Overloaded("The fraud service cannot answer now; try again soon.", retry_after_s=1.0) from None
        if decision is None:
            raise NotFound("No decision of that id is kept here.", param="transaction_id", code="unknown_transaction")
        return dict(decision.to_dict())

    async def aclose(self) -> None:
        await self._scorer.aclose()
        await self._stack.aclose()

    async def _score(self, raw: bytes) -> Json:
        wanted = parse_transaction(raw)
        if isinstance(wanted, list):
            return {"object": "list", "data": [one.to_dict() for one in await self._scorer.score_batch(wanted)]}
        return dict((await self._scorer.score(wanted)).to_dict())

    async def _label(self, raw: bytes) -> Json:
        labels = parse_label(raw)
        for label in labels:
            await self._scorer.label(label)
        return {"object": "fraud.labels", "accepted": len(labels)}


async def build_fraud(section: Mapping[str, Any], redis_url: str, folder: Path) -> FraudSteps:
    """Fraud scoring inside this process. Raises: SettingsError naming the key, or the model that cannot be served."""
    try:
        settings = FraudSettings.model_validate({"log_directory": folder, **section})
        stack = AsyncExitStack()
        store = await stack.enter_async_context(open_redis(redis_url, settings))
        return FraudSteps(await build_scorer(settings, store, time.time), stack)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(
            Path("callgate.yaml"), None, ".".join(("fraud.settings", *map(str, first["loc"]))), first["msg"]
        ) from None
    except ValueError as error:
        raise SettingsError(Path("callgate.yaml"), None, "fraud.settings", str(error)) from None
