"""What is counted, for Prometheus. Names follow OpenTelemetry's gen_ai conventions where there is one.

Labels come from configuration only (models, deployments, rails, codes): never from a caller's text, key or user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.fleet import Fleet
from gateway.shadow import Shadow
from gateway.tally import HeldCounter, HeldHistogram
from gateway.types import Record

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_SHARE_EVERY_S = 0.25  # so much later other workers' /metrics tell of this one's requests
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """All metrics of one worker, in a registry of its own; with a ``shared`` folder, /metrics tells the sum of all workers.

    ``observe`` is called once a request, off its path.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._own = CollectorRegistry()
        self._shared = shared
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self._rows: dict[tuple[str, str, int], _Row] = {}
        self._calls: dict[str, HeldCounter] = {}
        self._verdicts: dict[tuple[str, ...], HeldCounter] = {}
        self._rail_times: dict[str, HeldHistogram] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self._requests = Counter(
            "callgate_requests",
            "Requests by endpoint, model and status.",
            ["endpoint", "model", "status"],
            registry=self.registry,
        )
        self._errors = Counter(
            "callgate_errors", "Errors by code, as callers saw them.", ["code"], registry=self.registry
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From request to last byte.",
            ["endpoint", "model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From request to first delta.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Between deltas, by token.",
            ["model"],
            buckets=_OVERHEAD,
            registry=self.registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens by type (input, output).",
            ["model", "gen_ai_token_type"],
            buckets=_TOKENS,
            registry=self.registry,
        )
        self._overhead = Histogram(
            "callgate_overhead_seconds",
            "Time before the backend was called.",
            ["model"],
            buckets=_OVERHEAD,
            registry=self.registry,
        )
        self._rails = Counter(
            "callgate_guardrail_decisions",
            "Verdicts of rails.",
            ["policy", "digest", "rail", "stage", "outcome"],
            registry=self.registry,
        )
        self._rail_seconds = Histogram(
            "callgate_guardrail_seconds", "Time a rail took.", ["rail"], buckets=_OVERHEAD, registry=self.registry
        )
        self._redacted_answer = Counter(
            "callgate_redacted_answer",
            "Personal values that a model added, taken out of its answer.",
            ["kind"],
            registry=self.registry,
        )
        self._redacted = Counter(
            "callgate_redacted", "Personal values replaced before leaving.", ["kind"], registry=self.registry
        )
        self._unresolved = Counter(
            "callgate_unresolved_tokens", "Redaction tokens in answers that stood for no value.", registry=self.registry
        )
        self._cache = Counter(
            "callgate_cache", "Requests of routes with a cache.", ["model", "outcome"], registry=self.registry
        )
        self._attempts = Counter(
            "callgate_upstream_attempts", "Calls to backends.", ["deployment"], registry=self.registry
        )
        self._in_flight = Gauge(
            "callgate_requests_in_flight",
            "Requests being answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(
            "callgate_configuration_reloads", "Changes of the settings file.", ["outcome"], registry=self.registry
        )
        self.swaps = Counter(
            "callgate_policy_swaps", "Versions that began to run.", ["policy", "digest"], registry=self.registry
        )
        self._recordings = Counter(
            "callgate_recorder_dropped", "Requests that should have been recorded.", ["reason"], registry=self.registry
        )
        for reason in ("queue_full", "not_written"):
            self._recordings.labels(reason)
        self.dropped = Counter(
            "callgate_exporter_dropped_spans",
            "Spans that never reached the collector.",
            ["reason"],
            registry=self.registry,
        )
        self.exported = Counter(
            "callgate_exporter_sent_spans", "Spans that the collector took.", registry=self.registry
        )
        for reason in (
            "queue_full",
            "export_failed",
        ):  # visible at zero, so that an alert can be written before the first drop
            self.dropped.labels(reason)

    def observe(self, record: Record) -> None:
        model = record.route or "none"
        row = self._rows.get((record.endpoint, model, record.status)) or self._row(
            record.endpoint, model, record.status
        )
        row.requests.count += 1
        row.duration.add((record.ended_ns - record.started_ns) / 1e9)
        if record.deployment:
            calls = self._calls.get(record.deployment)
            if calls is None:
                calls = self._calls[record.deployment] = HeldCounter(self._attempts.labels(record.deployment))
            calls.count += record.attempts
        if record.call_started_ns:
            row.overhead.add((record.call_started_ns - record.started_ns) / 1e9)
            row.tokens_in.add(record.usage.prompt_tokens)
            row.tokens_out.add(record.usage.completion_tokens)
        if record.first_delta_ns:
            row.first.add((record.first_delta_ns - record.started_ns) / 1e9)
            if record.stream and record.usage.completion_tokens > 1:
                spent_s = (record.call_ended_ns - record.first_delta_ns) / 1e9
                row.per_token.add(spent_s / (record.usage.completion_tokens - 1))
        if record.rails:
            self._observe_rails(record)
        self._observe_rare(record, model)
        if self._shared is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SHARE_EVERY_S, self.flush)

    def _observe_rails(self, record: Record) -> None:
        policy, digest = record.policy, record.policy_digest[:12]
        for rail in record.rails:
            labels = (policy, digest, rail.rail, rail.stage, rail.outcome)
            verdicts = self._verdicts.get(labels)
            if verdicts is None:
                verdicts = self._verdicts[labels] = HeldCounter(self._rails.labels(*labels))
            verdicts.count += 1
            times = self._rail_times.get(rail.rail)
            if times is None:
                child = self._rail_seconds.labels(rail.rail)
                times = self._rail_times[rail.rail] = HeldHistogram(child, _OVERHEAD)
            times.add(rail.duration_s)

    def _observe_rare(self, record: Record, model: str) -> None:
        child = self._child
        if record.error_code:
            child(self._errors, record.error_code).inc()
        if record.cache:
            child(self._cache, model, record.cache).inc()
        for kind, count in record.redacted.items():
            child(self._redacted, kind).inc(count)
        for kind, count in record.redacted_answer.items():
            child(self._redacted_answer, kind).inc(count)
        if record.unresolved_tokens:
            self._unresolved.inc(record.unresolved_tokens)

    def policy_swapped(self, policy: str, digest: str) -> None:
        self.swaps.labels(policy, digest[:12]).inc()

    def recording_dropped(self, reason: str, count: int) -> None:
        self._recordings.labels(reason).inc(count)

    def flush(self) -> None:
        """Hands what was held to the registry."""
        self._timer = None
        self._in_flight.set(self.in_flight)
        held: list[HeldCounter | HeldHistogram | _Row] = [*self._calls.values(), *self._verdicts.values()]
        for one in (*held, *self._rail_times.values(), *self._rows.values()):
            one.hand_over()

    def _row(self, endpoint: str, model: str, status: int) -> _Row:
        row = self._rows[endpoint, model, status] = _Row(
            HeldCounter(self._requests.labels(endpoint, model, str(status))),
            HeldHistogram(self._duration.labels(endpoint, model), _SECONDS),
            HeldHistogram(self._overhead.labels(model), _OVERHEAD),
            HeldHistogram(self._tokens.labels(model, "input"), _TOKENS),
            HeldHistogram(self._tokens.labels(model, "output"), _TOKENS),
            HeldHistogram(self._first.labels(model), _SECONDS),
            HeldHistogram(self._per_token.labels(model), _OVERHEAD),
        )
        return row

    def _child(self, metric: Any, *labels: str) -> Any:
        """The metric's child for these labels, remembered: looking it up costs the library 2 microseconds, this 0.2."""
        key = (metric, labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    def watch(self, fleet: Fleet, shadow: Shadow) -> None:
        """What /metrics reads of the deployments at the moment it is asked."""
        self._own.register(_FleetCollector(fleet, shadow))

    def watch_figures(self, figures: Callable[[], Sequence[Figure]]) -> None:
        """What /metrics asks of other parts of this process (fraud scoring, rollouts) at the moment it is asked."""
        self._own.register(_FigureCollector(figures))

    def exposition(self) -> bytes:
        self.flush()
        counted = self.registry
        if self._shared is not None:
            counted = CollectorRegistry()
            MultiProcessCollector(counted, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(self._own)


@dataclass(slots=True)
class _Row:
    """What is counted of every request of one endpoint, model and status."""

    requests: HeldCounter
    duration: HeldHistogram
    overhead: HeldHistogram
    tokens_in: HeldHistogram
    tokens_out: HeldHistogram
    first: HeldHistogram
    per_token: HeldHistogram

    def hand_over(self) -> None:
        self.requests.hand_over()
        for held in (self.duration, self.overhead, self.tokens_in, self.tokens_out, self.first, self.per_token):
            held.hand_over()


class Figure(Protocol):
    """One number of another part of the gateway; a name that ends in ``_total`` counts up."""

    @property
    def name(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


class _FigureCollector(Collector):
    """Numbers as they are when Prometheus asks."""

    def __init__(self, figures: Callable[[], Sequence[Figure]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for one in self._figures():
            kind = "counter" if one.name.endswith("_total") else "gauge"
            family = families.setdefault(one.name, Metric(one.name.removesuffix("_total"), one.help, kind))
            family.add_sample(one.name, dict(one.labels), one.value)
        yield from families.values()


_BREAKER = {"closed": 0, "half_open": 1, "open": 2}


class _FleetCollector(Collector):
    """Deployments as they are when Prometheus asks."""

    def __init__(self, fleet: Fleet, shadow: Shadow) -> None:
        self._fleet = fleet
        self._shadow = shadow

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "callgate_breaker_state": ("0 closed, 1 half open, 2 open.", lambda s: _BREAKER[s.breaker.state]),
            "callgate_deployment_in_flight": ("Requests at the backend.", lambda s: s.in_flight),
            "callgate_queue_depth": ("Requests that wait for a place.", lambda s: s.waiting),
            "callgate_deployment_up": (
                "1 when the last health check was answered.",
                lambda s: int(s.alive is not False),
            ),
            "callgate_backend_running": ("Requests that vLLM says it works on.", lambda s: s.said.running),
            "callgate_backend_waiting": ("Requests that vLLM says wait for it.", lambda s: s.said.waiting),
            "callgate_backend_kv_cache_share": ("Of vLLM's KV cache in use, 0 to 1.", lambda s: s.said.cache_share),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=["deployment"])
            for state in self._fleet:
                gauge.add_metric([state.deployment.name], value(state))  # type: ignore[no-untyped-call]
            yield gauge
        copies = CounterMetricFamily("callgate_shadow", "Copies sent to shadows.", labels=["deployment", "outcome"])
        for (deployment, outcome), count in self._shadow.outcomes.items():
            copies.add_metric([deployment, outcome], count)
        yield copies
