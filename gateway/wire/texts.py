"""Where text stands in OpenAI's requests and answers: the only file that knows the fields.

A request's texts are read as Slots and written back changed; an answer's texts flow through Channels, one for each text that grows
by deltas (content of choice 0, arguments of its second tool call, ...). It does not know what is done to the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from gateway.types import ChatRequest, Chunk, Json
from gateway.wire.documents import Document, FileName, Participant, Text, declared, unknown

Form = Literal["plain", "json"]


class Slot(Struct, frozen=True):
    """One text of a request, and who says it. ``form`` json: the text is itself a JSON document. ``prose``: a turn that rails may rewrite."""

    where: Text | Document
    role: str
    form: Form = "plain"
    prose: bool = False

    @property
    def text(self) -> str:
        return self.where.text

    def write(self, text: str) -> None:
        self.where.write(text)


def request_texts(request: ChatRequest) -> list[Slot]:
    """Every text of a request that a person may have written: what does not grow with a conversation first, then the conversation in its order."""
    body = request.body
    slots = [Slot(text, "system") for text in declared(body)]
    slots += [Slot(document, "user", "json") for document in unknown(body)]
    slots += [Slot(Document(body, ("metadata",)), "user", "json")] if body.get("metadata") else []
    slots += _words_to_stop_at(body)
    slots += [_slot(body, key, "user") for key in _ABOUT_THE_CALLER if type(body.get(key)) is str]
    slots += _messages(body) if request.endpoint == "chat" else _prompts(body, _PROMPT[request.endpoint])
    return slots


_ABOUT_THE_CALLER = ("user", "safety_identifier", "prompt_cache_key")


def _slot(holder: Any, key: Any, role: str, form: Form = "plain", *, prose: bool = False) -> Slot:
    return Slot(Text(holder, key), role, form, prose)


def _words_to_stop_at(body: Json) -> list[Slot]:
    stop = body.get("stop")
    if type(stop) is list:
        return [_slot(stop, place, "user") for place in range(len(stop))]
    return [_slot(body, "stop", "user")] if type(stop) is str else []


def _messages(body: Json) -> Iterator[Slot]:
    for message in body["messages"]:
        role = message["role"]
        content = message.get("content")
        if type(content) is str:
            yield _slot(message, "content", role, _form_of_content(role, content), prose=True)
        elif content:
            yield from _parts(content, role)
        for key in ("refusal", "reasoning_content"):
            if type(message.get(key)) is str:
                yield _slot(message, key, role)
        if type(message.get("name")) is str:
            yield Slot(Participant(message, "name"), role)
        calls = [call.get("function") for call in message.get("tool_calls") or ()]
        for function in (*calls, message.get("function_call")):
            if type(function) is dict and type(function.get("arguments")) is str:
                yield _slot(function, "arguments", role, "json")
    prediction = body.get("prediction")
    if type(prediction) is dict and type(prediction.get("content")) is str:
        yield _slot(prediction, "content", "assistant")
    elif type(prediction) is dict and type(prediction.get("content")) is list:
        yield from _parts(prediction["content"], "assistant")


def _form_of_content(role: str, content: str) -> Form:
    """What a tool gives is often a document, in which names of fields tell what a value is."""
    return "json" if role in ("tool", "function") and content.lstrip()[:1] in ("{", "[") else "plain"


def _parts(parts: list[Json], role: str) -> Iterator[Slot]:
    for part in parts:
        for key in ("text", "refusal"):
            if type(part.get(key)) is str:
                yield _slot(part, key, role, _form_of_content(role, part[key]), prose=key == "text")
        file = part.get("file")
        if type(file) is dict and type(file.get("filename")) is str:
            yield Slot(FileName(file, "filename"), role)
        image = part.get("image_url")
        if type(image) is dict and type(image.get("url")) is str and not image["url"].startswith("data:"):
            yield _slot(
                image, "url", role
            )  # an address with a value in it leads nowhere afterwards: better than telling it


_PROMPT = {"completion": "prompt", "embedding": "input"}


def _prompts(body: Json, key: str) -> Iterator[Slot]:
    prompt = body[key]
    if type(prompt) is str:
        yield _slot(body, key, "user", prose=True)
    else:
        yield from (_slot(prompt, index, "user") for index in range(len(prompt)))
    if type(body.get("suffix")) is str:
        yield _slot(body, "suffix", "user")


def unreadable_parts(body: Json) -> Iterator[tuple[str, str]]:
    """Parts of messages that nothing here can read (images, audio, files): where each stands, and its type."""
    for index, message in enumerate(body.get("messages") or ()):
        content = message.get("content")
        for place, part in enumerate(content if type(content) is list else ()):
            if part["type"] not in ("text", "refusal"):
                yield f"messages[{index}].content[{place}].type", part["type"]


def conversation(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation as rails read it: ``[{"role", "content"}]``, parts joined, tool arguments as text."""
    if request.endpoint != "chat":
        prompt = request.body[_PROMPT[request.endpoint]]
        return [{"role": "user", "content": text} for text in ([prompt] if type(prompt) is str else prompt)]
    messages = []
    for message in request.body["messages"]:
        content = message.get("content")
        text = content if type(content) is str else "\n".join(p.get("text") or "" for p in content or ())
        messages.append({"role": message["role"], "content": text})
    return messages


# --- answers -------------------------------------------------------------------------------------------------------------

ChannelKey = tuple[int, str, int]
"""(index of the choice, name of the field, index of the tool call or 0)"""


def chunk_texts(chunk: Chunk) -> Iterator[tuple[ChannelKey, Json, str]]:
    """Every text of a chunk: the channel it belongs to, and the holder and key where it stands."""
    for choice in chunk.get("choices") or ():
        index = choice.get("index", 0)
        delta = choice.get("delta")
        if delta is None:
            if type(choice.get("text")) is str:
                yield (index, "text", 0), choice, "text"
            continue
        for key in ("content", "refusal", "reasoning_content", "reasoning"):
            if type(delta.get(key)) is str:
                yield (index, key, 0), delta, key
        for place, call in enumerate(delta.get("tool_calls") or ()):
            function = call.get("function")
            if type(function) is dict and type(function.get("arguments")) is str:
                yield (index, "arguments", call.get("index", place)), function, "arguments"
        old = delta.get("function_call")
        if type(old) is dict and type(old.get("arguments")) is str:
            yield (index, "function_call", 0), old, "arguments"


def form_of(key: ChannelKey, body: Json) -> Form:
    """What a channel carries: arguments of a call are JSON, and the content where the request wants JSON; all else is prose."""
    if key[1] == "content":
        return "json" if (body.get("response_format") or {}).get("type") in ("json_object", "json_schema") else "plain"
    return "json" if key[1] in ("arguments", "function_call") else "plain"


def append_text(choice: Json, key: ChannelKey, text: str) -> None:
    """Adds text at the end of a channel inside a chunk's choice; the field is made where the chunk had none."""
    _, name, call_index = key
    if name == "text":
        choice["text"] = (choice.get("text") or "") + text
        return
    delta = choice.setdefault("delta", {})
    if name == "function_call":
        function = delta.setdefault("function_call", {})
        function["arguments"] = (function.get("arguments") or "") + text
        return
    if name != "arguments":
        delta[name] = (delta.get(name) or "") + text
        return
    calls = delta.get("tool_calls") or []
    for place, call in enumerate(calls):
        if call.get("index", place) == call_index:
            function = call.setdefault("function", {})
            function["arguments"] = (function.get("arguments") or "") + text
            return
    delta["tool_calls"] = [*calls, {"index": call_index, "function": {"arguments": text}}]


def last_words(like: Chunk, key: ChannelKey, text: str) -> Chunk:
    """A chunk of a stream for text that was still held when it ended."""
    choice: Chunk = {"index": key[0], "finish_reason": None}
    append_text(choice, key, text)
    kept: Chunk = {name: like[name] for name in ("id", "object", "created", "model") if name in like}
    return {**kept, "choices": [choice]}


def is_empty(chunk: Chunk) -> bool:
    """A chunk that says nothing: every text in it was held back, and it carries neither role, finish, usage nor log-probabilities."""
    if chunk.get("usage"):
        return False
    for choice in chunk.get("choices") or ():
        if choice.get("finish_reason") or choice.get("logprobs") or choice.get("text"):
            return False
        for key, value in (choice.get("delta") or {}).items():
            if key == "function_call" and _silent({"function": value}):
                continue
            if value and not (key == "tool_calls" and all(_silent(call) for call in value)):
                return False
    return bool(chunk.get("choices"))


def _silent(call: Json) -> bool:
    function = call.get("function") or {}
    return not call.get("id") and not function.get("name") and not function.get("arguments")
