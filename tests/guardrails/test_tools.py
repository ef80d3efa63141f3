"""Tool calls before they leave: declared, well formed, of an allowed risk; and that no other call leaves, however it is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.tools import ToolCall, ToolRules, fault_of

SCHEMA = {
    "type": "object",
    "properties": {"amount": {"type": "number", "maximum": 100}, "to": {"type": "string"}},
    "required": ["amount", "to"],
    "additionalProperties": False,
}
DECLARED = {"refund": SCHEMA, "look_up": {}}
ANY = ToolRules({}, ())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("refund", '{"amount": 10, "to": "A1"}', ""),
        ("look_up", "", ""),
        ("close_account", "{}", "does not declare"),
        ("refund", '{"amount": 1000, "to": "A1"}', "amount: maximum"),
        ("refund", '{"amount": 10}', "required"),
        ("refund", '{"amount": 10, "to": "A1", "note": "x"}', "additionalProperties"),
        ("refund", "[]", "no JSON object"),
        ("refund", '{"amount": 10', "no JSON"),
        ("refund", "[" * 100_000, "no JSON"),
    ],
)
def test_a_call_leaves_only_if_it_is_declared_and_fits(name: str, arguments: str, said: str) -> None:
    fault = fault_of(ToolCall(name, arguments, DECLARED), ANY)
    assert said in fault
    assert bool(fault) == bool(said)


def test_a_fault_never_tells_a_value() -> None:
    fault = fault_of(ToolCall("refund", '{"amount": "4111 1111 1111 1111", "to": "Maria"}', DECLARED), ANY)
    assert fault
    assert "4111" not in fault
    assert "Maria" not in fault


def test_only_allowed_risks_may_be_called_and_what_is_not_listed_is_a_risk_of_its_own() -> None:
    rules = ToolRules({"look_up": "low", "refund": "high"}, ("low",))
    assert fault_of(ToolCall("look_up", "{}", DECLARED), rules) == ""
    assert "'high'" in fault_of(ToolCall("refund", '{"amount": 1, "to": "A"}', DECLARED), rules)
    assert "'unlisted'" in fault_of(ToolCall("other", "{}", {"other": {}}), rules)


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "https://elsewhere.example/schema"}, {"$ref": "#/nowhere"}]
)
def test_a_declaration_that_cannot_be_used_lets_nothing_through(schema: dict[str, str]) -> None:
    assert fault_of(ToolCall("x", "{}", {"x": schema}), ANY)


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_whatever_the_arguments_are_there_is_an_answer(value: object) -> None:
    assert isinstance(fault_of(ToolCall("refund", json.dumps({"amount": value, "to": "A"}), DECLARED), ANY), str)
