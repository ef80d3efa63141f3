"""What /docs and /openapi.json say of the hot routes, which FastAPI's router never sees.

Request schemas come from the very structs that check requests (gateway/wire/parse.py), so the description cannot drift from them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.types import Json
from gateway.wire.parse import SHAPES, Embedding, RedactRequest
from gateway.wire.responses import Responses

_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS = {
    "400": "The request cannot be used, or a guardrail blocked it (code content_policy_violation).",
    "401": "No key, or one that is not known.",
    "404": "No such model.",
    "429": "Over the key's or the backend's limit; Retry-After says how long.",
    "502": "The backend failed.",
    "503": "A guardrail or the store of limits could not run; nothing was sent.",
    "504": "The backend did not answer within the deadline.",
}
_ROUTES: tuple[tuple[str, str, str, str, str], ...] = (
    ("/v1/chat/completions", "post", "chat", "Chat completion, whole or streamed", "ChatRequest"),
    ("/v1/completions", "post", "chat", "Legacy completion, whole or streamed", "CompletionRequest"),
    ("/v1/responses", "post", "chat", "Response (Responses API, stateless), whole or streamed", "ResponsesRequest"),
    ("/v1/embeddings", "post", "embeddings", "Embeddings by the local MiniLM", "Embedding"),
    (
        "/v1/redact",
        "post",
        "redaction",
        "Texts with their personal data replaced as a model's policy says",
        "RedactRequest",
    ),
    ("/v1/models", "get", "models", "Models that this key may use", ""),
    ("/v1/fraud/score", "post", "fraud", "Score one transaction, or a list under `transactions`", "Transaction"),
    (
        "/v1/fraud/labels",
        "post",
        "fraud",
        "Confirmed fraud or not, for one transaction or a list under `labels`",
        "Label",
    ),
    ("/v1/fraud/decisions/{transaction_id}", "get", "fraud", "A past decision", ""),
)


def describe(app: FastAPI) -> None:
    """Makes FastAPI's description include the hot routes."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    shapes: dict[str, type[Any]] = {
        "ChatRequest": SHAPES["chat"],
        "CompletionRequest": SHAPES["completion"],
        "Embedding": Embedding,
        "RedactRequest": RedactRequest,
        "ResponsesRequest": Responses,
    }
    from gateway.steps.fraud import ANSWERS, EXAMPLES  # not before somebody asks for the description
    from gateway.steps.fraud import SHAPES as FRAUD_SHAPES

    shapes |= FRAUD_SHAPES
    _, components = msgspec.json.schema_components(shapes.values(), ref_template="#/components/schemas/{name}")
    known = schema.setdefault("components", {}).setdefault("schemas", {})
    known |= components | {"Error": _ERROR}
    known |= {name: components[shape.__name__] for name, shape in shapes.items()}
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, method, tag, summary, body in _ROUTES:
        operation = _operation(tag, summary, body, body in known, path)
        if body in EXAMPLES:
            operation["requestBody"]["content"]["application/json"]["examples"] = EXAMPLES[body]
        if path in ANSWERS:
            operation["responses"]["200"]["content"]["application/json"]["examples"] = ANSWERS[path]
        schema["paths"].setdefault(path, {})[method] = operation
    return schema


def _operation(tag: str, summary: str, body: str, described: bool, path: str) -> Json:
    operation: Json = {
        "tags": [tag],
        "summary": summary,
        "security": [{"key": []}],
        "responses": {
            "200": {
                "description": "The answer, in OpenAI's shape.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **{
                status: {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for status, text in _ERRORS.items()
            },
        },
    }
    if body:
        shape: Json = {"$ref": f"#/components/schemas/{body}"} if described else {"type": ["object", "array"]}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": shape}}}
    if "{" in path:
        operation["parameters"] = [
            {"name": "transaction_id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation
