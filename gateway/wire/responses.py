"""The Responses API, stateless: its requests as chat requests, and the answers of chat as its objects and events.

Every backend is asked by chat, so that rails and redaction read one form. It keeps nothing between requests: what needs a memory here
(previous_response_id, conversation, background) or a tool run by somebody else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import BadRequest
from gateway.types import Json
from gateway.wire.parse import Positive, convert, decode, refuse_control_fields

_REFUSED_BECAUSE_STATELESS = ("previous_response_id", "conversation", "prompt")


class _Format(msgspec.Struct, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Responses(msgspec.Struct, kw_only=True):
    """A checked request of the Responses API. Items of ``input`` are checked as they are translated."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: str | Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=4096)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[_Tool], msgspec.Meta(max_length=256)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None


def parse_responses(raw: bytes) -> tuple[Json, Json]:
    """The body of the chat request that asks the same, and the body as it came (for the fields that an answer repeats).

    Raises: BadRequest naming the field and what would be right.
    """
    body = decode(raw)
    wanted = convert(body, Responses)
    refuse_control_fields(body)
    for name in _REFUSED_BECAUSE_STATELESS:
        if body.get(name) is not None:
            raise BadRequest(
                f"'{name}' needs answers kept between requests, and none are kept here; send the whole conversation as input.",
                param=name,
                code="unsupported_parameter",
            )
    if wanted.background:
        raise BadRequest(
            "Background answers are not made here; leave 'background' out.",
            param="background",
            code="unsupported_parameter",
        )
    return _as_chat(wanted), body


def _as_chat(wanted: Responses) -> Json:
    chat: Json = {"model": wanted.model, "messages": list(_messages(wanted))}
    if wanted.tools:
        chat["tools"] = [_chat_tool(place, tool) for place, tool in enumerate(wanted.tools)]
    if wanted.tool_choice is not None:
        chat["tool_choice"] = _chat_choice(wanted.tool_choice)
    if wanted.text is not None and wanted.text.format is not None and wanted.text.format.type != "text":
        chat["response_format"] = _chat_format(wanted.text.format)
    if wanted.reasoning is not None and wanted.reasoning.effort is not None:
        chat["reasoning_effort"] = wanted.reasoning.effort
    if wanted.top_logprobs is not None:
        chat |= {"logprobs": True, "top_logprobs": wanted.top_logprobs}
    same = {
        "stream": wanted.stream,
        "max_completion_tokens": wanted.max_output_tokens,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "parallel_tool_calls": wanted.parallel_tool_calls,
        "metadata": wanted.metadata,
        "user": wanted.user,
        "safety_identifier": wanted.safety_identifier,
        "prompt_cache_key": wanted.prompt_cache_key,
    }
    return chat | {name: value for name, value in same.items() if value is not None}


def _messages(wanted: Responses) -> Iterator[Json]:
    if wanted.instructions:
        yield {"role": "system", "content": wanted.instructions}
    if isinstance(wanted.input, str):
        yield {"role": "user", "content": wanted.input}
        return
    calls: list[Json] = []
    for place, item in enumerate(wanted.input):
        kind = item.get("type", "message")
        if kind == "function_call":  # calls made together are one message in chat
            function = {
                "name": _string(item, "name", place),
                "arguments": _string(item, "arguments", place),
            }
            calls.append({"id": _string(item, "call_id", place), "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        if kind == "message":
            yield _message(item, place)
        elif kind == "function_call_output":
            yield {
                "role": "tool",
                "tool_call_id": _string(item, "call_id", place),
                "content": _output(item, place),
            }
        elif kind != "reasoning":  # thoughts of an earlier turn are its provider's; other models cannot use them
            raise _wrong_item(place, "type", "message, function_call, function_call_output or reasoning")
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _message(item: Json, place: int) -> Json:
    role = item.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise _wrong_item(place, "role", "system, developer, user or assistant")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise _wrong_item(place, "content", "a string or a list of parts")
    parts = [_part(part, place, number) for number, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return {"role": role, "content": parts if role == "user" else "".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(part: Any, place: int, number: int) -> Json:
    where = f"content[{number}]"
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {
            "type": "image_url",
            "image_url": {"url": part["image_url"], **({"detail": part["detail"]} if part.get("detail") else {})},
        }
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file":
        return {
            "type": "file",
            "file": {key: part[key] for key in ("file_data", "file_id", "filename") if isinstance(part.get(key), str)},
        }
    raise _wrong_item(place, where, "input_text, output_text, refusal, input_image, input_audio or input_file")


def _output(item: Json, place: int) -> str:
    output = item.get("output")
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return "".join(_part(part, place, number).get("text", "") for number, part in enumerate(output))
    raise _wrong_item(place, "output", "a string or a list of parts")


def _string(item: Json, key: str, place: int) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise _wrong_item(place, key, "a string")
    return value


def _wrong_item(place: int, key: str, right: str) -> BadRequest:
    at = f"input[{place}].{key}"
    return BadRequest(f"Expected {right} at {at}.", param=at, code="invalid_value")


def _chat_tool(place: int, tool: _Tool) -> Json:
    if tool.type != "function" or not tool.name:
        raise BadRequest(
            "Only tools of type 'function', with a name, can be declared here; others would be run by the model's provider.",
            param=f"tools[{place}].type",
            code="unsupported_tool",
        )
    fields = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    function = {"name": tool.name, **{name: value for name, value in fields.items() if value is not None}}
    return {"type": "function", "function": function}


def _chat_choice(choice: str | Json) -> str | Json:
    if isinstance(choice, str):
        return choice
    if choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise BadRequest(
        "tool_choice must be 'auto', 'none', 'required' or {\"type\": \"function\", \"name\": ...}.",
        param="tool_choice",
        code="invalid_value",
    )


def _chat_format(wanted: _Format) -> Json:
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.schema is None or not wanted.name:
        raise BadRequest("A json_schema format needs 'name' and 'schema'.", param="text.format", code="invalid_value")
    fields = {
        "name": wanted.name,
        "schema": wanted.schema,
        "strict": wanted.strict,
        "description": wanted.description,
    }
    return {"type": "json_schema", "json_schema": {k: v for k, v in fields.items() if v is not None}}
