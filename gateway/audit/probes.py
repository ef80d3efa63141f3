"""The ways into a gateway: each probe is a request with honeytokens somewhere in it, through every route, whole and streamed.

It knows the wire as callers know it; it sends nothing and searches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.audit.honeytokens import Honeytoken, Turn

MARKER = "the purple umbrella and the tin whistle"  # harmless words that must arrive, or the search proves nothing
CLOSING = f"What is the status of my payment for {MARKER}, please?"
Body = dict[str, Any] | bytes | None


@dataclass(frozen=True, slots=True)
class Probe:
    """One way in. ``behaviour``: which model of the stand is asked. ``by_field``: values stand as fields of a document, without a sentence.

    ``build`` makes the body of a model's name and the honeytokens; ``path`` and ``headers`` may hold {} for the first value. ``alone``: values stand without
    any word beside them. ``single``: one value a request. ``answers``: the caller gets the values back. ``again``: with the values of the probe before. ``once``: one request is enough.
    """

    name: str
    build: Callable[[str, Sequence[Honeytoken]], Body]
    path: str = "/v1/chat/completions"
    behaviour: str = "echo"
    method: str = "POST"
    stream: bool = False
    by_field: bool = False
    alone: bool = False
    single: bool = False
    again: bool = False
    once: bool = False
    answers: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def in_turns(self) -> bool:
        """Whether who says what, and after what question, is told."""
        return self.build in (_chat, _calling, _two_choices, _responses)

    @property
    def grounded(self) -> bool:
        """Whether it is also sent to a model with a knowledge base; all others are the same there."""
        return self.answers and self.behaviour == "echo" and self.path != "/v1/completions"


def probes() -> Iterator[Probe]:
    """All of them, in the order in which they are sent."""
    for stream in (False, True):
        how = "streamed" if stream else "whole"
        yield Probe(f"chat, {how}", _chat, stream=stream, answers=True)
        yield Probe(f"chat from the cache, {how}", _chat, stream=stream, answers=True, again=True)
        yield Probe(f"chat in parts, {how}", _parts, stream=stream, answers=True)
        yield Probe(f"chat of one message, {how}", _one_message, stream=stream, answers=True)
        yield Probe(f"two choices of JSON, {how}", _two_choices, stream=stream, answers=True)
        yield Probe(f"tool call, {how}", _calling, behaviour="tool", stream=stream, answers=True)
        yield Probe(f"refusal, {how}", _chat, behaviour="refuse", stream=stream, answers=True)
        yield Probe(f"tool arguments and results, {how}", _tools, stream=stream, by_field=True)
        yield Probe(f"completion, {how}", _completion, "/v1/completions", stream=stream, answers=True)
        yield Probe(f"responses, {how}", _responses, "/v1/responses", stream=stream, answers=True)
        yield Probe(f"judged by a model, {how}", _chat, behaviour="judged", stream=stream, answers=True)
        yield Probe(f"backend fails, {how}", _chat, behaviour="fail", stream=stream)
        yield Probe(f"backend sends garbage, {how}", _chat, behaviour="garbage", stream=stream)
        yield Probe(f"backend resets, {how}", _chat, behaviour="reset", stream=stream)
        yield Probe(f"backend cuts off, {how}", _chat, behaviour="truncate", stream=stream)
        yield Probe(f"backend hangs, {how}", _chat, behaviour="hang", stream=stream, once=True)
    yield Probe("responses with tools", _responses_tools, "/v1/responses", by_field=True)
    yield Probe("embeddings", _embeddings, "/v1/embeddings")
    yield Probe("redact", _redact, "/v1/redact")
    yield Probe("user, metadata, stop words, prediction", _beside)
    yield Probe("tool descriptions and schemas", _declared)
    yield Probe("fields that nobody knows", _unknown)
    yield Probe("participants", _participants, by_field=True, alone=True)
    yield Probe("file names", _files, by_field=True, alone=True)
    yield Probe("images", _images, by_field=True, alone=True)
    yield Probe("fraud score", _fraud, "/v1/fraud/score", by_field=True, single=True)
    yield Probe("fraud decision", lambda *_: None, "/v1/fraud/decisions/{}", method="GET", by_field=True, single=True)
    yield from _mistakes()


def _mistakes() -> Iterator[Probe]:
    """Requests that must be refused; what was sent must not come back or be noted."""
    yield Probe("model of no such name", lambda _, tokens: _chat(_value(tokens), tokens), by_field=True, single=True)
    yield Probe("address of no model", lambda *_: None, "/v1/models/{}", method="GET", by_field=True, single=True)
    yield Probe("address of nothing", lambda *_: None, "/v1/{}", method="GET", by_field=True, single=True)
    yield Probe("query of an address", lambda *_: None, "/health/live?q={}", method="GET", by_field=True, single=True)
    yield Probe(
        "wrong role",
        lambda model, tokens: _with(model, tokens, messages=[{"role": _value(tokens), "content": ""}]),
        by_field=True,
        single=True,
    )
    yield Probe(
        "wrong type", lambda model, tokens: _with(model, tokens, temperature=_value(tokens)), by_field=True, single=True
    )
    yield Probe(
        "wrong key",
        lambda model, tokens: _with(model, tokens, logit_bias={_value(tokens): _value(tokens)}),
        by_field=True,
        single=True,
    )
    yield Probe(
        "refused field", lambda model, tokens: _with(model, tokens, api_base=_value(tokens)), by_field=True, single=True
    )
    yield Probe("broken JSON", lambda model, tokens: json.dumps(_chat(model, tokens)).encode()[:-9])
    yield Probe("broken UTF-8", lambda model, tokens: json.dumps(_chat(model, tokens)).encode() + b"\xff")
    yield Probe("unknown API key", _chat, headers=(("authorization", "Bearer {}"),), by_field=True, single=True)
    yield Probe(
        "trace headers",
        _chat,
        headers=(("traceparent", "{}"), ("x-call-intent", "{}"), ("cookie", "a={}")),
        by_field=True,
        single=True,
    )


def turns(tokens: Sequence[Honeytoken]) -> list[Turn]:
    """A conversation in which each value is said in its turn."""
    return [turn for token in tokens for turn in (*token.turns, ("assistant", "Thank you. Anything else?"))]


def _value(tokens: Sequence[Honeytoken]) -> str:
    return next((token.field[1] for token in tokens if token.field is not None), "nothing")


def _fields(tokens: Sequence[Honeytoken]) -> dict[str, str]:
    return dict(token.field for token in tokens if token.field is not None)


def _chat(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [{"role": role, "content": text} for role, text in turns(tokens)]
    return {"model": model, "messages": [*said, {"role": "user", "content": CLOSING}]}


def _calling(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    note = {"type": "object", "properties": {"note": {"type": "string"}}}
    return _with(model, tokens, tools=[{"type": "function", "function": {"name": "note", "parameters": note}}])


def _two_choices(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    shape = {"type": "object", "properties": {"note": {"type": "string"}}}
    return _with(
        model, tokens, n=2, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": shape}}
    )


def _with(model: str, tokens: Sequence[Honeytoken], **changed: Any) -> dict[str, Any]:
    return _chat(model, tokens) | changed


def _parts(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    parts = [{"type": "text", "text": text} for role, text in turns(tokens) if role == "user"]
    return {"model": model, "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": CLOSING}]}]}


def _one_message(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    text = ". ".join(text for role, text in turns(tokens) if role == "user")
    return {"model": model, "messages": [{"role": "user", "content": f"Hello, {text}. {CLOSING}"}]}


def _tools(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    fields = _fields(tokens)
    nested = json.dumps(
        {"customer": {"details": [{name: value} for name, value in fields.items()]}, "raw": json.dumps(fields)}
    )
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": json.dumps(fields)}}
    old = {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": nested}}
    messages = [
        {"role": "user", "content": "Please look up my account."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(fields)},
        old,
        {"role": "function", "name": "look_up", "content": nested},
        {"role": "user", "content": CLOSING},
    ]
    return {"model": model, "messages": messages}


def _completion(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [text for role, text in turns(tokens) if role == "user"]
    return {"model": model, "prompt": f"Hello, {'. '.join(said)}. {CLOSING}"}


def _responses(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [{"role": role, "content": text} for role, text in turns(tokens)]
    return {"model": model, "input": [*said, {"role": "user", "content": CLOSING}], "store": False}


def _responses_tools(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    fields = json.dumps(_fields(tokens))
    items = [
        {"role": "user", "content": "Please look up my account."},
        {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": fields},
        {"type": "function_call_output", "call_id": "call_1", "output": fields},
        {"role": "user", "content": CLOSING},
    ]
    return {"model": model, "instructions": "You help callers of a bank.", "input": items}


def _embeddings(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    return {"model": model, "input": [*(text for role, text in turns(tokens) if role == "user"), CLOSING]}


def _redact(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    return _embeddings(model, tokens)


def _beside(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [text for role, text in turns(tokens) if role == "user"]
    metadata = {f"note{place}": text for place, text in enumerate(said)}
    prediction = {"type": "content", "content": ". ".join(said)}
    return _with(model, (), user=". ".join(said), metadata=metadata, stop=said[:4], prediction=prediction)


def _declared(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [text for role, text in turns(tokens) if role == "user"]
    schema = {
        "type": "object",
        "description": said[0],
        "properties": {"note": {"type": "string", "enum": said, "default": said[-1]}},
    }
    tools = [{"type": "function", "function": {"name": "note", "description": ". ".join(said), "parameters": schema}}]
    shape = {"type": "json_schema", "json_schema": {"name": "a", "description": said[0], "schema": schema}}
    return _with(model, (), tools=tools, response_format=shape)


def _unknown(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    said = [text for role, text in turns(tokens) if role == "user"]
    message = {"role": "user", "content": CLOSING, "note": said[0], "annotations": [{"text": text} for text in said]}
    return {"model": model, "messages": [message], "context": {"transcript": said}, "comment": ". ".join(said)}


def _participants(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    messages = [
        {"role": "user", "name": value.replace(" ", "_"), "content": "Hello, I have a question about my bill."}
        for value in _fields(tokens).values()
    ]
    return {"model": model, "messages": [*messages, {"role": "user", "content": CLOSING}]}


def _files(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {
            "type": "file",
            "file": {
                "file_data": "data:application/pdf;base64,JVBERi0=",
                "filename": f"statement_of_{value}.pdf".replace(" ", "_"),
            },
        }
        for value in _fields(tokens).values()
    ]
    return {"model": model, "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": CLOSING}]}]}


def _images(model: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    """Addresses of images; values of several words have no place in one."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"https://files.example.net/{value}.png"}}
        for value in _fields(tokens).values()
        if " " not in value
    ]
    return {"model": model, "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": CLOSING}]}]}


def _fraud(_: str, tokens: Sequence[Honeytoken]) -> dict[str, Any]:
    payment = {
        "transaction_id": "t-1",
        "customer_id": "c-1",
        "terminal_id": "m-1",
        "amount": _value(tokens),
        "currency": "EUR",
    }
    return payment | {"timestamp": _value(tokens), **_fields(tokens)}
