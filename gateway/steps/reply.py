"""A reply on its way out: held back until its rails have passed it, then given the caller's own values back.

It decides nothing itself: verdicts come from guardrails. Fails closed: a text whose rails could not run is withheld.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.errors import RailUnavailable
from gateway.types import ChatRequest, Chunk, RailResult
from gateway.wire.texts import ChannelKey, append_text, chunk_texts, conversation, is_empty
from guardrails.rails import OutputGuard, Rails
from guardrails.restore import Restorer
from guardrails.verdict import Verdict


class CheckedReply:
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
                self._request.record.rails.extend(map(rail_result, guard.ruling.verdicts))
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


async def restored(request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
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


def rail_result(verdict: Verdict) -> RailResult:
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


def _last_words(like: Chunk, key: ChannelKey, text: str) -> Chunk:
    """A chunk of a stream for text that was still held when it ended."""
    choice: Chunk = {"index": key[0], "finish_reason": None}
    append_text(choice, key, text)
    kept: Chunk = {name: like[name] for name in ("id", "object", "created", "model") if name in like}
    return {**kept, "choices": [choice]}
