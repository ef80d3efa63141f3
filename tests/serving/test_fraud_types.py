"""Bad bodies are refused with the path of the field; no value of the caller's is quoted."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.fraud.types import InvalidTransaction, Transaction, parse_label, parse_transaction

GOOD: dict[str, Any] = {
    "transaction_id": "t-1",
    "customer_id": "c-1",
    "terminal_id": "m-1",
    "amount": "24.50",
    "currency": "EUR",
    "timestamp": "2026-11-24T10:00:00Z",
}


def test_a_transaction_is_read_exactly() -> None:
    found = parse_transaction(json.dumps(GOOD).encode())
    assert isinstance(found, Transaction)
    assert (found.amount, found.cents(1_000_000), found.at_s) == (Decimal("24.50"), 2450, 1795514400)
    assert found.cents(920_000) == 2254


def test_a_number_and_a_string_are_the_same_amount() -> None:
    assert parse_transaction(json.dumps({**GOOD, "amount": 24.5}).encode()) == parse_transaction(
        json.dumps(GOOD).encode()
    )


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": "-0.01"}, "amount"),
        ({"amount": "1000000.01"}, "amount"),
        ({"amount": 1e300}, "amount"),
        ({"amount": "1e999999"}, "amount"),
        ({"amount": "1e-999999"}, "amount"),
        ({"amount": "1.005"}, "amount"),
        ({"amount": "1.5", "currency": "JPY"}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "Infinity"}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": True}, "amount"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "EURO"}, "currency"),
        ({"timestamp": "2026-11-24T10:00:00"}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp"),
        ({"timestamp": "9999-01-01T00:00:00Z"}, "timestamp"),
        ({"customer_id": ""}, "customer_id"),
        ({"customer_id": "secret name\n"}, "customer_id"),
        ({"customer_id": "c" * 65}, "customer_id"),
        ({"terminal_id": 7}, "terminal_id"),
        ({"transaction_id": None}, "transaction_id"),
    ],
)
def test_a_wrong_field_is_named_alone_and_in_a_batch(changes: dict[str, Any], path: str) -> None:
    wrong = {**GOOD, **changes}
    for body, expected in (
        (wrong, path),
        ({"transactions": [GOOD | {"transaction_id": "t-0"}, wrong]}, f"transactions[1].{path}"),
    ):
        with pytest.raises(InvalidTransaction) as refused:
            parse_transaction(json.dumps(body).encode())
        assert refused.value.path == expected
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", ""),
        (b"{", ""),
        (b"\xff", ""),
        (b"[]", ""),
        (b'{"amount": NaN}', "amount"),
        (b'{"transactions": [{"amount": 1}, {"timestamp": 5, "amount": -Infinity}]}', "transactions[1].amount"),
        (b'{"transactions": NaN}', ""),
        (b"[NaN]", ""),
        (b"[" * 100_000, ""),
        (b'{"transactions": []}', "transactions"),
        (b'{"transactions": 3}', "transactions"),
        (json.dumps({**GOOD, "fraud": 1}).encode(), ""),
        (json.dumps({k: v for k, v in GOOD.items() if k != "amount"}).encode(), "amount"),
        (json.dumps({"transactions": [GOOD, GOOD]}).encode(), "transactions[1].transaction_id"),
        (json.dumps({"transactions": [{}] * 100_000}).encode(), "transactions"),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, path: str) -> None:
    with pytest.raises(InvalidTransaction) as refused:
        parse_transaction(body)
    assert refused.value.path == path


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for parse in (parse_transaction, parse_label):
        try:
            parse(body)
        except InvalidTransaction as refused:
            assert refused.message


def test_labels_come_alone_or_many() -> None:
    assert [one.fraud for one in parse_label(b'{"labels":[{"transaction_id":"a","fraud":true}]}')] == [True]
    assert [one.fraud for one in parse_label(b'{"transaction_id":"a","fraud":false}')] == [False]
    with pytest.raises(InvalidTransaction, match=r"labels\[0\].fraud"):
        parse_label(b'{"labels":[{"transaction_id":"a","fraud":"yes"}]}')
