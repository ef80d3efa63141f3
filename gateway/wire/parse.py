"""Request bodies in: bytes to a checked OpenAI request. It does not know who sent them or where they go.

The body is decoded once to a plain dict, so that fields unknown here still reach the backend; its shape is checked by
msgspec against the structs below (1 to 2 microseconds for a 1 KB chat, 2026-11).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from gateway.errors import BadRequest
from gateway.types import Endpoint, Json
from gateway.wire.schemas import check_schemas

_T = TypeVar("_T")
MAX_DEPTH = 64

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Texts = Annotated[list[str], msgspec.Meta(min_length=1, max_length=2048)]


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    function: _Function | None = None
    id: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class _DeclaredFunction(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _DeclaredFunction | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    logit_bias: dict[str, float] | None = None


class _Chat(_Sampling, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Positive | None = None
    tools: Annotated[list[_Tool], msgspec.Meta(max_length=256)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None


class _Completion(_Sampling, kw_only=True):
    prompt: str | Texts
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """A checked request for embeddings."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: str | Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None

    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class RedactRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Texts whose personal data is to be replaced as the policy of a model says."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: str | Texts

    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


SHAPES: dict[Endpoint, type[_Sampling | Embedding]] = {"chat": _Chat, "completion": _Completion, "embedding": Embedding}

_TEXTS_ONLY = (Embedding, _Completion, RedactRequest)
_TOKEN_IDS = ("Expected `str`, got `int`", "Expected `str`, got `array`")

# What a caller must not set: each would move a decision of the operator's into the request (CVE-2024-6587, CVE-2025-62164).
REFUSED_FIELDS = {
    name: why
    for why, names in {
        "where requests go is the operator's setting": ("api_base", "base_url", "api_base_url", "azure_endpoint"),
        "credentials are the operator's setting": ("api_key", "api_version", "organization", "aws_access_key_id"),
        "headers towards backends are the operator's setting": (
            "headers",
            "extra_headers",
            "default_headers",
            "extra_body",
        ),
        "callbacks are not for callers": ("callbacks", "success_callback", "failure_callback", "litellm_params"),
        "guardrails are chosen by the operator's policy": ("guardrails", "guardrail_config", "disable_guardrails"),
        "raw embeddings cannot be checked by any rail": ("prompt_embeds", "input_embeds"),
        "raw token ids cannot be checked by any rail": ("prompt_token_ids", "allowed_token_ids"),
        "use response_format with a JSON schema": (
            "guided_regex",
            "guided_grammar",
            "guided_decoding_backend",
            "structural_tag",
        ),
        "use response_format with a JSON schema, which is checked": (
            "structured_outputs",
            "guided_json",
            "guided_choice",
        ),
        "the order of the queue is the operator's setting": ("priority",),
        "the backend's caches are the operator's setting": ("cache_salt", "kv_transfer_params"),
        "adapters are models of their own here": ("lora_request",),
        "templates are the operator's setting": ("chat_template", "chat_template_kwargs"),
    }.items()
    for name in names
}


def parse(endpoint: Endpoint, raw: bytes) -> Json:
    """The request as a dict whose known fields have the right types and ranges.

    Raises: BadRequest naming the field and what would be right.
    """
    body = decode(raw)
    convert(body, SHAPES[endpoint])
    refuse_control_fields(body)
    if endpoint == "chat":
        check_schemas(body)
    return body


def refuse_control_fields(body: Json) -> None:
    """Raises: BadRequest for a field that is the operator's to decide."""
    for name in body.keys() & REFUSED_FIELDS.keys():
        raise BadRequest(
            f"'{name}' cannot be set in a request: {REFUSED_FIELDS[name]}.", param=name, code="field_refused"
        )


def parse_embedding(raw: bytes) -> Embedding:
    """Raises: BadRequest naming the field and what would be right."""
    return convert(decode(raw), Embedding)


def parse_redact(raw: bytes) -> RedactRequest:
    """Raises: BadRequest naming the field and what would be right."""
    return convert(decode(raw), RedactRequest)


def decode(raw: bytes) -> Json:
    """A JSON object from bytes. Raises: BadRequest for bad UTF-8, bad JSON, NaN, nesting beyond 64 levels, or no object."""
    if not raw:
        raise BadRequest("The request has no body; send a JSON object.", code="empty_body")
    try:
        body = msgspec.json.decode(raw)
    except RecursionError:
        raise BadRequest(
            f"The body is nested too deeply; at most {MAX_DEPTH} levels.", code="nesting_too_deep"
        ) from None
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", code="invalid_utf8") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if type(body) is not dict:
        raise BadRequest(
            'The body must be a JSON object, such as {"model": ..., "messages": [...]}.', code="invalid_json"
        )
    # A level costs at least one bracket, so short bodies need no walk.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise BadRequest(f"The body is nested too deeply; at most {MAX_DEPTH} levels.", code="nesting_too_deep")
    return body


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion and no further than just past the limit."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        below: list[Any] = []
        for item in level:
            children = item.values() if type(item) is dict else item
            below.extend(child for child in children if type(child) is dict or type(child) is list)
        level = below
    return depth


def convert(body: Json, shape: type[_T]) -> _T:
    """The body checked against a shape. Raises: BadRequest naming the field."""
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        if reason.startswith("Invalid enum value"):  # it would repeat what the caller sent
            reason = "Not one of the values this field may have"
        param = path.rstrip("`").lstrip(".") or _missing_field(reason)
        if shape in _TEXTS_ONLY and reason in _TOKEN_IDS:
            reason = "Token ids cannot be checked by any rail; send text (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
        raise BadRequest(f"{reason}{f' at {param}' if path else ''}.", param=param, code="invalid_value") from None


def _missing_field(reason: str) -> str | None:
    return reason.split("`")[1] if reason.startswith("Object missing required field") else None
