"""What bench-fraud says about detection: the handbook's week and others, beside the handbook's baselines; leakage; parity.

Models are trained here as they could have been on the day: on labels at least seven days old, never on the week that they
are measured on. Knows nothing of HTTP or Redis.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.fraud.dataset import Transactions, read_folder
from serving.fraud.evaluate import intervals, lived_week, measure, paired_gain
from serving.fraud.features import FEATURES_VERSION, ONE_EVENT, FeatureTable, derive
from serving.fraud.history import (
    EVENT,
    FRAUD,
    GENUINE,
    KEPT_EVENTS,
    UNEXPLAINED_FRAUD,
    aggregate,
    aggregate_customer,
)
from serving.fraud.model import Calibration, fit, load_model, store_model
from serving.fraud.train import Plan, features_of, margins_of

QUICK = os.environ.get("QUICK") == "1"
HANDBOOK_WEEK = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp()) // 86_400
PARTS = ("auc", "ap", "cp100")
# Chapter_3_GettingStarted/BaselineModeling.ipynb of the handbook: AUC, average precision, card precision at 100.
PUBLISHED = {
    "lr": (0.871, 0.606, 0.291),
    "tree2": (0.763, 0.496, 0.241),
    "tree": (0.788, 0.309, 0.243),
    "rf": (0.867, 0.658, 0.287),
}
Figures = dict[str, float | int | None]


def detection(folder: Path) -> Figures:
    """The handbook's test week, two weeks before it, and the last week of whatever was given; leakage; parity."""
    table = read_folder(folder)
    features = features_of(table)
    figures: Figures = {}
    last = int(table.day.max()) - 6
    weeks = {"week": HANDBOOK_WEEK, "late": last}
    if not QUICK:
        weeks |= {"earlier1": HANDBOOK_WEEK - 7, "earlier2": HANDBOOK_WEEK - 14}
    done: dict[int, str] = {}
    for name, first_day in weeks.items():
        if first_day in done:
            before = done[first_day]
            figures |= {f"{name}.{key.partition('.')[2]}": value for key, value in figures.items() if key.startswith(f"{before}.")}  # fmt: skip
        elif int(table.day.min()) + 21 <= first_day <= last:
            done[first_day] = name
            figures |= one_week(table, features, name, first_day)
    figures |= parity(table, features)
    return figures if QUICK else figures | future(table, features, last)


def one_week(table: Transactions, features: FeatureTable, name: str, first_day: int) -> Figures:
    """Ours on a week; on the handbook's and the newest also its baselines, the paired gain and shuffled labels."""
    rows = lived_week(table, first_day)
    scores = our_scores(table, features, table.fraud, first_day, rows)
    draws = 200 if QUICK else 1_000
    figures = quality(name, table, rows, scores)
    for part, ends in intervals(table, rows, scores, draws, seed=1).items():
        figures[f"{name}.{part}_lo"], figures[f"{name}.{part}_hi"] = ends
    figures |= {f"{name}.rows": int(rows.sum()), f"{name}.frauds": int(table.fraud[rows].sum())}
    if name not in ("week", "late"):
        return figures
    prefix = "" if name == "week" else f"{name}."
    for baseline, theirs in baseline_scores(table, first_day, rows).items():
        figures |= quality(f"{prefix}{baseline}", table, rows, theirs)
        if baseline == "rf":
            gain = paired_gain(table, rows, scores, theirs, draws, seed=2)
            figures |= dict(zip((f"{prefix}gain.ap{end}" for end in ("", "_lo", "_hi")), gain, strict=True))
    if name == "week":
        figures["baselines.furthest"] = max(
            abs(float(figures[f"{one}.{part}"] or 0) - value)
            for one, published in PUBLISHED.items()
            for part, value in zip(PARTS, published, strict=True)
        )
    figures[f"{name}.fraud_share"] = float(table.fraud[rows].mean())
    return figures if QUICK else figures | shuffled(table, features, f"{prefix}shuffled", first_day, rows)


def shuffled(table: Transactions, features: FeatureTable, name: str, first_day: int, rows: Any) -> Figures:
    """Models of shuffled labels: anything but chance would be a leak. Frauds resemble each other, so one model's AUC strays far;
    the mean of eight is told with its standard error."""
    rng, found = np.random.default_rng(7), []
    plan = Plan(rounds=20, training_days=14)
    for _ in range(8):
        scores = our_scores(table, features, rng.permutation(table.fraud), first_day, rows, plan)
        found.append(measure(table, rows, scores))
    aucs = [one.auc for one in found]
    return {
        f"{name}.auc": float(np.mean(aucs)),
        f"{name}.auc_error": float(np.std(aucs, ddof=1) / len(aucs) ** 0.5),
        f"{name}.ap": float(np.mean([one.average_precision for one in found])),
    }


def future(table: Transactions, features: FeatureTable, first_day: int) -> Figures:
    """Features of the past of one moment, with all that comes after it changed, and all labels not yet due then: they must not move."""
    now_s = (first_day + 3) * 86_400
    past, young = table.at_s <= now_s, table.at_s > now_s - 7 * 86_400
    other = Transactions(
        table.transaction,
        table.customer,
        table.terminal,
        table.at_s,
        np.where(past, table.cents, 77),
        np.where(young, 1 - table.fraud, table.fraud),
    )
    again = features_of(other).values[past].view(np.int64)
    differing = (again != features.values[past].view(np.int64)).any(axis=1)
    return {"future.rows": int(past.sum()), "future.differing": int(differing.sum())}


def quality(name: str, table: Transactions, rows: Any, scores: Any) -> Figures:
    found = measure(table, rows, scores)
    values = (found.auc, found.average_precision, found.card_precision_100)
    return {f"{name}.{part}": value for part, value in zip(PARTS, values, strict=True)}


def our_scores(
    table: Transactions, features: FeatureTable, labels: Any, first_day: int, rows: Any, plan: Plan | None = None
) -> Any:
    """Margins for the rows of a week, from a model trained on labels at least seven days old on its first day."""
    plan = plan or Plan()
    chosen = (table.day >= first_day - 7 - plan.training_days) & (table.day < first_day - 7)
    values = features.values[chosen]
    fitted = fit(values, labels[chosen], features.names, plan.rounds, plan.seed)
    with tempfile.TemporaryDirectory() as folder:
        store_model(Path(folder), fitted, Calibration((0.0,), (0.5,)), FEATURES_VERSION, {})
        model = load_model(Path(folder), features.names, FEATURES_VERSION)
    scores = margins_of(model, features.values[rows])
    model.close()
    return scores


def baseline_scores(table: Transactions, first_day: int, rows: Any) -> dict[str, Any]:
    """The handbook's baselines with scikit-learn's defaults on its 15 features, seed 0 as there."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    values = handbook_features(table)
    train = (table.day >= first_day - 14) & (table.day < first_day - 7)
    scaler = StandardScaler().fit(values[train])
    learn, ask = scaler.transform(values[train]), scaler.transform(values[rows])
    models = {
        "lr": LogisticRegression(random_state=0),
        "tree2": DecisionTreeClassifier(max_depth=2, random_state=0),
        "tree": DecisionTreeClassifier(random_state=0),
        "rf": RandomForestClassifier(random_state=0, n_jobs=1),
    }
    return {name: model.fit(learn, table.fraud[train]).predict_proba(ask)[:, 1] for name, model in models.items()}


def handbook_features(table: Transactions) -> Any:
    """The 15 features of the handbook's baseline (chapter 3): windows that include the payment itself; terminal
    windows and risk seen through seven days."""
    second, day = table.at_s % 86_400, table.day
    columns: list[Any] = [table.cents / 100, ((day + 3) % 7 >= 5) * 1, (second // 3600 <= 6) * 1]
    for entity, delay_days in ((table.customer, 0), (table.terminal, 7)):
        order = np.lexsort((table.at_s, entity))
        names, first = np.unique(entity[order], return_index=True)
        span = int(table.at_s.max() - table.at_s.min()) + 100 * 86_400
        key = np.repeat(np.arange(len(names)), np.diff(np.append(first, len(order)))) * span
        key = key + table.at_s[order] - table.at_s.min() + 50 * 86_400
        measured = (table.cents if delay_days == 0 else table.fraud)[order]
        prefix = np.concatenate(([0], np.cumsum(measured)))
        end = np.searchsorted(key, key - delay_days * 86_400, "right")
        for days in (1, 7, 30):
            start = np.searchsorted(key, key - (delay_days + days) * 86_400, "right")
            count, total = end - start, prefix[end] - prefix[start]
            mean = total / np.maximum(count, 1) / (100 if delay_days == 0 else 1)
            for column in (count, mean):
                restored = np.empty(len(order))
                restored[order] = column
                columns.append(restored)
    return np.column_stack(columns)


def parity(table: Transactions, features: FeatureTable, wanted: int = 100_000) -> Figures:
    """The latest events of the history through the online path (packed records, one event at a time), bit by bit."""
    codes = np.where(table.fraud == 0, GENUINE, np.where(features.surprising, FRAUD, UNEXPLAINED_FRAUD)).tolist()
    records: tuple[dict[int, bytearray], ...] = (defaultdict(bytearray), defaultdict(bytearray))
    columns = [column.tolist() for column in (table.customer, table.terminal, table.at_s, table.cents)]
    # The last 50 days are history enough for features that look back 37, but for the cap by count: start from all.
    begin, rows, differing = len(codes) - wanted, 0, 0
    for index, (customer, terminal, at_s, cents) in enumerate(zip(*columns, strict=True)):
        mine, theirs = records[0][customer], records[1][terminal]
        if index >= begin:
            online = derive(
                ONE_EVENT, at_s, cents, aggregate_customer(bytes(mine), at_s), aggregate(bytes(theirs), at_s)
            )
            row = np.array(list(online.values()))
            differing += bool((row.view(np.int64) != features.values[index].view(np.int64)).any())
            rows += 1
        event = EVENT.pack(at_s, cents, codes[index], index)
        for record in (mine, theirs):
            record.extend(event)
            if len(record) > (KEPT_EVENTS + 64) * EVENT.size:
                del record[: len(record) - KEPT_EVENTS * EVENT.size]
    return {"parity.rows": rows, "parity.differing": differing}
