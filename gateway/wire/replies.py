"""Answers out: OpenAI's response objects made from chunks, and chunks made from whole responses.

One path serves whole and streamed replies: a whole response becomes one chunk whose delta is its message, and is turned back at the end.
"""

from __future__ import annotations

from gateway.errors import UpstreamInvalid
from gateway.types import Chunk, Endpoint, Json, Usage

_OBJECTS: dict[Endpoint, tuple[str, str]] = {
    "chat": ("chat.completion", "chat.completion.chunk"),
    "completion": ("text_completion", "text_completion"),
}


def to_chunk(endpoint: Endpoint, response: Json) -> Chunk:
    """A whole response as one chunk. It takes ownership of ``response``.

    Raises: UpstreamInvalid when it has no choices, or a choice without its message or text.
    """
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
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        return None
    return Usage(prompt, completion)
