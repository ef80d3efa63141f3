"""A reply on its way out: held back until its rails have passed it, then given the caller's own values back.

It decides nothing itself: verdicts come from guardrails. Fails closed: a text whose rails could not run is withheld.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.errors import RailUnavailable
from gateway.types import ChatRequest, Chunk, Json, RailResult
from gateway.wire.texts import ChannelKey, append_text, chunk_texts, conversation, form_of, is_empty, last_words
from guardrails.rails import OutputGuard, Rails
from guardrails.restore import Restorer
from guardrails.verdict import Ruling, Verdict


class CheckedReply:
    """One answer under output rails: a guard for each of its texts."""

    def __init__(self, rails: Rails, request: ChatRequest) -> None:
        self._rails = rails
        self._request = request
        self._messages = conversation(request)
        self._recording = request.record.recording
        if self._recording is not None:
            self._recording.grounded = self._messages
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
            for key, guard in self._guards.items():
                if self._recording is not None:
                    self._recording.rulings.append(ruling_json("output", channel_name(key), guard.ruling))
                self._request.record.rails.extend(map(rail_result, guard.ruling.verdicts))
                self._request.record.held_chars = max(self._request.record.held_chars, guard.held_chars)

    async def _check(self, chunk: Chunk) -> None:
        if self._request.refusal is not None:  # the policy's own words, given while the model was already asked
            return
        choices = chunk.get("choices") or []
        if self._blocked:
            choices[:] = [choice for choice in choices if choice.get("index", 0) not in self._blocked]
        for key, holder, name in list(chunk_texts(chunk)):
            guard = self._guards.get(key) or self._guards.setdefault(key, self._rails.guard_output(self._messages))
            if self._recording is not None:
                self._recording.channels.setdefault(channel_name(key), []).append(holder[name])
            holder[name] = await guard.feed(holder[name])
        for choice in choices:
            index = choice.get("index", 0)
            mine = [(key, guard) for key, guard in self._guards.items() if key[0] == index]
            if choice.get("finish_reason"):
                for key, guard in mine:
                    self._note_end(key)
                    if rest := await guard.finish():
                        append_text(choice, key, rest)
            self._stop_if_blocked(choice, index, [guard for _, guard in mine])

    def _note_end(self, key: ChannelKey) -> None:
        if self._recording is not None:
            self._recording.ended.add(channel_name(key))

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
            if key[0] in self._blocked:
                continue
            self._note_end(key)
            if not (rest := await guard.finish()):
                continue
            out.append(last_words(like, key, rest))
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
                        restorer = restorers[key] = Restorer(request.tokens, form_of(key, request.body))
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
                yield last_words(chunk, key, rest)
    finally:
        request.record.unresolved_tokens = sum(restorer.unresolved for restorer in restorers.values())


async def heard(request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    """An answer that no rail checks, noted for the recording: another policy's rails may read it in a replay."""
    recording = request.record.recording
    async with aclosing(reply):
        async for chunk in reply:
            if recording is not None:
                for key, holder, name in chunk_texts(chunk):
                    recording.channels.setdefault(channel_name(key), []).append(holder[name])
                    recording.ended.add(channel_name(key))
            yield chunk


def channel_name(key: ChannelKey) -> str:
    return f"{key[0]}/{key[1]}/{key[2]}"


def ruling_json(stage: str, channel: str, ruling: Ruling) -> Json:
    """A stage's ruling as a recording holds it. Texts in it are redacted, as everything that rails read."""
    return {
        "stage": stage,
        "channel": channel,
        "decision": ruling.decision,
        "kind": ruling.kind,
        "respond": ruling.respond,
        "text": ruling.text,
        "verdicts": [
            {
                "rail": v.rail,
                "outcome": str(v.outcome),
                "enforced": v.enforced,
                "score": v.score,
                "threshold": v.threshold,
                "reason": v.reason,
                "duration_ms": round(v.duration_s * 1000, 3),
            }
            for v in ruling.verdicts
        ],
    }


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
