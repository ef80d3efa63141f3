"""Requests become traces: records in, OTLP out, in batches, off the request's path.

Spans carry OpenTelemetry's and OpenInference's attributes and are written as OTLP bytes (gateway/otlp.py): the SDK costs 245 microseconds
CPU for the five spans of a guarded request, the protobuf library 75, this 30 (2026-11). Fails open: the queue is bounded, what does not fit or cannot be delivered is
dropped and counted, and no request ever waits. It sees redacted text only, because a Record holds nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from openinference.semconv.resource import ResourceAttributes
from openinference.semconv.trace import MessageAttributes, OpenInferenceSpanKindValues, SpanAttributes

from gateway.metrics import Metrics
from gateway.otlp import CLIENT, INTERNAL, SERVER, SpanWriter
from gateway.types import RailResult, Record

if TYPE_CHECKING:
    import aiohttp

BATCH = 256
_KIND = SpanAttributes.OPENINFERENCE_SPAN_KIND
_CHAIN = OpenInferenceSpanKindValues.CHAIN.value
_LLM = OpenInferenceSpanKindValues.LLM.value
_GUARDRAIL = OpenInferenceSpanKindValues.GUARDRAIL.value
_SAID_BY = f"{SpanAttributes.LLM_OUTPUT_MESSAGES}.0.{MessageAttributes.MESSAGE_ROLE}"
_SAID = f"{SpanAttributes.LLM_OUTPUT_MESSAGES}.0.{MessageAttributes.MESSAGE_CONTENT}"


class TraceExporter:
    """A bounded queue of records and the task that empties it. ``submit`` never blocks and never raises."""

    def __init__(
        self,
        endpoint: str,
        metrics: Metrics,
        *,
        project: str,
        headers: Mapping[str, str],
        queue_size: int,
        flush_s: float,
        timeout_s: float,
        version: str,
    ) -> None:
        self._endpoint = endpoint
        self._metrics = metrics
        self._headers = {"content-type": "application/x-protobuf", **headers}
        self._queue: deque[Record] = deque()
        self._queue_size = queue_size
        self._flush_s = flush_s
        self._timeout_s = timeout_s
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._resource = {
            "service.name": "callgate",
            "service.version": version,
            ResourceAttributes.PROJECT_NAME: project,
        }
        self._log = structlog.get_logger("telemetry")
        self._failing = False
        self._writer = SpanWriter()

    def start(self) -> None:
        if self._endpoint:
            self._task = asyncio.create_task(self._run())

    def submit(self, record: Record) -> None:
        """Takes a record for export; drops it, counted, when the queue is full."""
        if self._task is None or not record.sampled:
            return
        if len(self._queue) >= self._queue_size:
            self._metrics.dropped.labels("queue_full").inc(count_spans(record))
            return
        self._queue.append(record)
        if len(self._queue) >= BATCH:
            self._wake.set()

    async def aclose(self) -> None:
        """Sends what is queued, for at most one export timeout."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        _, late = await asyncio.wait({self._task}, timeout=self._timeout_s)
        for task in late:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(
            timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while not (self._closing and not self._queue):
                if len(self._queue) < BATCH and not self._closing:
                    try:
                        await asyncio.wait_for(self._wake.wait(), self._flush_s)
                    except TimeoutError:
                        pass
                self._wake.clear()
                if self._queue:
                    batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                    await self._send(session, batch)

    async def _send(self, session: aiohttp.ClientSession, batch: list[Record]) -> None:
        import aiohttp

        spans = sum(map(count_spans, batch))
        try:
            async with session.post(
                self._endpoint, data=encode(batch, self._resource, self._writer), headers=self._headers
            ) as response:
                reason = "" if response.status < 300 else f"status {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = type(error).__name__
        if reason:
            self._metrics.dropped.labels("export_failed").inc(spans)
        else:
            self._metrics.exported.inc(spans)
        if bool(reason) != self._failing:  # said once when it begins and once when it ends
            self._failing = bool(reason)
            self._log.warning("traces_not_delivered" if reason else "traces_delivered_again", reason=reason or None)


def count_spans(record: Record) -> int:
    return 1 + bool(record.call_started_ns) + len(record.rails) + len(record.spans)


def encode(batch: list[Record], resource: Mapping[str, Any], writer: SpanWriter) -> bytes:
    """An OTLP ExportTraceServiceRequest, serialised."""
    return writer.request(resource, [span for record in batch for span in _spans(record, writer)])


def _spans(record: Record, writer: SpanWriter) -> Iterator[bytes]:
    yield _root(record, writer)
    policy = {"callgate.policy": record.policy, "callgate.policy_digest": record.policy_digest}
    for place, step in enumerate(record.spans, 1):
        yield _span(
            record,
            place,
            step.name,
            step.start_ns,
            step.end_ns,
            {_KIND: step.kind, **policy, **step.attributes},
            step.status,
            writer,
        )
    place = len(record.spans) + 1
    end_ns = record.call_started_ns or record.ended_ns
    for rail in record.rails:
        last_ns = record.ended_ns if rail.stage == "output" else end_ns
        yield _rail(record, place, rail, last_ns, writer)
        place += 1
    if record.call_started_ns:
        yield _llm(record, place, writer)


_ROOT_CONSTANT = (
    _KIND,
    "callgate.route",
    "callgate.key_id",
    "http.response.status_code",
    "callgate.cache",
    "callgate.policy",
    "callgate.policy_digest",
)


def _root(record: Record, writer: SpanWriter) -> bytes:
    constant = writer.constant(
        _ROOT_CONSTANT,
        (_CHAIN, record.route, record.key_id, record.status, record.cache, record.policy, record.policy_digest),
    )
    attributes: dict[str, Any] = {
        "callgate.request_id": record.request_id,
        "callgate.redacted": json.dumps(dict(record.redacted)) if record.redacted else None,
        "callgate.redacted_answer": json.dumps(dict(record.redacted_answer)) if record.redacted_answer else None,
        "callgate.unresolved_tokens": record.unresolved_tokens or None,
        SpanAttributes.INPUT_VALUE: record.input[-1]["content"] if record.input else None,
        SpanAttributes.OUTPUT_VALUE: "".join(record.output),
        SpanAttributes.SESSION_ID: record.call_id,
    }
    return writer.span(
        record.trace_id,
        record.span_id,
        record.parent_span_id,
        f"callgate.{record.endpoint}",
        SERVER,
        record.started_ns,
        record.ended_ns,
        attributes,
        record.error_code,
        constant,
    )


_LLM_CONSTANT = (
    _KIND,
    SpanAttributes.LLM_MODEL_NAME,
    "gen_ai.response.model",
    "gen_ai.request.model",
    "gen_ai.operation.name",
    "callgate.deployment",
    "callgate.attempts",
    "callgate.arm",
    "callgate.assigned",
    "callgate.kept",
    "callgate.finish_reason",
    SpanAttributes.LLM_INVOCATION_PARAMETERS,
    "callgate.policy",
    "callgate.policy_digest",
)


def _llm(record: Record, place: int, writer: SpanWriter) -> bytes:
    usage = record.usage
    constant = writer.constant(
        _LLM_CONSTANT,
        (
            _LLM,
            record.upstream_model,
            record.upstream_model,
            record.model,
            "chat" if record.endpoint == "chat" else "text_completion",
            record.deployment,
            record.attempts,
            record.arm,
            record.assigned or None,
            None if record.drawn else "not drawn",
            record.finish_reason,
            msgspec.json.encode(record.parameters).decode(),
            record.policy,
            record.policy_digest,
        ),
    )
    said = "".join(record.output)
    attributes: dict[str, Any] = {
        SpanAttributes.LLM_TOKEN_COUNT_PROMPT: usage.prompt_tokens,
        SpanAttributes.LLM_TOKEN_COUNT_COMPLETION: usage.completion_tokens,
        SpanAttributes.LLM_TOKEN_COUNT_TOTAL: usage.total_tokens,
        SpanAttributes.LLM_TOKEN_COUNT_PROMPT_DETAILS_CACHE_READ: usage.cached,
        SpanAttributes.LLM_TOKEN_COUNT_COMPLETION_DETAILS_REASONING: usage.reasoning,
        SpanAttributes.OUTPUT_VALUE: said,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        SpanAttributes.SESSION_ID: record.call_id or None,
        "callgate.error_code": record.error_code or None,
        "callgate.moved": record.moved or None,
        "callgate.fallbacks": ", ".join(record.fallbacks) if record.fallbacks else None,
        "callgate.usage_estimated": usage.estimated or None,
    }
    for index, message in enumerate(record.input):
        prefix = f"{SpanAttributes.LLM_INPUT_MESSAGES}.{index}."
        attributes[prefix + MessageAttributes.MESSAGE_ROLE] = message["role"]
        attributes[prefix + MessageAttributes.MESSAGE_CONTENT] = message["content"]
    if said:
        attributes[_SAID_BY] = "assistant"
        attributes[_SAID] = said
    failed = record.error_code if record.error_code.startswith("upstream") else ""
    ended_ns = record.call_ended_ns or record.ended_ns
    return _span(record, place, "llm", record.call_started_ns, ended_ns, attributes, failed, writer, constant)


_RAIL_CONSTANT = (
    _KIND,
    "guardrail.name",
    "guardrail.stage",
    "guardrail.verdict",
    "guardrail.reason",
    "guardrail.threshold",
    "guardrail.enforced",
    "callgate.policy",
    "callgate.policy_digest",
)


def _rail(record: Record, place: int, rail: RailResult, end_ns: int, writer: SpanWriter) -> bytes:
    said = (rail.rail, rail.stage, rail.outcome, rail.reason, rail.threshold, rail.enforced)
    constant = writer.constant(_RAIL_CONSTANT, (_GUARDRAIL, *said, record.policy, record.policy_digest))
    start_ns = max(record.started_ns, end_ns - int(rail.duration_s * 1e9))
    failed = "not_run" if rail.outcome == "not_run" else ""
    score = {"guardrail.score": rail.score}
    return _span(record, place, f"rail.{rail.rail}", start_ns, end_ns, score, failed, writer, constant)


def _span(
    record: Record,
    place: int,
    name: str,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, Any],
    failed: str,
    writer: SpanWriter,
    encoded: bytes = b"",
) -> bytes:
    own_id = (int.from_bytes(record.span_id, "big") + place) % (1 << 64) or 1
    kind = CLIENT if name == "llm" else INTERNAL
    return writer.span(
        record.trace_id,
        own_id.to_bytes(8, "big"),
        record.span_id,
        name,
        kind,
        start_ns,
        end_ns,
        attributes,
        failed,
        encoded,
    )
