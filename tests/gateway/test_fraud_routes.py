"""The fraud routes of the gateway: described with examples that work; what is wrong is refused by its path and leaves nothing behind."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for

SCORE, LABELS = "/v1/fraud/score", "/v1/fraud/labels"


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    fraud = {"enabled": True, "settings": {"log_sync": "kernel", "key_prefix": "routes:"}}
    async with running(settings_for(tmp_path, openai_backend, redis_url, fraud=fraud)) as started:
        yield started


def good(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {"transaction_id": "t-1", "customer_id": "c", "terminal_id": "m", "amount": "24.50", "currency": "EUR", "timestamp": now} | changes  # fmt: skip


async def test_the_description_has_schemas_and_examples_that_are_answered(gateway: Gateway) -> None:
    async with gateway.session.get(gateway.url + "/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    told: dict[str, Any] = {}
    now = datetime.now(UTC).isoformat()
    for path in (SCORE, LABELS):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]
        for name, example in content["examples"].items():
            body = json.loads(json.dumps(example["value"]).replace("2026-11-25T10:00:00Z", now))
            status, told[name], _ = await gateway.post(path, body)
            assert status == 200, told[name]
    assert told["one"]["object"] == "fraud.decision"
    assert len(told["many"]["data"]) == 2
    assert told["labels"]["accepted"] == 2


async def test_what_is_wrong_is_named_by_its_path_and_nothing_is_written(gateway: Gateway, redis_url: str) -> None:
    from redis.asyncio import Redis

    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    cases: list[tuple[str, Any, str | None]] = [
        (SCORE, good(amount=-1), "amount"),
        (SCORE, good(amount="1000000.01"), "amount"),
        (SCORE, good(amount="NaN"), "amount"),
        (SCORE, good(currency="XXX"), "currency"),
        (SCORE, good(timestamp=ahead), "timestamp"),
        (SCORE, good(customer_id="Maria Gonzalez"), "customer_id"),
        (SCORE, good(transaction_id="a b"), "transaction_id"),
        (SCORE, good(call_id=""), "call_id"),
        (SCORE, {"transactions": [good(), good(transaction_id="t-2", terminal_id="")]}, "transactions[1].terminal_id"),
        (SCORE, {"transactions": [good(transaction_id=f"t-{n}") for n in range(1_001)]}, "transactions"),
        (LABELS, {"transaction_id": "t-1"}, "fraud"),
        (LABELS, {"transaction_id": "t-1", "fraud": "yes"}, "fraud"),
    ]
    for path, body, param in cases:
        status, told, _ = await gateway.post(path, body)
        assert (status, told["error"]["param"]) == (400, param), told
        assert "Maria" not in told["error"]["message"]
    huge = json.dumps({"transactions": [good(transaction_id=f"t-{n}") for n in range(100_000)]})
    async with gateway.session.post(
        gateway.url + SCORE, data=io.BytesIO(huge.encode()), headers={"content-type": "application/json"}
    ) as answer:
        assert answer.status in (400, 413)
    status, told, _ = await gateway.post(LABELS, {"transaction_id": "never", "fraud": True})
    assert (status, told["error"]["code"]) == (404, "unknown_transaction")
    client: Any = Redis.from_url(redis_url)
    assert [key async for key in client.scan_iter("routes:*")] == []
    await client.aclose()


async def test_a_reason_is_a_code_and_words_that_an_agent_can_say(gateway: Gateway) -> None:
    status, told, _ = await gateway.post(SCORE, good(amount="9420.00"))
    assert (status, told["decision"]) == (200, "review")
    assert told["reasons"]
    for reason in told["reasons"]:
        assert reason["code"].isidentifier()
        assert reason["message"][0].isupper()
        assert reason["message"].endswith(".")
