"""The fraud routes of the gateway: described with examples that work; what is wrong is refused by its path and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.steps.fraud import build_remote_fraud
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for
from tests.gateway.test_telemetry import collector

SCORE, LABELS = "/v1/fraud/score", "/v1/fraud/labels"


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    fraud = {"enabled": True, "settings": {"log_sync": "kernel", "deadline_ms": 5_000, "key_prefix": "routes:"}}
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
    assert told["labels"]["accepted"] == 2
    async with gateway.session.get(f"{gateway.url}/v1/fraud/decisions/t-1001") as answer:
        assert await answer.json() == told["one"]
    for path, method, name, found in (
        (SCORE, "post", "one", told["one"]),
        (SCORE, "post", "many", {**told["many"], "data": told["many"]["data"][:1]}),
        (LABELS, "post", "labels", told["labels"]),
        ("/v1/fraud/decisions/{transaction_id}", "get", "one", told["one"]),
    ):
        examples = paths[path][method]["responses"]["200"]["content"]["application/json"]["examples"]
        assert shape(examples[name]["value"]) == shape(found)


def shape(value: Any) -> Any:
    """Keys without values."""
    if isinstance(value, dict):
        return {name: None if name == "reasons" else shape(one) for name, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else None


async def test_what_is_wrong_is_named_by_its_path_and_nothing_is_written(gateway: Gateway, redis_url: str) -> None:
    from redis.asyncio import Redis

    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    cases: list[tuple[str, Any, str | None]] = [
        (SCORE, good(amount=-1), "amount"),
        (SCORE, good(amount="1000000.01"), "amount"),
        (SCORE, good(amount="NaN"), "amount"),
        (SCORE, good(amount=float("nan")), "amount"),
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
    never = {"transaction_id": "never", "fraud": True}
    for body, param in ((never, "transaction_id"), ({"labels": [never, never]}, "labels[0].transaction_id")):
        status, told, _ = await gateway.post(LABELS, body)
        assert (status, told["error"]["code"], told["error"]["param"]) == (404, "unknown_transaction", param)
    client: Any = Redis.from_url(redis_url)
    assert [key async for key in client.scan_iter("routes:*")] == []
    await client.aclose()


async def test_who_has_no_key_or_has_spent_its_limit_scores_nothing(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    from redis.asyncio import Redis

    fraud = {"enabled": True, "settings": {"log_sync": "kernel", "deadline_ms": 5_000, "key_prefix": "limited:"}}
    limits = {"requests_per_minute": 2}
    async with running(settings_for(tmp_path, openai_backend, redis_url, fraud=fraud, limits=limits)) as gateway:
        for path in (SCORE, LABELS):
            status, told, _ = await gateway.post(path, good(), headers={"authorization": "Bearer wrong"})
            assert (status, told["error"]["code"]) == (401, "invalid_api_key")
        assert (await gateway.post(SCORE, good()))[0] == 200
        assert (await gateway.post(SCORE, good(transaction_id="t-2")))[0] == 200
        status, told, answer = await gateway.post(SCORE, good(transaction_id="t-3"))
        assert (status, told["error"]["type"]) == (429, "rate_limit_error")
        assert float(answer.headers["retry-after"]) > 0
    client: Any = Redis.from_url(redis_url)
    assert sorted([key async for key in client.scan_iter("limited:d:*")]) == [b"limited:d:t-1", b"limited:d:t-2"]
    await client.aclose()


async def test_a_reason_is_a_code_and_words_that_an_agent_can_say(gateway: Gateway) -> None:
    status, told, _ = await gateway.post(SCORE, good(amount="9420.00"))
    assert (status, told["decision"]) == (200, "review")
    assert told["reasons"]
    for reason in told["reasons"]:
        assert reason["code"].isidentifier()
        assert reason["message"][0].isupper()
        assert reason["message"].endswith(".")


async def test_a_fraud_service_of_its_own_answers_as_the_one_inside(
    tmp_path: Path, openai_backend: Backend, redis_url: str, gateway: Gateway
) -> None:
    import uvicorn

    from serving.fraud.app import FraudApp
    from serving.fraud.settings import FraudSettings
    from serving.fraud.store import open_redis

    own = FraudSettings(
        log_directory=tmp_path / "service", log_sync="kernel", deadline_ms=5_000, key_prefix="service:", drift_every_s=0
    )
    service = FraudApp(own, lambda: open_redis(redis_url, own), time.time)
    server = uvicorn.Server(uvicorn.Config(service, port=0, log_config=None))
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn tells nobody)
        await asyncio.sleep(0)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    (tmp_path / "remote").mkdir()
    async with running(
        settings_for(tmp_path / "remote", openai_backend, redis_url, fraud={"enabled": True, "url": url})
    ) as remote:
        now = good()["timestamp"]
        asked: list[tuple[str, Any]] = [
            (SCORE, good(timestamp=now, amount="9420.00", call_id="call-1")),
            (SCORE, {"transactions": [good(timestamp=now, transaction_id="t-2")]}),
            (SCORE, good(amount=-1)),
            (SCORE, {"transactions": [good(amount="NaN")]}),
            (LABELS, {"transaction_id": "t-1", "fraud": True}),
            (LABELS, {"transaction_id": "never", "fraud": True}),
        ]
        for path, body in asked:
            here, there = await gateway.post(path, body), await remote.post(path, body)
            assert without_time(here[1]) == without_time(there[1])
            assert here[0] == there[0]
        for name, status in (("t-1", 200), ("never", 404), ("a%20b%3F", 404)):
            async with remote.session.get(f"{remote.url}/v1/fraud/decisions/{name}") as answer:
                assert answer.status == status
        assert service._scorer is not None
        await service._scorer.settle()  # risks are noted behind the answers
        async with remote.session.get(url + "/risks/call:call-1") as answer:
            assert (await answer.json())["decision"] == "review"
        away = build_remote_fraud(url, 5.0)
        assert (await away.risk("call:call-1") or ("", ""))[1] == "review"
        assert await away.risk("customer:nobody") is None
        await away.aclose()
        async with remote.session.get(url + "/metrics") as answer:
            assert 'callgate_fraud_decisions_total{decision="review"} 1' in await answer.text()
        server.should_exit = True
        await serving
        status, told, answer = await remote.post(SCORE, good(transaction_id="t-3"))
        assert (status, told["error"]["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")


def without_time(body: Any) -> Any:
    told = [one | {"decided_at": ""} for one in body.get("data", [])]
    return body | {"decided_at": ""} | ({"data": told} if told else {})


async def test_decisions_are_counted_and_traced_without_ids(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    async with collector() as (url, got):
        fraud = {"enabled": True, "settings": {"log_sync": "kernel", "deadline_ms": 5_000, "key_prefix": "traced:"}}
        telemetry = {"otlp_endpoint": url, "flush_s": 0.05}
        async with running(settings_for(tmp_path, openai_backend, redis_url, fraud=fraud, telemetry=telemetry)) as gateway:  # fmt: skip
            await gateway.post(SCORE, good(customer_id="secret-customer"))
            async with gateway.session.get(gateway.url + "/metrics") as answer:
                told = await answer.text()
    assert 'callgate_fraud_decisions_total{decision="approve"} 1.0' in told
    assert "# TYPE callgate_fraud_decisions_total counter" in told
    assert "callgate_fraud_looks_failed_total 0.0" in told
    traces = b"".join(got)
    assert b"fraud.score" in traces
    assert b"fraud.decision" in traces
    assert b"approve" in traces
    assert b"secret-customer" not in traces
