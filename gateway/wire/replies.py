"""Answers out: OpenAI's response objects made from chunks, and chunks made from whole responses.

One path serves whole and streamed replies: a whole response becomes one chunk whose delta is its message, and is turned back at the end.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import UpstreamInvalid
from gateway.types import Chunk, Endpoint, Json, Usage
from gateway.wire.sse import DONE, encode_event

_OBJECTS: dict[Endpoint, tuple[str, str]] = {
    "chat": ("chat.completion", "chat.completion.chunk"),
    "completion": ("text_completion", "text_completion"),
    "embedding": ("list", "list"),
}


class Writer(Protocol):
    """How an answer is told in the shape that its caller asked for: whole, or as a stream of events."""

    def whole(self, chunks: list[Chunk], usage: Usage) -> Json: ...
    def begin(self) -> bytes: ...
    def feed(self, chunk: Chunk) -> bytes: ...
    def end(self, usage: Usage) -> bytes: ...
    def fail(self, error: Json) -> bytes: ...


class ChunkWriter:
    """Chat and legacy completions: the chunks as they are. ``include_usage``: the caller wants a last chunk with what was used.

    ``sources``: passages that the answer may cite, told once.
    """

    __slots__ = ("_endpoint", "_include_usage", "_last", "_sources")

    def __init__(self, endpoint: Endpoint, include_usage: bool, sources: list[Json]) -> None:
        self._endpoint = endpoint
        self._include_usage = include_usage
        self._sources = sources
        self._last: Chunk = {}

    def whole(self, chunks: list[Chunk], usage: Usage) -> Json:
        response = to_response(self._endpoint, chunks, usage)
        if self._sources:
            response["callgate"] = {"passages": self._sources}
        return response

    def begin(self) -> bytes:
        return b""

    def feed(self, chunk: Chunk) -> bytes:
        if self._sources and not self._last:
            chunk["callgate"] = {"passages": self._sources}
        self._last = chunk
        return encode_event(chunk)

    def end(self, usage: Usage) -> bytes:
        return (encode_event(usage_chunk(self._last, usage)) if self._include_usage else b"") + DONE

    def fail(self, error: Json) -> bytes:
        """The error as the last event, and no [DONE]: the answer is not whole."""
        return encode_event(error)


def to_chunk(endpoint: Endpoint, response: Json) -> Chunk:
    """A whole response as one chunk. It takes ownership of ``response``.

    Raises: UpstreamInvalid when it has no choices, or a choice without its message or text; for embeddings, when it has no data.
    """
    if endpoint == "embedding":
        if type(response.get("data")) is not list:
            raise UpstreamInvalid("The model's server answered without any embedding.")
        return response
    choices = response.get("choices")
    if type(choices) is not list or not choices:
        raise UpstreamInvalid("The model's server answered without any choice.")
    for choice in choices:
        if type(choice) is not dict:
            raise UpstreamInvalid("The model's server answered with a choice that is not an object.")
        if endpoint == "chat":
            message = choice.pop("message", None)
            if type(message) is not dict:
                raise UpstreamInvalid("The model's server answered with a choice that has no message.")
            choice["delta"] = message
        elif type(choice.get("text")) is not str:
            raise UpstreamInvalid("The model's server answered with a choice that has no text.")
    return response


def to_response(endpoint: Endpoint, chunks: list[Chunk], usage: Usage) -> Json:
    """The whole response of a reply that was not streamed: one chunk from the backend, and what rails added after it."""
    response = chunks[0]
    for later in chunks[1:]:
        _join(response, later)
    response["object"] = _OBJECTS[endpoint][0]
    if endpoint == "embedding":
        response["usage"] = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    if endpoint == "chat":
        for choice in response["choices"]:
            choice["message"] = choice.pop("delta")
    if not response.get("usage"):
        response["usage"] = usage.as_json()
    return response


def _join(response: Json, later: Chunk) -> None:
    by_index = {choice.get("index", 0): choice for choice in response["choices"]}
    for choice in later.get("choices") or ():
        first = by_index[choice.get("index", 0)]
        for key, text in (choice.get("delta") or {}).items():
            first["delta"][key] = (first["delta"].get(key) or "") + text
        if "text" in choice:
            first["text"] = (first.get("text") or "") + choice["text"]
        first["finish_reason"] = choice.get("finish_reason") or first.get("finish_reason")
    if later.get("usage"):
        response["usage"] = later["usage"]


def canned(endpoint: Endpoint, *, reply_id: str, created: int, model: str, text: str, stream: bool) -> Chunk:
    """An answer in the model's stead: a policy's refusal."""
    choice: Json = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if endpoint == "chat":
        choice["delta"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    kind = _OBJECTS[endpoint][1 if stream else 0]
    return {"id": reply_id, "object": kind, "created": created, "model": model, "choices": [choice]}


def usage_chunk(like: Chunk, usage: Usage) -> Chunk:
    """The last chunk of a stream whose caller asked for usage."""
    kept: Json = {key: like[key] for key in ("id", "object", "created", "model") if key in like}
    return {**kept, "choices": [], "usage": usage.as_json()}


def read_usage(chunk: Chunk) -> Usage | None:
    """What a backend says it used, or None; numbers that are not whole and positive are not believed."""
    usage = chunk.get("usage")
    if type(usage) is not dict:
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        return None
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    return Usage(prompt, completion, False, cached, _detail(usage, "completion_tokens_details", "reasoning_tokens"))


def _detail(usage: Json, group: str, name: str) -> int | None:
    details = usage.get(group)
    count = details.get(name) if type(details) is dict else None
    return count if type(count) is int and count >= 0 else None
