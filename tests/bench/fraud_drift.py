"""How soon each kind of drift is found, and how often nothing is taken for something: many seeds of generated payments.

`python -m tests.bench.fraud_drift [--seeds 10]`, minutes long. Each seed lives 110 days: a model and its reference by day 61, quiet
until day 82, then a change. Windows of seven days, looked at every day; labels count seven days after their payment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from serving.fraud.dataset import Transactions
from serving.fraud.drift import Period, calibration, compare, concept, describe
from serving.fraud.features import FEATURES_VERSION
from serving.fraud.history import DAY_S
from serving.fraud.model import fit, fit_calibration, load_model, store_model
from serving.fraud.simulate import START_S, World, simulate
from serving.fraud.train import features_of, margins_of

TRAIN, REFERENCE, QUIET, CHANGE, END = 10, 54, 61, 82, 110
WORLD = World(customers=700, terminals=1_200, days=END, newcomers=0.0)
KINDS = ("none", "covariate", "concept", "label_delay")
SIGNALS = ("covariates", "scores", "calibration", "concept")


def changed(table: Transactions, kind: str, seed: int) -> Transactions:
    """The history with a change from day 82 on: amounts a quarter higher; a new kind of fraud (small payments of a sixth of the
    customers at night); or half of the frauds told too late to count."""
    rng = np.random.default_rng(seed + 1_000)
    after = (table.at_s - START_S) // DAY_S >= CHANGE
    cents, fraud = table.cents.copy(), table.fraud.copy()
    if kind == "covariate":
        cents = np.where(after, np.rint(cents * 1.25).astype(np.int64), cents)
    elif kind == "concept":
        fraud[after & (table.customer % 6 == 0) & (cents < 4_000) & (rng.random(len(cents)) < 0.2)] = 1
    elif kind == "label_delay":
        fraud[after & (rng.random(len(cents)) < 0.5)] = 0
    return Transactions(table.transaction, table.customer, table.terminal, table.at_s, cents, fraud)


def one(seed: int, kind: str) -> dict[str, list[int]]:
    """Days of alarm by signal."""
    table = changed(simulate(seed, WORLD), kind, seed)
    features, day = features_of(table), (table.at_s - START_S) // DAY_S
    rows, held = (day >= TRAIN) & (day < REFERENCE - 7), (day >= REFERENCE) & (day < QUIET)
    fitted = fit(features.values[rows], table.fraud[rows], features.names, 60, seed=1)
    watched = day >= REFERENCE
    with tempfile.TemporaryDirectory() as folder:
        store_model(Path(folder), fitted, fit_calibration([0.0], [0]), FEATURES_VERSION, {})
        model = load_model(Path(folder), features.names, FEATURES_VERSION)
    margins = np.full(len(day), np.nan)
    margins[watched] = margins_of(model, features.values[watched])
    model.close()
    curve = fit_calibration(margins[held].tolist(), table.fraud[held].tolist())
    probability = np.array([curve.probability(margin) for margin in margins[watched]])
    probabilities = np.full(len(day), np.nan)
    probabilities[watched] = probability
    weeks = [(day >= start) & (day < start + 7) for start in range(REFERENCE - 28, REFERENCE, 7)]
    periods = [Period(features.values[week], margins[week], table.customer[week]) for week in (held, *weeks)]
    reference = describe(features.names, periods[0], periods[1:], seed=seed)
    found: dict[str, list[int]] = defaultdict(list)
    for today in range(QUIET + 7, END):
        window = (day >= today - 7) & (day < today)
        shifts = compare(reference, features.names, features.values[window], margins[window])
        if any(shift.alarm for shift in shifts if shift.name != "score"):
            found["covariates"].append(today)
        if any(shift.alarm for shift in shifts if shift.name == "score"):
            found["scores"].append(today)
        told = (day >= today - 14) & (day < today - 7)
        if (
            calibration(
                probabilities[told], table.fraud[told], table.customer[told], table.terminal[told], int(held.sum())
            ).alarm
            and today >= QUIET + 14
        ):
            found["calibration"].append(today)
    after = day >= QUIET
    errors = (probabilities[after] - table.fraud[after]) ** 2
    found["concept"] = [int(day[after][position]) + 7 for position in concept(errors.tolist())]
    return found


def quiet(runs: list[dict[str, list[int]]]) -> dict[str, float]:
    """Shares of quiet weeks with an alarm: looked at once a week, and looked at every day (`_daily`; `any`: of whatever signal)."""
    weeks = len(runs) * ((END - QUIET) // 7)
    figures = {}
    for signal in SIGNALS:
        once = [{day // 7 for day in run[signal] if day % 7 == 0 or signal == "concept"} for run in runs]
        daily = [{day // 7 for day in run[signal]} for run in runs]
        figures[f"quiet.{signal}"] = sum(map(len, once)) / weeks
        figures[f"quiet.{signal}_daily"] = sum(map(len, daily)) / weeks
    whatever = [{day // 7 for signal in SIGNALS for day in run[signal]} for run in runs]
    return figures | {"quiet.any_daily": sum(map(len, whatever)) / weeks}


def delays(kind: str, runs: list[dict[str, list[int]]]) -> dict[str, float | None]:
    """Median days from the change to the first alarm, and the share of runs that had one."""
    figures: dict[str, float | None] = {}
    for signal in SIGNALS:
        first = [min((day - CHANGE for day in run[signal] if day > CHANGE), default=None) for run in runs]
        seen = [delay for delay in first if delay is not None]
        figures[f"{kind}.{signal}.days"] = float(np.median(seen)) if seen else None
        figures[f"{kind}.{signal}.found"] = len(seen) / len(runs)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    figures: dict[str, float | None] = {}
    for kind in options.kinds:
        runs = [one(seed, kind) for seed in range(options.seeds)]
        found = quiet(runs) if kind == "none" else delays(kind, runs)
        for name, value in found.items():
            print(f"{name:<32} {'never' if value is None else round(value, 3)}", flush=True)
        figures |= found
    print(json.dumps({name: value if value is None else round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
