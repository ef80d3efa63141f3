"""Drift is found when it is there, and quiet periods stay quiet; the report names no customer."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving.fraud.build import build_scorer
from serving.fraud.cli import app
from serving.fraud.drift import SCORE, Period, Reference, calibration, compare, concept, describe, sketch_of
from serving.fraud.memory import MemoryStore
from serving.fraud.monitor import NoReference, load_reference, read_window
from serving.fraud.settings import SHIPPED_MODEL, FraudSettings
from serving.fraud.types import Label, Transaction

NAMES = tuple(f"f{number}" for number in range(12))


def period(rng: np.random.Generator, customers: int = 300) -> Period:
    """Twelve dependent features of customers who are each unlike the others; a twentieth of the first is missing."""
    own = rng.normal(size=(customers, 1))
    customer = rng.integers(0, customers, 4_000)
    values = own[customer] + rng.normal(size=(4_000, len(NAMES)))
    values[rng.random(4_000) < 0.05, 0] = np.nan
    return Period(values, values[:, 1] + rng.normal(size=4_000), customer)


def reference_of(seed: int) -> Reference:
    rng = np.random.default_rng(seed)
    return describe(NAMES, period(rng), [period(rng) for _ in range(4)], draws=150, seed=seed)


def test_quiet_windows_rarely_alarm_and_shifted_ones_do() -> None:
    alarms = 0
    for seed in range(10):
        reference, now = reference_of(seed), period(np.random.default_rng(1_000 + seed))
        alarms += any(shift.alarm for shift in compare(reference, NAMES, now.values, now.scores))
        moved = now.values.copy()
        moved[:, 7] += 1.0
        assert compare(reference, NAMES, moved, now.scores)[0].name == "f7"
        assert compare(reference, NAMES, moved, now.scores)[0].alarm
    assert alarms <= 1


def test_values_that_go_missing_are_a_shift() -> None:
    reference, now = reference_of(1), period(np.random.default_rng(5))
    now.values[: len(now.values) // 2, 3] = np.nan
    first = compare(reference, NAMES, now.values, now.scores)[0]
    assert (first.name, first.alarm) == ("f3", True)


def test_a_reference_is_the_same_after_storing_it() -> None:
    reference = reference_of(2)
    assert msgspec.json.decode(msgspec.json.encode(reference), type=Reference) == reference
    assert SCORE in reference.limits


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=200))
def test_a_sample_is_no_distance_from_itself(values: list[float]) -> None:
    column = np.array(values)
    sketch = sketch_of(column)
    assert list(sketch.shares) == sorted(sketch.shares)
    limits = describe(
        ("x",), Period(column[:, None], np.arange(len(column)) * 1.0, np.arange(len(column))), [], draws=3
    )
    found = {shift.name: shift for shift in compare(limits, ("x",), column[:, None], np.arange(len(column)) * 1.0)}
    assert found["x"].ks == pytest.approx(0.0, abs=1e-9)


def test_twice_the_frauds_expected_is_a_calibration_alarm_and_as_many_is_none() -> None:
    rng = np.random.default_rng(3)
    probability, customer, terminal = (
        rng.beta(0.2, 8, 20_000),
        rng.integers(0, 500, 20_000),
        rng.integers(0, 900, 20_000),
    )
    fair = (rng.random(20_000) < probability).astype(np.int64)
    unfair = (rng.random(20_000) < 2 * probability).astype(np.int64)
    assert not calibration(probability, fair, customer, terminal, 20_000).alarm
    assert calibration(probability, unfair, customer, terminal, 20_000).alarm


def test_adwin_finds_a_step_in_the_errors_and_none_without_one() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.random(6_000) < 0.01, rng.random(6_000) < 0.05
    found = concept([*before.astype(float), *after.astype(float)])
    assert found
    assert 6_000 < found[0] < 8_000
    assert concept((rng.random(12_000) < 0.01).astype(float).tolist()) == []


async def fill(log: Path, payments: int) -> None:
    """A log of payments by customers that nobody has seen before, with late labels."""
    start = 1_790_000_000
    clock = [float(start)]
    settings = FraudSettings(log_directory=log, log_sync="kernel")
    scorer = await build_scorer(settings, MemoryStore(), lambda: clock[0])
    for number in range(payments):
        clock[0] = start + number * 600.0
        fields = {"transaction_id": f"t-{number}", "customer_id": f"secret-{number % 400}", "terminal_id": f"m-{number % 50}", "amount": str(5 + number % 90), "currency": "EUR", "timestamp": datetime.fromtimestamp(clock[0], UTC).isoformat()}  # fmt: skip
        await scorer.score(msgspec.convert(fields, Transaction))
        if number % 10 == 9 and number > 300:
            clock[0] += 9 * 86_400
            await scorer.label(Label(transaction_id=f"t-{number}", fraud=False))
    await scorer.aclose()


def test_the_command_reports_a_log_with_plots_and_without_ids(tmp_path: Path) -> None:
    log, html = tmp_path / "log", tmp_path / "drift.html"
    asyncio.run(fill(log, 700))
    window = read_window(log)
    assert len(window.at_s) == 700
    assert (window.lag_s >= 0).sum() == 40
    told = CliRunner().invoke(app, ["drift", "--log", str(log), "--html", str(html), "--json"])
    assert told.exit_code == 1
    report = json.loads(told.stdout)
    assert {"covariates", "quality:late_labels", "quality:unknown_customer"} <= set(report["alarms"])
    assert "<svg" in html.read_text()
    assert "secret" not in html.read_text() + told.stdout
    empty = CliRunner().invoke(app, ["drift", "--log", str(tmp_path)])
    assert (empty.exit_code, "500 are needed" in empty.stderr) == (3, True)


def test_the_shipped_model_has_a_reference_and_another_folder_says_what_is_missing(tmp_path: Path) -> None:
    assert load_reference(SHIPPED_MODEL).rows > 10_000
    with pytest.raises(NoReference, match="fraud train"):
        load_reference(tmp_path)
