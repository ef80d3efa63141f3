"""Every text of a request is read, wherever it stands: also where no field is known, and names of fields stay what they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.types import ChatRequest, Record
from gateway.wire.texts import request_texts
from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Segment

CARD, MAIL = "4111 1111 1111 1111", "jo.park@example.com"
REDACTOR = build_redactor(RedactionSettings(ner="off"))


def redacted(body: dict[str, Any]) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **body}
    record = Record("r", b"", b"", b"", 0, "chat")
    slots = request_texts(ChatRequest("chat", "m", body, False, False, record, 0.0))
    redaction = asyncio.run(REDACTOR.redact([Segment(slot.text, slot.role, slot.form) for slot in slots]))
    for slot, text in zip(slots, redaction.texts, strict=True):
        if text != slot.text:
            slot.write(text)
    return body


SCHEMA = {
    "type": "object",
    "properties": {"card": {"type": "string", "enum": [CARD], "default": CARD, "description": f"such as {CARD}"}},
    "$defs": {"description": {"type": "string", "title": CARD}},
}


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": CARD},
        {"stop": ["x", CARD]},
        {"metadata": {"note": CARD}},
        {"user": MAIL},
        {CARD: "declined", "metadata": {MAIL: CARD}},
        {"comment": CARD, "context": {"card": [{"number": 4111111111111111}]}},
        {"prediction": {"type": "content", "content": [{"type": "text", "text": CARD}]}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": CARD, "parameters": SCHEMA}}]},
        {"functions": [{"name": "f", "description": CARD, "parameters": SCHEMA}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": SCHEMA}}},
        {"messages": [{"role": "user", "content": "hi", "note": {"deep": [CARD]}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "title": CARD}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "custom": {"input": CARD}}]}]},
        {"messages": [{"role": "user", "content": "hi", "name": "4111_1111_1111_1111"}]},
    ],
)
def test_a_value_is_replaced_wherever_it_stands(fields: dict[str, Any]) -> None:
    said = json.dumps(redacted(json.loads(json.dumps(fields))))
    for value in (CARD, "4111111111111111", "4111_1111", MAIL):
        assert value not in said
    assert "CREDIT_CARD_1" in said or "EMAIL_ADDRESS_1" in said


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("customer_number", "C-1234567", "CUSTOMER_NUMBER"),
        ("customerNumber", "C-1234567", "CUSTOMER_NUMBER"),
        ("driver_license", "B1234567", "DRIVER_LICENSE"),
        ("dateOfBirth", "14/03/1979", "DATE_OF_BIRTH"),
        ("sort_code", "20-45-53", "SORT_CODE"),
        ("zipCode", "30318", "POSTAL_CODE"),
        ("password", "hgTRe4821kk", "SECRET"),
    ],
)
def test_the_name_of_a_field_tells_what_its_value_is(name: str, value: str, kind: str) -> None:
    document = json.dumps({name: value})
    nested = json.dumps({"payload": document, "list": [{"deep": {name: value}}]})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": nested}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": document},
        {"role": "user", "content": f"the system says {document}"},
    ]
    body = redacted({"messages": messages})
    assert value not in json.dumps(body)
    arguments = json.loads(body["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert json.loads(arguments["payload"]) == {name: f"[{kind}_1]"}
    assert arguments["list"] == [{"deep": {name: f"[{kind}_1]"}}]
    assert json.loads(body["messages"][1]["content"]) == {name: f"[{kind}_1]"}


def test_names_of_fields_tools_and_properties_stay_what_they_are() -> None:
    tools = [{"type": "function", "function": {"name": "ask_john_smith", "parameters": SCHEMA | {"description": "x"}}}]
    body = redacted({"tools": tools, "metadata": {"john_smith": "a"}, "top_k": 5, "seed": 4111111111111111})
    assert body["tools"][0]["function"]["name"] == "ask_john_smith"
    assert list(body["tools"][0]["function"]["parameters"]["properties"]) == ["card"]
    assert body["metadata"] == {"john_smith": "a"}
    assert (body["top_k"], body["seed"]) == (5, 4111111111111111)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("statement_4111_1111_1111_1111.pdf", "statement [CREDIT_CARD_1].pdf"),
        ("4111 1111 1111 1111", "[CREDIT_CARD_1]"),
        ("jo.park@example.com.txt", "[EMAIL_ADDRESS_1].txt"),
        ("statement_of_may.pdf", "statement_of_may.pdf"),
    ],
)
def test_a_files_name_is_read_as_words_and_keeps_its_kind(name: str, told: str) -> None:
    part = {"type": "file", "file": {"filename": name}}
    body = redacted({"messages": [{"role": "user", "content": [part]}]})
    assert body["messages"][0]["content"][0]["file"]["filename"] == told
