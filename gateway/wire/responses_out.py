"""Answers in the shape of the Responses API: one object for a whole answer, numbered events for a streamed one.

It is fed the chunks of a chat answer, of its first choice, and knows nothing of what was done to them. The events follow OpenAI's API
reference: response.created, output_item.added, content_part.added, output_text.delta ..., response.completed.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.types import Chunk, Json, Usage
from gateway.wire.sse import encode_named_event

_REPEATED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)
_DEFAULTS: Json = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseWriter:
    """One answer on its way to the caller. ``asked``: the request's body; ``created``: seconds since the epoch; ``sources``: passages to cite."""

    def __init__(self, asked: Json, reply_id: str, created: int, sources: list[Json]) -> None:
        self._asked = asked
        self._sources = sources
        self._id = reply_id
        self._created = created
        self._number = 0
        self._items: list[Json] = []
        self._message: Json | None = None
        self._calls: dict[int, Json] = {}
        self._finish = ""

    def whole(self, chunks: list[Chunk], usage: Usage) -> Json:
        """The response object of an answer that was not streamed."""
        for chunk in chunks:
            for _ in self._absorb(chunk):
                pass
        for _ in self._close():
            pass
        return self._response(self._status(), usage)

    def begin(self) -> bytes:
        """The events before the first chunk."""
        shown = self._response("in_progress", None)
        return self._event("response.created", response=shown) + self._event("response.in_progress", response=shown)

    def feed(self, chunk: Chunk) -> bytes:
        """The events of one chunk."""
        return b"".join(self._absorb(chunk))

    def end(self, usage: Usage) -> bytes:
        """The events after the last chunk."""
        closing = b"".join(self._close())
        status = self._status()
        return closing + self._event(f"response.{status}", response=self._response(status, usage))

    def fail(self, error: Json) -> bytes:
        """The last event of an answer that broke off. ``error``: OpenAI's error body, which clients raise."""
        told = error["error"]
        return self._event("error", error=told, code=told["code"], message=told["message"], param=told["param"])

    def _absorb(self, chunk: Chunk) -> Iterator[bytes]:
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0):
                continue  # the Responses API has one answer
            delta = choice.get("delta") or {}
            for key, kind in (("content", "output_text"), ("refusal", "refusal")):
                if delta.get(key):
                    yield from self._say(kind, delta[key], choice.get("logprobs"))
            for place, call in enumerate(delta.get("tool_calls") or ()):
                yield from self._call(call.get("index", place), call)
            self._finish = choice.get("finish_reason") or self._finish

    def _say(self, kind: str, text: str, logprobs: Json | None) -> Iterator[bytes]:
        item = self._message
        if item is None:
            item = self._message = {
                "id": f"msg_{self._id}",
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            yield from self._add(item)
        parts = item["content"]
        if not parts or parts[-1]["type"] != kind:
            yield from self._close_part()
            part: Json = {"type": kind, **({"text": "", "annotations": []} if kind == "output_text" else {kind: ""})}
            parts.append(part)
            yield self._event("response.content_part.added", **self._at(item, part=dict(part)))
        key = "text" if kind == "output_text" else kind
        parts[-1][key] += text
        extra: Json = {"logprobs": (logprobs or {}).get("content") or []} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.delta", **self._at(item, delta=text), **extra)

    def _call(self, index: int, call: Json) -> Iterator[bytes]:
        function = call.get("function") or {}
        item = self._calls.get(index)
        if item is None:
            call_id = call.get("id") or f"call_{self._id}_{index}"
            item = self._calls[index] = {
                "id": f"fc_{self._id}_{index}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": call_id,
                "name": function.get("name") or "",
                "arguments": "",
            }
            yield from self._add(item)
        if function.get("arguments"):
            item["arguments"] += function["arguments"]
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=item["id"],
                output_index=self._items.index(item),
                delta=function["arguments"],
            )

    def _add(self, item: Json) -> Iterator[bytes]:
        self._items.append(item)
        shown = {**item, "content": []} if "content" in item else dict(item)
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=shown)

    def _close_part(self) -> Iterator[bytes]:
        item = self._message
        if item is None or not item["content"]:
            return
        part = item["content"][-1]
        kind = part["type"]
        key = "text" if kind == "output_text" else kind
        extra: Json = {"logprobs": []} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.done", **self._at(item), **{key: part[key]}, **extra)
        yield self._event("response.content_part.done", **self._at(item, part=part))

    def _close(self) -> Iterator[bytes]:
        status = "incomplete" if self._finish in _INCOMPLETE else "completed"
        for place, item in enumerate(self._items):
            if item is self._message:
                yield from self._close_part()
            else:
                yield self._event(
                    "response.function_call_arguments.done",
                    item_id=item["id"],
                    output_index=place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            item["status"] = status
            yield self._event("response.output_item.done", output_index=place, item=item)

    def _at(self, item: Json, **more: object) -> Json:
        content_index = max(0, len(item["content"]) - 1)
        return {
            "item_id": item["id"],
            "output_index": self._items.index(item),
            "content_index": content_index,
            **more,
        }

    def _event(self, kind: str, **fields: object) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return encode_named_event(kind, data)

    def _status(self) -> str:
        return "incomplete" if self._finish in _INCOMPLETE else "completed"

    def _response(self, status: str, usage: Usage | None) -> Json:
        reason = _INCOMPLETE.get(self._finish)
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._asked["model"],
            "output": self._items,
            "error": None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "previous_response_id": None,
            "store": False,
            **{name: self._asked.get(name, _DEFAULTS.get(name)) for name in _REPEATED},
            "usage": _usage(usage) if usage is not None else None,
            **({"callgate": {"passages": self._sources}} if self._sources else {}),
        }


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached or 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": usage.total_tokens,
    }
