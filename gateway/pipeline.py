"""One request, from top to bottom. Read this file first.

The order of the lines is the security argument: nothing is read before the caller is known, nothing leaves before it is redacted and
checked, personal data that the model adds is taken out before anything notes it, output rails see what it said before personal data is
restored, and whatever happens the reservation is settled. It does not know HTTP (gateway/asgi.py), vendors, or how a step does its work
(gateway/steps/).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

from gateway.auth import KeyTable
from gateway.cache import Cache
from gateway.errors import BadRequest, ContentBlocked, StoreUnavailable
from gateway.limits import Grant, Limiter
from gateway.routing import Router
from gateway.types import Caller, ChatRequest, Chunk, Endpoint, Json, Record, Route, Usage
from gateway.wire.parse import Embedding, parse, parse_embedding, parse_redact
from gateway.wire.replies import canned, read_usage
from gateway.wire.responses import parse_responses
from gateway.wire.texts import chunk_texts


class Steps(Protocol):
    """What guardrails and retrieval do to a request and its answer. Each raises an error of gateway/errors.py to stop it."""

    def pin(self, route: Route, request: ChatRequest) -> AbstractContextManager[None]: ...
    async def redact(self, route: Route, request: ChatRequest) -> None: ...
    async def check_input(self, route: Route, request: ChatRequest) -> None: ...
    async def ground(self, route: Route, request: ChatRequest) -> None: ...
    def redact_answer(
        self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]
    ) -> AsyncGenerator[Chunk]: ...
    def check_output(
        self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]
    ) -> AsyncGenerator[Chunk]: ...
    def restore(self, route: Route, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]: ...


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str]) -> Any: ...


@dataclass(slots=True)
class Call:
    """One HTTP call as the pipeline sees it. ``headers`` are for the answer; ``request`` is set once the body has been read.

    ``fresh``: a stored answer is not wanted. ``asked``: the body as it came, where it was translated (Responses API).
    """

    authorization: bytes | None
    raw: bytes
    record: Record
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    request: ChatRequest | None = None
    asked: Json | None = None
    fresh: bool = False


class Pipeline:
    """The gateway's work, given its parts. ``clock`` counts seconds, monotonically."""

    def __init__(
        self,
        keys: KeyTable | None,
        limiter: Limiter,
        router: Router,
        steps: Steps,
        cache: Cache,
        *,
        anonymous: Caller,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._router = router
        self._steps = steps
        self._cache = cache
        self._anonymous = anonymous
        self._clock = clock

    async def answer(self, endpoint: Endpoint | Literal["responses"], call: Call) -> AsyncGenerator[Chunk]:
        """The answer to a chat or completion request, chunk by chunk; a whole reply is a stream of one chunk.

        Raises: an error of gateway/errors.py, before the first chunk or after it.
        """
        caller = await self.authenticate(call)
        request = self.read(endpoint, call)
        route = self.find_route(caller, request)
        async with await self.reserve(caller, request, call) as meter:
            with self._steps.pin(route, request):
                await self._steps.redact(route, request)
                request.record.parameters = {name: request.body[name] for name in _PARAMETERS if name in request.body}
                await self._steps.check_input(route, request)
                await self._steps.ground(route, request)
                reply = meter(self._steps.redact_answer(route, request, self.call(route, request)))
                checked = self._steps.check_output(route, request, reply)
                if route.cache_ttl_s and request.refusal is None:
                    checked = self.remember(caller, route, request, call, checked)
                async with aclosing(self._steps.restore(route, request, checked)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    def remember(
        self, caller: Caller, route: Route, request: ChatRequest, call: Call, checked: AsyncGenerator[Chunk]
    ) -> AsyncGenerator[Chunk]:
        """The answer through the cache, unless the caller wants a fresh one (Cache-Control: no-cache or no-store)."""
        if call.fresh or self._router.share(route):  # while a rollout measures two arms, each answers for itself
            request.record.cache = "bypass"
            return checked
        return self._cache.through(caller, route, request, checked)

    async def embed(self, call: Call, model: str, embedder: Embedder) -> tuple[Embedding, Any] | None:
        """The checked request and its vectors, made in this process: nothing leaves it. None when it is for another model."""
        caller = await self.authenticate(call)
        wanted = parse_embedding(call.raw)
        if wanted.model != model:
            return None
        if wanted.dimensions is not None and wanted.dimensions > 384:
            raise BadRequest(f"'{model}' has at most 384 dimensions.", param="dimensions", code="invalid_value")
        call.record.route = call.record.model = model
        grant = await self._limiter.reserve(caller, len(call.raw) // 4)
        call.headers.extend(grant.headers())
        return wanted, shortened(await embedder.embed(wanted.texts()), wanted.dimensions)

    async def admit(self, call: Call) -> None:
        """For fraud scores: a known caller within its limits. Limits that cannot be checked soon, since their Redis is slow or away, hold
        nobody up here: a score has a declared answer for just that case, and its own deadline."""
        caller = await self.authenticate(call)
        try:
            async with asyncio.timeout(_ADMIT_S):
                grant = await self._limiter.reserve(caller, 0)
        except (StoreUnavailable, TimeoutError):
            return
        call.headers.extend(grant.headers())

    async def redact(self, call: Call) -> Json:
        """Texts of another system with their personal data replaced as a model's policy says; no model is asked.

        What stood there is not told: the texts cannot be put back. Raises: BadRequest for a model without a policy, or an error of the step.
        """
        caller = await self.authenticate(call)
        wanted = parse_redact(call.raw)
        route = self._router.find(caller, wanted.model)
        if route.policy is None:
            raise BadRequest(
                "This model has no policy, so nothing says what to replace.", param="model", code="no_policy"
            )
        call.record.model = call.record.route = route.model
        body: Json = {"model": wanted.model, "prompt": wanted.texts()}
        request = ChatRequest("completion", wanted.model, body, False, False, call.record, 0.0, keep_masked=True)
        grant = await self._limiter.reserve(caller, len(call.raw) // _BYTES_PER_TOKEN)
        call.headers.extend(grant.headers())
        with self._steps.pin(route, request):
            await self._steps.redact(route, request)
        return {
            "object": "redaction",
            "model": route.model,
            "policy": f"{call.record.policy}@{call.record.policy_digest[:12]}",
            "output": body["prompt"],
            "redacted": dict(call.record.redacted),
        }

    async def authenticate(self, call: Call) -> Caller:
        """Raises: Unauthenticated."""
        caller = self._anonymous if self._keys is None else await self._keys.authenticate(call.authorization)
        call.record.key_id = caller.key_id
        return caller

    def read(self, endpoint: Endpoint | Literal["responses"], call: Call) -> ChatRequest:
        """Raises: BadRequest."""
        if endpoint == "responses":
            body, call.asked = parse_responses(call.raw)
            endpoint = "chat"
        else:
            body = parse(endpoint, call.raw)
        stream = bool(body.get("stream"))
        include_usage = stream and bool((body.get("stream_options") or {}).get("include_usage"))
        call.record.model, call.record.stream = body["model"], stream
        call.request = ChatRequest(endpoint, body["model"], body, stream, include_usage, call.record, 0.0)
        return call.request

    def find_route(self, caller: Caller, request: ChatRequest) -> Route:
        """The route of the model; the request gets its deadline and a bound on the tokens it may produce.

        Raises: ModelNotFound, Forbidden, or BadRequest for more tokens than the route allows.
        """
        route = self._router.find(caller, request.model)
        body = request.body
        key = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
        wanted = body.get(key)
        if wanted is not None and wanted > route.max_tokens:
            raise BadRequest(
                f"{key} is {wanted}; this model allows at most {route.max_tokens}.", param=key, code="invalid_value"
            )
        if request.endpoint != "embedding":
            body[key] = wanted or route.max_tokens
        if request.stream:
            body["stream_options"] = {
                "include_usage": True
            }  # so that what was used is known, also when the caller did not ask
        request.deadline = self._clock() + route.deadline_s
        request.record.route = route.model
        return route

    async def reserve(self, caller: Caller, request: ChatRequest, call: Call) -> Meter:
        """Raises: RateLimited, StoreUnavailable."""
        body = request.body
        most_out = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        most_out *= max(body.get("n") or 1, body.get("best_of") or 1)
        prompt = len(call.raw) // _BYTES_PER_TOKEN
        grant = await self._limiter.reserve(caller, prompt + most_out)
        call.headers.extend(grant.headers())
        return Meter(self._limiter, grant, request, prompt)

    def call(self, route: Route, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The model's answer, or the refusal that a rail gave in its stead. While input rails still run, the model is asked and held."""
        if request.refusal is not None:
            return refusal(request)
        if request.pending is not None:
            return self._speculate(route, request, request.pending)
        return self._router.call(route, request)

    async def _speculate(self, route: Route, request: ChatRequest, rails: asyncio.Task[None]) -> AsyncGenerator[Chunk]:
        """The answer to what was asked while input rails ran: theirs is the first word. Raises: what they raise."""
        async with aclosing(self._router.call(route, request)) as chunks:
            if first := await first_when_allowed(request, rails, chunks):
                yield first
            if (overruled := overruled_by_rails(request)) == "no":
                async for chunk in chunks:
                    yield chunk
                return
        again = refusal(request) if overruled == "refused" else self._router.call(route, request)
        async with aclosing(again) as chunks:
            async for chunk in chunks:
                yield chunk


async def first_when_allowed(
    request: ChatRequest, rails: asyncio.Task[None], chunks: AsyncGenerator[Chunk]
) -> Chunk | None:
    """The first piece of an answer, held until the input rails have passed. Raises: what they raise."""
    first = asyncio.ensure_future(anext(chunks, None))
    try:
        await rails
        return await first if overruled_by_rails(request) == "no" else None
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


def overruled_by_rails(request: ChatRequest) -> Literal["no", "refused", "rewritten"]:
    """What became of a speculative call, now that its input rails have ruled."""
    return "refused" if request.refusal is not None else "rewritten" if request.rewritten else "no"


async def refusal(request: ChatRequest) -> AsyncGenerator[Chunk]:
    """Raises: ContentBlocked where an answer cannot be a text."""
    record = request.record
    if request.endpoint == "embedding" or request.refusal is None:
        raise ContentBlocked("The text was refused by this model's policy.", code="content_policy_violation")
    yield canned(
        request.endpoint,
        reply_id=f"chatcmpl-{record.request_id}",
        created=record.started_ns // 1_000_000_000,
        model=request.model,
        text=request.refusal,
        stream=request.stream,
    )


_ADMIT_S = 0.05  # a score waits so long for its key's limits
_BYTES_PER_TOKEN = 4  # of JSON; English BPE vocabularies average a little over four characters a token
_PARAMETERS = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
)


class Meter:
    """Counts what an answer uses, and settles the reservation whatever happens, hang-up and cancellation included."""

    def __init__(self, limiter: Limiter, grant: Grant, request: ChatRequest, prompt_estimate: int) -> None:
        self._limiter = limiter
        self._grant = grant
        self._request = request
        self._prompt_estimate = prompt_estimate
        self._usage: Usage | None = None
        self._chars = 0

    async def __aenter__(self) -> Meter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self._request.record
        if record.call_started_ns and not record.call_ended_ns:
            record.call_ended_ns = time.time_ns()
        if record.call_started_ns:
            record.usage = self._usage or self._estimate()
        self._limiter.settle(self._grant, record.usage.total_tokens if record.call_started_ns else 0)

    async def __call__(self, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        request, record = self._request, self._request.record
        if request.refusal is None:
            record.call_started_ns = time.time_ns()
        async with aclosing(reply):
            async for chunk in reply:
                if not record.first_delta_ns:
                    record.first_delta_ns = time.time_ns()
                self._note(record, chunk)
                if request.stream:
                    chunk.pop("usage", None)  # told once, at the end, to those who asked
                    if not chunk.get("choices"):
                        continue
                chunk["model"] = request.model
                yield chunk
        record.call_ended_ns = time.time_ns()
        record.usage = self._usage or self._estimate()

    def _note(self, record: Record, chunk: Chunk) -> None:
        self._usage = read_usage(chunk) or self._usage
        for _, holder, key in chunk_texts(chunk):
            text = holder[key]
            self._chars += len(text)
            record.output.append(text)
        for choice in chunk.get("choices") or ():
            record.finish_reason = choice.get("finish_reason") or record.finish_reason

    def _estimate(self) -> Usage:
        return Usage(self._prompt_estimate, -(-self._chars // 4), estimated=True)


def shortened(vectors: Any, dimensions: int | None) -> Any:
    """The first ``dimensions`` of each vector, at unit length again, as OpenAI's ``dimensions`` does."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / ((cut * cut).sum(axis=1, keepdims=True) ** 0.5 + 1e-12)


def headers_of(record: Record) -> list[tuple[bytes, bytes]]:
    """What the gateway says of a request in response headers: names, digests and counts, never text."""
    pairs: list[tuple[str, Json | str | int]] = [
        ("x-request-id", record.request_id),
        ("x-callgate-trace-id", record.trace_id.hex()),
        ("x-callgate-route", record.route),
        ("x-callgate-deployment", record.deployment),
        ("x-callgate-model-version", record.upstream_model),
        ("x-callgate-policy", f"{record.policy}@{record.policy_digest[:12]}" if record.policy else ""),
        ("x-callgate-cache", record.cache),
        ("x-callgate-arm", record.arm),
        ("x-callgate-moved", "true" if record.moved else ""),
        ("x-callgate-fallback", ", ".join(record.fallbacks)),
        ("x-callgate-attempts", record.attempts or ""),
    ]
    if record.call_started_ns:
        pairs.append(("x-callgate-overhead-ms", f"{(record.call_started_ns - record.started_ns) / 1e6:.2f}"))
    return [(name.encode(), str(value).encode("latin-1", "replace")) for name, value in pairs if value != ""]
