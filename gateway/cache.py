"""Answers that were given before: exact matches, and as an option of a route near ones. It stores redacted, checked answers only.

It stands after the output rails and before restoration: what is stored holds tokens instead of the caller's values, and had passed the very
policy whose digest is in its key. A key also holds tenant, model, deployments and the whole request. Fails open: without Redis every
request is a miss. Identical requests at the same moment ask the backend once in each worker.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

import msgspec

from gateway.stores import RedisStore, StoreError
from gateway.types import Caller, ChatRequest, Chunk, Json, Route, Usage
from gateway.wire.texts import chunk_texts

MOST_BYTES = 1 << 20
MOST_NEAR = 128  # questions compared with a new one in one bucket: 100 KB from Redis, 0.1 ms of arithmetic
_NOT_ASKED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "store")
_WHOLE = {"stop", "tool_calls", "function_call", "length"}
_FIGURES = re.compile(r"\[[A-Z_]+_\d+\]|\d+")
Embed = Callable[[Sequence[str]], Awaitable[Any]]


class Kept(msgspec.Struct):
    """An answer as it is stored: its chunks in OpenAI's shape, what it once used, and how it ended."""

    chunks: list[Json]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class Cache:
    """Gives what is stored, or passes the answer on and stores it. ``embed``: sentence vectors for near matches, or None."""

    def __init__(self, store: RedisStore, embed: Embed | None = None) -> None:
        self._store = store
        self._embed = embed
        self._flights: dict[str, asyncio.Future[bytes | None]] = {}

    async def through(
        self, caller: Caller, route: Route, request: ChatRequest, answer: AsyncGenerator[Chunk]
    ) -> AsyncGenerator[Chunk]:
        """The stored answer, or ``answer`` on its way; ``request.record.cache`` says which."""
        key = key_of(caller, route, request)
        kept = await self._find(key)
        near: tuple[str, bytes] | None = None
        if kept is None and route.cache_similarity is not None and self._embed is not None:
            near = await self._place(caller, route, request)
            kept = await self._nearest(near, route.cache_similarity) if near is not None else None
        flight: asyncio.Future[bytes | None] | None = None
        if kept is None and (other := self._flights.get(key)) is not None:
            kept = await asyncio.shield(other)
        if kept is not None:
            await answer.aclose()
            for chunk in _replayed(kept, request):
                yield chunk
            return
        request.record.cache = "miss"
        if key not in self._flights:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        written: bytes | None = None
        try:
            pieces: list[bytes] = []
            async with aclosing(answer):
                async for chunk in answer:
                    pieces.append(msgspec.json.encode(chunk))  # now: what follows writes the caller's values into it
                    yield chunk
            written = _sealed(pieces, request)
            if written is not None:
                await self._keep(key, written, route.cache_ttl_s, near)
        finally:
            if flight is not None:
                del self._flights[key]
                flight.set_result(written)

    async def _find(self, key: str) -> bytes | None:
        try:
            return await self._store.read_value(key)
        except StoreError:
            return None

    async def _keep(self, key: str, value: bytes, ttl_s: float, near: tuple[str, bytes] | None) -> None:
        try:
            await self._store.write_value(key, value, ttl_s)
            if near is not None:
                await self._store.remember_in_hash(near[0], key, near[1], ttl_s, MOST_NEAR)
        except StoreError:
            pass  # the answer is on its way; that it was not stored shows as the next miss

    async def _place(self, caller: Caller, route: Route, request: ChatRequest) -> tuple[str, bytes] | None:
        """The bucket of everything but the last question, and that question's figures and vector. None where there is no question."""
        messages = request.body.get("messages") or ()
        if not messages or messages[-1].get("role") != "user" or not isinstance(messages[-1].get("content"), str):
            return None
        question = messages[-1]["content"]
        told = {**request.body, "messages": messages[:-1], "figures": figures_of(question)}
        bucket = _digest("near", caller, route, request, told)
        if self._embed is None:
            return None
        vector = (await self._embed([question]))[0]
        return bucket, vector.astype("<f4").tobytes()

    async def _nearest(self, near: tuple[str, bytes], similarity: float) -> bytes | None:
        import numpy as np

        try:
            others = await self._store.read_hash(near[0])
            if not others:
                return None
            keys = list(others)
            vectors = np.frombuffer(b"".join(others.values()), "<f4").reshape(len(keys), -1)
            scores = vectors @ np.frombuffer(near[1], "<f4")
            best = int(scores.argmax())
            return await self._store.read_value(keys[best].decode()) if scores[best] >= similarity else None
        except (StoreError, ValueError):
            return None


def figures_of(question: str) -> str:
    """The numbers and the personal data of a question: two that differ in them are never near."""
    return "|".join(_FIGURES.findall(question))


def key_of(caller: Caller, route: Route, request: ChatRequest) -> str:
    """The key of an exact match: a digest of tenant, policy, route, model versions and the canonical redacted request."""
    return _digest("exact", caller, route, request, request.body)


def _digest(kind: str, caller: Caller, route: Route, request: ChatRequest, body: Json) -> str:
    asked = {name: value for name, value in body.items() if name not in _NOT_ASKED}
    versions = [(d.name, d.model, d.provider, d.base_url) for d in route.deployments]
    whole = [
        caller.key_id,
        request.record.policy_digest,
        route.model,
        versions,
        request.endpoint,
        request.stream,
        asked,
    ]
    data = msgspec.json.encode(whole, order="deterministic")
    return f"callgate:cache:{kind}:{blake2b(data, digest_size=24).hexdigest()}"


def _sealed(pieces: list[bytes], request: ChatRequest) -> bytes | None:
    """The answer as stored; None for one that was blocked, broken off or is too long."""
    record = request.record
    if not pieces or (record.finish_reason not in _WHOLE and request.endpoint != "embedding"):
        return None
    if record.assigned:  # a rollout began while this was asked; it may be the candidate's
        return None
    if any(rail.outcome == "block" for rail in record.rails) or sum(map(len, pieces)) > MOST_BYTES:
        return None
    usage = record.usage
    return msgspec.json.encode(
        Kept(
            [msgspec.json.decode(p) for p in pieces], usage.prompt_tokens, usage.completion_tokens, record.finish_reason
        )
    )


def _replayed(value: bytes, request: ChatRequest) -> list[Chunk]:
    kept = msgspec.json.decode(value, type=Kept)
    record = request.record
    record.cache = "hit"
    record.usage = Usage(kept.prompt_tokens, kept.completion_tokens)
    record.finish_reason = kept.finish_reason
    for chunk in kept.chunks:
        record.output.extend(holder[key] for _, holder, key in chunk_texts(chunk))
    return kept.chunks
