"""Where text stands in what is no prose: descriptions and schemas of tools, metadata, and fields that nobody here knows.

A field that is not listed still reaches the backend, so whatever it says is read like a document of the caller's. It does not know what is
done to the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.types import Json
from gateway.wire.parse import SHAPES

_SAID_IN_SCHEMAS = ("description", "title", "$comment", "default", "const", "enum", "examples")
_NO_TEXT = {
    *(field.encode_name for shape in SHAPES.values() for field in msgspec.structs.fields(shape)),
    *("audio", "function_call", "functions", "modalities", "parallel_tool_calls", "prediction", "prompt_cache_key"),
    *("reasoning_effort", "response_format", "safety_identifier", "service_tier", "store", "tool_choice", "verbosity"),
}  # texts among them are read by their names
_OF_MESSAGES = {
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "reasoning_content",
    "function_call",
}
_OF_PARTS = {"type", "text", "refusal", "image_url", "input_audio", "file", "cache_control"}
_OF_CALLS = {"id", "index", "type", "function"}


@dataclass(frozen=True, slots=True)
class Text:
    """``holder[key]``, a text."""

    holder: Any
    key: Any

    @property
    def text(self) -> str:
        text: str = self.holder[self.key]
        return text

    def write(self, text: str) -> None:
        self.holder[self.key] = text


class Participant(Text):
    """The name of a participant: words joined by underscores, as OpenAI's alphabet for it wants them."""

    __slots__ = ()

    @property
    def text(self) -> str:
        name: str = self.holder[self.key]
        return name.replace("_", " ")

    def write(self, text: str) -> None:
        joined = text.replace(" ", "_")
        self.holder[self.key] = "".join(c for c in joined if c.isascii() and (c.isalnum() or c in "_-"))


class FileName(Text):
    """The name of a file, in which words are often joined by underscores; what follows its last dot (pdf) is no word."""

    __slots__ = ()

    @property
    def text(self) -> str:
        return self._parts()[0].replace("_", " ")

    def write(self, text: str) -> None:
        self.holder[self.key] = text + self._parts()[1]

    def _parts(self) -> tuple[str, str]:
        name: str = self.holder[self.key]
        stem, dot, kind = name.rpartition(".")
        return (stem, dot + kind) if stem and len(kind) <= 5 and kind.isalnum() else (name, "")


@dataclass(frozen=True, slots=True)
class Document:
    """Fields of ``holder`` as one JSON document, so that a value is read together with its field's name."""

    holder: Json
    keys: tuple[str, ...]

    @property
    def text(self) -> str:
        return msgspec.json.encode({key: self.holder[key] for key in self.keys}).decode()

    def write(self, text: str) -> None:
        fields = msgspec.json.decode(text)
        for key in self.keys:  # a field may be called by a value, and then has another name now
            del self.holder[key]
        self.holder.update(fields)


def declared(body: Json) -> Iterator[Text]:
    """What tools, functions and the shape of the answer say about themselves; their names are no text."""
    functions = [tool.get("function") for tool in body.get("tools") or () if type(tool) is dict]
    for function in (*functions, *(body.get("functions") or ())):
        if type(function) is dict:
            yield from _schema({"properties": {"it": function}})
    shape = (body.get("response_format") or {}).get("json_schema")
    if type(shape) is dict:
        yield from _schema({"properties": {"it": shape}})


def _schema(schema: Any) -> Iterator[Text]:
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        for name, value in node.items() if type(node) is dict else enumerate(node):
            said = name in _SAID_IN_SCHEMAS
            if type(value) is str and said:
                yield Text(node, name)
            elif type(value) is list and said:
                yield from (Text(value, place) for place, item in enumerate(value) if type(item) is str)
            elif name == "properties" and type(value) is dict:
                waiting.extend(each for each in value.values() if type(each) is dict)  # its keys are names
            elif type(value) in (dict, list):
                waiting.append(value)


def unknown(body: Json) -> Iterator[Document]:
    """Fields of a request, of its messages, their parts and calls that are not listed here."""
    yield from _beside(body, _NO_TEXT)
    for message in body.get("messages") or ():
        yield from _beside(message, _OF_MESSAGES)
        content = message.get("content")
        for part in content if type(content) is list else ():
            yield from _beside(part, _OF_PARTS)
        for call in message.get("tool_calls") or ():
            yield from _beside(call, _OF_CALLS)
            if type(call.get("function")) is dict:
                yield from _beside(call["function"], {"name", "arguments"})


def _beside(holder: Mapping[str, Any], known: set[str]) -> Iterator[Document]:
    if holder.keys() <= known:
        return
    keys = tuple(key for key in holder if key not in known and type(holder[key]) not in (bool, float, type(None)))
    if keys and isinstance(holder, dict):
        yield Document(holder, keys)
