"""Schemas of callers are bounded before a backend compiles them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.schemas import check_schemas


def tool(schema: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


def text(**more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", **more}}}


REFUSED = {
    "not a regular expression": text(pattern="([a-z"),
    "looks ahead": text(pattern="(?=a)b"),
    "refers back": text(pattern=r"(a)\1"),
    "a long pattern": text(pattern="a" * 513),
    "repetitions": text(pattern="(a{100}){100}"),
    "many patterns": {"allOf": [{"pattern": "a"}] * 65},
    "outside": {"$ref": "http://169.254.169.254/latest"},
    "a huge array": {"type": "array", "maxItems": 10**9},
    "a huge enum": {"enum": list(range(1_001))},
    "many parts": {"allOf": [{"type": "string"}] * 5_001},
    "named by a pattern": {"patternProperties": {"(": {}}},
    "not an object": ["x"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_stop_a_backend_is_refused_by_the_place_of_its_schema(what: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_schemas(tool(REFUSED[what]))
    assert caught.value.body()["error"]["param"] == "tools[0].function.parameters"
    assert caught.value.body()["error"]["code"] == "schema_refused"
    with pytest.raises(BadRequest):
        check_schemas(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": REFUSED[what]}}}
        )


@pytest.mark.parametrize(
    "schema",
    [
        text(pattern=r"^\d{4}-\d{2}-\d{2}$", maxLength=10),
        text(pattern=r"^\p{L}+$"),
        {
            "type": "object",
            "properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}, "enum": {"type": "array"}},
        },
        {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        {"enum": ["a", "b"]},
    ],
)
def test_ordinary_schemas_pass(schema: Any) -> None:
    check_schemas(tool(schema))
    check_schemas({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
    check_schemas({"response_format": {"type": "text"}, "tools": [{"type": "function"}]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["pattern", "properties", "enum", "$ref", "allOf", "maxItems", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_schema_is_it_passes_or_is_refused(schema: Any) -> None:
    try:
        check_schemas(tool(schema))
    except BadRequest:
        pass
