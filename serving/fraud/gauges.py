"""What a monitoring system may ask of the fraud service, as plain numbers with names and labels.

Names start with `callgate_fraud_`; one that ends in `_total` counts up. Knows nothing of who asks: the gateway shows these among its own,
a service of its own answers `exposition`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PREFIX = "callgate_fraud_"


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number. Labels come from configuration and code only, never from a payment."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        return self.name.endswith("_total")


@dataclass(slots=True)
class Counts:
    """What one scorer has done since its start."""

    decided: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    deadline_missed: int = 0
    labels: int = 0

    def gauges(self, waiting: int, compared: int, disagreed: int) -> list[Gauge]:
        decided = [
            Gauge(f"{PREFIX}decisions_total", "Decisions by outcome.", self.decided[outcome], {"decision": outcome})
            for outcome in ("approve", "review", "decline")
        ]
        return [
            *decided,
            Gauge(f"{PREFIX}degraded_total", "Decisions made without the feature store.", self.degraded),
            Gauge(f"{PREFIX}deadline_missed_total", "Those because it was too slow.", self.deadline_missed),
            Gauge(f"{PREFIX}labels_total", "Labels taken.", self.labels),
            Gauge(f"{PREFIX}waiting", "Events and labels that the feature store has not got yet.", waiting),
            Gauge(f"{PREFIX}shadow_compared_total", "Scores of the model that did not decide.", compared),
            Gauge(f"{PREFIX}shadow_disagreed_total", "Those with another outcome.", disagreed),
        ]


def exposition(gauges: Iterable[Gauge]) -> bytes:
    """The numbers in Prometheus' text format (version 0.0.4)."""
    lines, told = [], ""
    for one in gauges:
        if one.name != told:
            told = one.name
            lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {'counter' if one.counts else 'gauge'}"]
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
        lines.append(f"{one.name}{'{' + labels + '}' if labels else ''} {one.value:g}")
    return ("\n".join(lines) + "\n").encode()
