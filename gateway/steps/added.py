"""An answer on its way in: personal data that the model adds is taken out before anything reads, notes or stores it.

It decides nothing itself (guardrails/added.py does). Fails closed: where it could not run, the rest of the answer is withheld and its verdict is
not_run. Log-probabilities tell tokens, so they wait for their text, and go with it where anything was changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from gateway.errors import RailUnavailable
from gateway.types import ChatRequest, Chunk, Json, RailResult
from gateway.wire.texts import ChannelKey, append_text, chunk_texts, conversation, form_of, is_empty, last_words
from guardrails.added import AddedChannel, AddedData, Known
from guardrails.types import RedactionUnavailable


def unchecked(request: ChatRequest) -> None:
    """Notes that the policy does not want answers looked through."""
    request.record.rails.append(
        _verdict("not_run", "answers are not looked through by this policy", 0.0, enforced=False)
    )


class CleanedReply:
    """One answer, each of its texts through a finder of its own."""

    def __init__(self, added: AddedData, request: ChatRequest) -> None:
        self._added = added
        self._request = request
        self._known: Known | None = None
        self._channels: dict[ChannelKey, AddedChannel] = {}
        self._logprobs: dict[int, Json] = {}
        self._blocked: set[int] = set()
        self._choices = request.body.get("n") or 1
        self._spent_s = 0.0

    async def chunks(self, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        chunk: Chunk = {}
        failed = ""
        try:
            async with aclosing(reply):
                async for chunk in reply:
                    if self._request.refusal is None:  # else the policy's own words
                        self._clean(chunk)
                    if not is_empty(chunk):
                        yield chunk
                    if len(self._blocked) >= self._choices:
                        return
            for key, channel in self._channels.items():
                if key[0] not in self._blocked and (rest := channel.flush()):
                    yield last_words(chunk, key, rest)
        except RedactionUnavailable as error:
            failed = str(error)
            raise RailUnavailable(
                "The answer could not be checked for personal data, so the rest of it was withheld."
            ) from None
        finally:
            self._note(failed)

    def _clean(self, chunk: Chunk) -> None:
        begun = time.perf_counter()
        choices = chunk.get("choices") or []
        if self._blocked:
            choices[:] = [choice for choice in choices if choice.get("index", 0) not in self._blocked]
        for key, holder, name in list(chunk_texts(chunk)):
            channel = self._channels.get(key)
            if channel is None:
                channel = self._channels[key] = self._added.channel(self._shown, form_of(key, self._request.body))
            holder[name] = channel.feed(holder[name])
        for choice in choices:
            self._end(choice, choice.get("index", 0))
        self._spent_s += time.perf_counter() - begun

    def _end(self, choice: Chunk, index: int) -> None:
        mine = {key: channel for key, channel in self._channels.items() if key[0] == index}
        if choice.get("finish_reason"):
            for key, channel in mine.items():
                if rest := channel.flush():
                    append_text(choice, key, rest)
        if any(channel.blocked for channel in mine.values()):
            self._block(choice, index)
        elif choice.get("logprobs") or index in self._logprobs:
            self._hold_logprobs(choice, index, list(mine.values()))

    def _block(self, choice: Chunk, index: int) -> None:
        if choice.get("delta") is not None:
            choice["delta"] = {} if self._request.stream else {"role": "assistant", "content": ""}
        else:
            choice["text"] = ""
        choice.pop("logprobs", None)
        choice["finish_reason"] = self._request.record.finish_reason = "content_filter"
        self._blocked.add(index)

    def _hold_logprobs(self, choice: Chunk, index: int, channels: list[AddedChannel]) -> None:
        held = self._logprobs.setdefault(index, {})
        for name, values in (choice.pop("logprobs", None) or {}).items():
            held[name] = [*held.get(name, ()), *values] if isinstance(values, list) else values
        if not any(channel.holds or channel.counts for channel in channels):
            choice["logprobs"] = self._logprobs.pop(index)

    def _shown(self) -> Known:
        """What the caller said and what the model was shown; made when something is found."""
        if self._known is None:
            request = self._request
            texts = [message["content"] for message in conversation(request)]
            texts += [msgspec.json.encode(request.body.get(name)).decode() for name in ("tools", "functions")]
            if self._added.settings.passages == "check":
                texts = [text for text in texts if text != request.passages]
            self._known = Known(request.said, texts)
        return self._known

    def _note(self, failed: str) -> None:
        record = self._request.record
        counts: dict[str, int] = {}
        for channel in self._channels.values():
            record.held_chars = max(record.held_chars, channel.held_chars)
            for kind, count in channel.counts.items():
                counts[kind] = counts.get(kind, 0) + count
        if failed:
            record.rails.append(_verdict("not_run", failed, self._spent_s, enforced=True))
        elif self._channels:
            outcome = "block" if self._blocked else "rewrite" if counts else "pass"
            record.rails.append(_verdict(outcome, ", ".join(sorted(counts)), self._spent_s, enforced=True))
        record.redacted_answer = counts


def _verdict(outcome: str, reason: str, duration_s: float, *, enforced: bool) -> RailResult:
    return RailResult("redaction", "output", outcome, reason, None, None, duration_s, enforced)
