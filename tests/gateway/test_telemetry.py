"""Traces reach a collector in batches, and a collector that is away, slow or failing is nobody's problem but the counter's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.metrics import Metrics
from gateway.otlp import SpanWriter
from gateway.telemetry import TraceExporter, count_spans, encode
from gateway.types import RailResult, Record, Span, Usage
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import running, settings_for


@asynccontextmanager
async def collector(status: int = 200) -> AsyncIterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces", got
    await runner.cleanup()


def record(**more: Any) -> Record:
    base: dict[str, Any] = {
        "request_id": "r",
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_span_id": b"",
        "started_ns": 1_000,
        "ended_ns": 9_000,
        "call_started_ns": 3_000,
        "call_ended_ns": 8_000,
        "endpoint": "chat",
        "route": "a",
        "upstream_model": "m",
        "policy": "p",
        "policy_digest": "d" * 64,
        "status": 200,
        "usage": Usage(3, 4),
        "input": [{"role": "user", "content": "I am [PERSON_1]"}],
        "output": ["Hello ", "[PERSON_1]"],
        "rails": [RailResult("injection", "input", "pass", "", 0.1, 0.5, 0.001, True)],
        "spans": [Span("rail.redaction", "GUARDRAIL", 1_500, 2_000, {"guardrail.verdict": "rewrite"})],
    }
    return Record(**base | more)


def exporter(endpoint: str, metrics: Metrics, **more: Any) -> TraceExporter:
    given: dict[str, Any] = {
        "project": "callgate",
        "headers": {},
        "queue_size": 4,
        "flush_s": 0.01,
        "timeout_s": 0.5,
        "version": "0",
    } | more
    return TraceExporter(endpoint, metrics, **given)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_a_guarded_request_is_a_root_a_span_for_each_rail_and_an_llm_span_of_one_trace() -> None:
    message = ExportTraceServiceRequest.FromString(encode([record()], {"service.name": "callgate"}, SpanWriter()))
    spans = {span.name: span for span in message.resource_spans[0].scope_spans[0].spans}
    assert set(spans) == {"callgate.chat", "rail.redaction", "rail.injection", "llm"}
    assert len({span.span_id for span in spans.values()}) == 4
    assert {span.trace_id for span in spans.values()} == {b"t" * 16}
    assert {span.parent_span_id for name, span in spans.items() if name != "callgate.chat"} == {b"s" * 8}
    llm = {a.key: a.value.string_value or a.value.int_value for a in spans["llm"].attributes}
    assert llm["openinference.span.kind"] == "LLM"
    assert llm["llm.input_messages.0.message.content"] == "I am [PERSON_1]"
    assert llm["llm.output_messages.0.message.content"] == "Hello [PERSON_1]"
    assert llm["llm.token_count.total"] == 7
    for span in spans.values():
        assert any(a.key == "callgate.policy_digest" and a.value.string_value == "d" * 64 for a in span.attributes)


def test_the_llm_span_of_a_rollout_says_whose_call_it_was_and_how_it_failed() -> None:
    """What a rollout reads; the status alone knows only faults whose code begins with upstream."""
    of = record(
        assigned="canary",
        arm="old",
        drawn=False,
        call_id="c",
        error_code="context_length_exceeded",
        fallbacks=["outage:b"],
    )
    message = ExportTraceServiceRequest.FromString(encode([of], {"service.name": "callgate"}, SpanWriter()))
    spans = {span.name: span for span in message.resource_spans[0].scope_spans[0].spans}
    llm = {a.key: a.value.string_value for a in spans["llm"].attributes}
    told = {name: llm[f"callgate.{name}"] for name in ("assigned", "arm", "kept", "error_code", "fallbacks")}
    assert list(told.values()) == ["canary", "old", "not drawn", "context_length_exceeded", "outage:b"]
    assert llm["session.id"] == "c"


async def test_records_reach_the_collector_before_the_exporter_is_closed() -> None:
    async with collector() as (url, got):
        metrics = Metrics()
        sender = exporter(url, metrics)
        sender.start()
        sender.submit(record())
        sender.submit(record(sampled=False))
        await sender.aclose()
    assert len(got) == 1
    assert value(metrics, "callgate_exporter_sent_spans_total") == 4


@pytest.mark.parametrize("status", [500, 400])
async def test_a_collector_that_fails_costs_spans_that_are_counted(status: int) -> None:
    async with collector(status) as (url, _):
        metrics = Metrics()
        sender = exporter(url, metrics)
        sender.start()
        sender.submit(record())
        await sender.aclose()
    assert value(metrics, "callgate_exporter_dropped_spans_total", reason="export_failed") == 4


async def test_a_full_queue_drops_and_counts() -> None:
    metrics = Metrics()
    sender = exporter("http://127.0.0.1:1/v1/traces", metrics, flush_s=60)
    sender.start()
    for _ in range(6):
        sender.submit(record())
    assert value(metrics, "callgate_exporter_dropped_spans_total", reason="queue_full") == 2 * count_spans(record())
    await sender.aclose()


async def test_requests_are_answered_while_the_collector_hangs_or_is_away(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    gate = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for target in (port, 1):
        telemetry = {"otlp_endpoint": f"http://127.0.0.1:{target}/v1/traces", "flush_s": 0.01, "export_timeout_s": 0.3}
        async with running(settings_for(tmp_path, openai_backend, redis_url, telemetry=telemetry)) as gateway:
            for _ in range(5):
                status, _, _ = await gateway.post(
                    "/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
                )
                assert status == 200
    gate.set()
    server.close()
    await server.wait_closed()


async def test_a_stated_share_is_traced_and_what_failed_always(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    async with collector() as (endpoint, got):
        telemetry = {"otlp_endpoint": endpoint, "flush_s": 0.01, "sample": 0.25}
        limits = {"requests_per_minute": None, "tokens_per_minute": None}
        settings = settings_for(tmp_path, openai_backend, redis_url, telemetry=telemetry, limits=limits)
        async with running(settings) as gateway:
            for _ in range(200):
                await gateway.post(
                    "/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
                )
            for _ in range(3):
                await gateway.post(
                    "/v1/chat/completions", {"model": "fail-500", "messages": [{"role": "user", "content": "x"}]}
                )
    spans = [
        {attribute.key: attribute.value.string_value for attribute in span.attributes}
        for piece in got
        for resource in ExportTraceServiceRequest.FromString(piece).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.name == "llm"
    ]
    told = [span.get("callgate.kept", "") for span in spans if span["gen_ai.request.model"] == "echo"]
    assert 25 <= len(told) <= 80
    assert set(told) == {""}
    failed = [span.get("callgate.kept", "") for span in spans if span["gen_ai.request.model"] == "fail-500"]
    assert len(failed) == 3
    assert set(failed) <= {"", "not drawn"}
