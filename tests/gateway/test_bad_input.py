"""Whatever a caller sends, the answer is a 4xx in OpenAI's shape that says what would be right: never a 500, never a hang."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.parse import REFUSED_FIELDS, parse
from tests.gateway.conftest import Gateway

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"model": "echo", "messages": NaN}', None),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "\xff\xfe"}]}', None),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b"[" * 100_000, None),
        (b'{"model": "echo", "messages": [], "x": ' + b"[" * 200 + b"]" * 200 + b"}", None),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', "model"),
        (b'{"model": "echo"}', "messages"),
        (b'{"model": "echo", "messages": []}', "messages"),
        (b'{"model": "echo", "messages": "hi"}', "messages"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"model": "echo", "messages": [{"role": "king", "content": "hi"}]}', "messages[0].role"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "hi"}]}', "model"),
        (b'{"model": "echo", "temperature": 9, "messages": [{"role": "user", "content": "hi"}]}', "temperature"),
        (b'{"model": "echo", "max_tokens": 1e99, "messages": [{"role": "user", "content": "hi"}]}', "max_tokens"),
        (b'{"model": "echo", "max_tokens": 0, "messages": [{"role": "user", "content": "hi"}]}', "max_tokens"),
        (b'{"model": "echo", "max_tokens": 900000, "messages": [{"role": "user", "content": "hi"}]}', "max_tokens"),
        (b'{"model": "echo", "n": 1000, "messages": [{"role": "user", "content": "hi"}]}', "n"),
        (b'{"model": "echo", "stream": "yes", "messages": [{"role": "user", "content": "hi"}]}', "stream"),
    ],
)
async def test_a_body_that_cannot_be_used_is_a_400_that_names_the_field(
    gateway: Gateway, raw: bytes, param: str | None
) -> None:
    status, body, _ = await gateway.post(CHAT, data=raw, headers={"content-type": "application/json"})
    assert status == 400
    error = body["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["code"]
    assert error["message"].endswith(".")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/embeddings", {"model": "echo", "input": [1, 2]}),
        ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": [[1, 2]]}),
        ("/v1/completions", {"model": "echo", "prompt": [1, 2]}),
    ],
)
async def test_token_ids_are_refused_with_what_to_send_instead(
    gateway: Gateway, path: str, sent: dict[str, Any]
) -> None:
    status, body, _ = await gateway.post(path, sent)
    assert (status, body["error"]["code"]) == (400, "invalid_value")
    assert "send text" in body["error"]["message"]


async def test_an_unknown_model_is_a_404(gateway: Gateway) -> None:
    status, body, _ = await gateway.post(CHAT, {"model": "nope", "messages": MESSAGES})
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")


async def test_a_body_over_the_limit_is_a_413_declared_or_not(gateway: Gateway) -> None:
    big = b'{"model": "echo", "messages": [{"role": "user", "content": "' + b"x" * (5 << 20) + b'"}]}'
    status, body, _ = await gateway.post(CHAT, data=io.BytesIO(big), headers={"content-type": "application/json"})
    assert (status, body["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "header", [{"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}]
)
async def test_another_media_type_or_a_compressed_body_is_a_415(gateway: Gateway, header: dict[str, str]) -> None:
    status, body, _ = await gateway.post(CHAT, data=b"{}", headers=header)
    assert (status, body["error"]["code"]) == (415, "unsupported_media_type")


async def test_the_wrong_method_is_a_405_that_names_the_right_one(gateway: Gateway) -> None:
    async with gateway.session.get(gateway.url + CHAT) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("host", ["a/b", "a?b", "a#b", "a@b", "a\\b"])
async def test_a_malformed_host_is_a_400_everywhere(gateway: Gateway, host: str) -> None:
    for path in (CHAT, "/health/live"):
        async with gateway.session.request(
            "POST" if path == CHAT else "GET", gateway.url + path, headers={"host": host}
        ) as response:
            assert response.status == 400


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
async def test_what_operators_decide_cannot_be_set_by_callers(gateway: Gateway, name: str) -> None:
    status, body, _ = await gateway.post(CHAT, {"model": "echo", "messages": MESSAGES, name: "x"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "field_refused", name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
fields = st.sampled_from(
    ["model", "messages", "stream", "n", "stop", "tools", "max_tokens", "metadata", "user", "seed", "x"]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(fields, json_values, max_size=8))
def test_any_json_is_parsed_or_refused_and_nothing_else(body: dict[str, Any]) -> None:
    try:
        parsed = parse("chat", json.dumps(body).encode("utf-8", "surrogatepass"))
    except BadRequest as error:
        assert error.message
    else:
        assert parsed["messages"]
        assert isinstance(parsed["model"], str)


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse("chat", raw)
