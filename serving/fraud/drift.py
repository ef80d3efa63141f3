"""Is today still like the days the model was trained on? Covariate, score, calibration, concept and data-quality drift.

- Covariates and scores: Kolmogorov-Smirnov distance and population stability index of each feature against a sketch of the
  held-out week. Seventy features, dependent; payments of one customer stand together; and no week is quite like another. So
  draws are made of quiet weeks before the reference, customers drawn with replacement, and the limit is the quantile of the
  *largest* standardised distance of a draw (single-step maxT: Westfall and Young, 1993, section 2.3).
- Calibration: frauds known in the end against frauds expected, with the variance taken by customer and by terminal.
- Concept: ADWIN (Bifet and Gavalda, 2007) on the squared error of each payment once its label counts.
- Quality: shares (missing history, degraded decisions, late labels) against limits that are data.

Pure functions over arrays: knows nothing of logs, files or Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
SCORE = "score"
# Nominal, of a window, for all features and scores together. A reference of a few weeks is a sample itself: on generated payments 2.9 % of
# quiet weeks alarm (30 seeds, `python -m tests.bench.fraud_drift --seeds 30`, 2026-11-27), 0.5 % for the score, 2.9 % for calibration.
FALSE_ALARM_RATE = 0.01
MEASURED_RATE = 0.05  # what no signal exceeds there, looked at once a week; looked at every day: 7 %
_POINTS = 32  # of a feature's distribution function
_PSI_BINS = 10
_LEAST_SHARE = 1e-4


class Sketch(msgspec.Struct, frozen=True):
    """A distribution: the share of rows at or below each grid point, and the share that is missing (NaN)."""

    grid: tuple[float, ...]
    shares: tuple[float, ...]
    missing: float


class Limit(msgspec.Struct, frozen=True):
    """What a distance is when nothing has changed: mean and spread, in units of 1/sqrt(rows) (KS) or 1/rows (PSI)."""

    ks_mean: float
    ks_spread: float
    psi_mean: float
    psi_spread: float


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What later windows are compared with; stored beside the model as reference.json."""

    rows: int
    sketches: dict[str, Sketch]
    limits: dict[str, Limit]
    ks_limit: float
    psi_limit: float
    false_alarm_rate: float


@dataclass(frozen=True, slots=True)
class Shift:
    """One feature against the reference. Excess above 0 is an alarm; it counts spreads beyond the joint limit."""

    name: str
    ks: float
    psi: float
    ks_excess: float
    psi_excess: float

    @property
    def alarm(self) -> bool:
        return max(self.ks_excess, self.psi_excess) > 0.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Frauds found against frauds expected. z: their difference in standard errors by customer; alarm beyond `limit`."""

    rows: int
    frauds: int
    expected: float
    z: float
    limit: float

    @property
    def alarm(self) -> bool:
        return abs(self.z) > self.limit


def sketch_of(column: Values) -> Sketch:
    present = column[~np.isnan(column)]
    if not len(present):
        return Sketch((), (), 1.0)
    grid = np.unique(np.quantile(present, np.linspace(0, 1, _POINTS + 1), method="inverted_cdf"))
    shares = np.searchsorted(np.sort(present), grid, "right") / len(column)
    return Sketch(tuple(grid.tolist()), tuple(shares.tolist()), 1.0 - len(present) / len(column))


@dataclass(frozen=True, slots=True)
class Period:
    """Rows of some days. values: (rows, features); scores, customer: (rows,)."""

    values: Values
    scores: Values
    customer: NDArray[np.int64]


def describe(
    names: Sequence[str],
    held: Period,
    quiet: Sequence[Period],
    draws: int = 200,
    seed: int = 0,
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> Reference:
    """The reference of a held-out period, with limits drawn from it and from quiet periods before it (whose scores are not
    used: the model has seen them)."""
    columns = {**{name: held.values[:, index] for index, name in enumerate(names)}, SCORE: held.scores}
    sketches = {name: sketch_of(column) for name, column in columns.items()}
    rng = np.random.default_rng(seed)
    ks, psi = np.zeros((draws, len(columns))), np.zeros((draws, len(columns)))
    periods = [held, *quiet]
    for turn, period in enumerate(periods):
        values = np.column_stack([period.values, period.scores])
        cells = [_cells(sketches[name], values[:, index]) for index, name in enumerate(columns)]
        _, owner = np.unique(period.customer, return_inverse=True)
        customers = int(owner.max()) + 1
        for draw in range(turn, draws, len(periods)):
            weight = np.bincount(rng.integers(0, customers, customers), minlength=customers)[owner].astype(np.float64)
            rows = weight.sum()
            for index, name in enumerate(columns):
                counts = np.bincount(cells[index], weight, minlength=len(sketches[name].grid) + 2)
                one, other = _distances(sketches[name], counts / rows)
                ks[draw, index], psi[draw, index] = one * math.sqrt(rows), other * rows
    own = np.arange(draws) % len(periods) == 0
    for found in (ks, psi):  # scores of the periods that trained say nothing: the held-out draws stand for them
        found[~own, -1] = rng.choice(found[own, -1], int((~own).sum()))
    limits = {
        name: Limit(*(float(max(part, 1e-9)) for part in parts))
        for name, *parts in zip(columns, ks.mean(0), ks.std(0), psi.mean(0), psi.std(0), strict=True)
    }
    ks_limit, psi_limit = (_joint_limit(found, 1.0 - false_alarm_rate / 2) for found in (ks, psi))
    return Reference(
        rows=len(held.scores),
        sketches=sketches,
        limits=limits,
        ks_limit=ks_limit,
        psi_limit=psi_limit,
        false_alarm_rate=false_alarm_rate,
    )


def _joint_limit(found: Values, share: float) -> float:
    """The quantile of the largest standardised distance of a draw. found: (draws, features)."""
    return float(np.quantile(((found - found.mean(0)) / np.maximum(found.std(0), 1e-9)).max(1), share))


def compare(reference: Reference, names: Sequence[str], values: Values, scores: Values) -> list[Shift]:
    """Every feature and the score of a window against the reference, the furthest first."""
    columns = {**{name: values[:, index] for index, name in enumerate(names)}, SCORE: scores}
    rows = len(scores)
    effective = rows * reference.rows / (rows + reference.rows)  # both sides are samples
    shifts = []
    for name, column in columns.items():
        sketch, limit = reference.sketches[name], reference.limits[name]
        counts = np.bincount(_cells(sketch, column), minlength=len(sketch.grid) + 2)
        ks, psi = _distances(sketch, counts / max(rows, 1))
        ks_excess = (ks * math.sqrt(effective) - limit.ks_mean) / limit.ks_spread - reference.ks_limit
        psi_excess = (psi * effective - limit.psi_mean) / limit.psi_spread - reference.psi_limit
        shifts.append(Shift(name, ks, psi, ks_excess, psi_excess))
    return sorted(shifts, key=lambda shift: -max(shift.ks_excess, shift.psi_excess))


def _cells(sketch: Sketch, column: Values) -> NDArray[np.int64]:
    """The cell of each value: 0 up to the first grid point, ... , beyond the last, and the last cell for what is missing."""
    found = np.searchsorted(np.array(sketch.grid), column, "left")
    return np.where(np.isnan(column), len(sketch.grid) + 1, found).astype(np.int64)


def _distances(sketch: Sketch, shares: Values) -> tuple[float, float]:
    """KS and PSI of shares by cell against the sketch; missing values are a place of their own in both."""
    expected = np.array(sketch.shares)
    observed = np.cumsum(shares[: len(expected)])
    gaps = np.abs(observed - expected)
    ks = max(float(gaps.max(initial=0.0)), abs(float(shares[-1]) - sketch.missing))
    edges = np.unique(np.linspace(0, max(len(expected) - 1, 0), _PSI_BINS + 1).round().astype(int))
    if not len(expected):
        edges = edges[:0]
    before = np.diff(np.concatenate(([0.0], expected[edges], [1.0 - sketch.missing, 1.0])))
    after = np.diff(np.concatenate(([0.0], observed[edges], [1.0 - float(shares[-1]), 1.0])))
    before, after = np.maximum(before, _LEAST_SHARE), np.maximum(after, _LEAST_SHARE)
    return ks, float(((after - before) * np.log(after / before)).sum())


def calibration(
    probability: Values,
    fraud: NDArray[np.int64],
    customer: NDArray[np.int64],
    terminal: NDArray[np.int64],
    reference_rows: int,
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> Calibrated:
    """Whether as many frauds came as were expected. All four (rows,), of payments whose labels count.

    Variance clustered both ways (Cameron, Gelbach and Miller, 2011, section 2), since a skimmed terminal spoils many customers'
    payments; and enlarged for the calibration curve, which rests on `reference_rows` itself.
    """
    residual = fraud - probability
    if not len(residual):
        return Calibrated(0, 0, 0.0, 0.0, math.inf)
    both = customer.astype(np.int64) * (int(terminal.max()) + 1) + terminal
    parts = [float((np.bincount(np.unique(one, return_inverse=True)[1], residual) ** 2).sum()) for one in (customer, terminal, both)]  # fmt: skip
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1]) * (1 + len(residual) / max(reference_rows, 1))
    limit = NormalDist().inv_cdf(1 - false_alarm_rate / 2)
    z = float(residual.sum()) / math.sqrt(variance) if variance else 0.0
    return Calibrated(len(fraud), int(fraud.sum()), float(probability.sum()), z, limit)


def concept(errors: Sequence[float], delta: float = 1e-4) -> list[int]:
    """Positions at which ADWIN found that the mean of the errors (each 0 to 1, in the order of time) had changed.

    delta: the bound on a false cut at one check (Bifet and Gavalda, theorem 3.1); what 1e-4 means in alarms by week is
    measured on generated payments (`python -m tests.bench.fraud_drift`).
    """
    from river.drift import ADWIN

    detector: Any = ADWIN(delta=delta, clock=32)
    found = []
    for position, error in enumerate(errors):
        detector.update(error)
        if detector.drift_detected:
            found.append(position)
    return found


def shares_beyond(shares: dict[str, float], limits: dict[str, float]) -> list[str]:
    """Names of the quality shares that are above their limit."""
    return [name for name, share in shares.items() if share > limits.get(name, 1.0)]
