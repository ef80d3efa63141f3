"""What was held and handed over is what Prometheus would have counted itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.tally import HeldCounter, HeldHistogram

BOUNDS = (0.1, 0.5, 1.0)


def exposition(amounts: list[list[float]], *, held: bool) -> list[str]:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "Text.", ["model"], buckets=BOUNDS, registry=registry).labels("a")
    counter = Counter("requests", "Text.", ["model"], registry=registry).labels("a")
    kept, counted = HeldHistogram(histogram, BOUNDS), HeldCounter(counter)
    for batch in amounts:
        for amount in batch:
            if held:
                kept.add(amount)
                counted.count += 1
            else:
                histogram.observe(amount)
                counter.inc()
        kept.hand_over()
        counted.hand_over()
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


# Eighths add up without rounding, so that the sums may be compared exactly.
@given(st.lists(st.lists(st.integers(0, 16).map(lambda n: n / 8), max_size=8), max_size=4))
def test_held_observations_are_told_as_if_each_had_been_observed(amounts: list[list[float]]) -> None:
    assert exposition(amounts, held=True) == exposition(amounts, held=False)


def test_a_value_on_a_bound_and_one_beyond_every_bound_fall_where_prometheus_puts_them() -> None:
    assert exposition([[0.1, 0.5, 7.0]], held=True) == exposition([[0.1, 0.5, 7.0]], held=False)
