"""Trains a fraud model on a history, as it could have been done on the day.

The split is temporal; a label counts from seven days after its event; the last week with known labels calibrates and
measures, the weeks before it train. Seeded. Knows nothing of where the history comes from or of Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.fraud.dataset import InvalidData, Transactions
from serving.fraud.drift import Period
from serving.fraud.evaluate import average_precision, roc_auc
from serving.fraud.features import FEATURES_VERSION, FeatureTable, table_features
from serving.fraud.model import Calibration, Card, Fitted, Model, fit, fit_calibration, load_model, store_model
from serving.fraud.monitor import describe_weeks, store_reference

_WARM_DAYS = 7  # the first days of a history have no past to speak of
HELD_DAYS = 7  # calibrate, measure, and are the reference of drift


@dataclass(frozen=True, slots=True)
class Plan:
    """Training days, boosting rounds (15 leaves each), seed and threads."""

    training_days: int = 60
    rounds: int = 200
    seed: int = 20
    threads: int = 1


def features_of(table: Transactions) -> FeatureTable:
    """The features of a history, as serving would have computed them."""
    return table_features(table.customer, table.terminal, table.at_s, table.cents, table.fraud)


def train(table: Transactions, plan: Plan, folder: Path, source: str, features: FeatureTable | None = None) -> Card:
    """Trains, calibrates, measures and writes model.txt, model.json and README.md into the folder.

    Raises:
        InvalidData: the history is too short, or has no fraud to learn from.
    """
    features = features or features_of(table)
    day = table.day
    end = int(day.max()) + 1
    held = day >= end - HELD_DAYS
    # The held week stands for "today": what trains is at least a label delay older than its first event.
    newest = end - HELD_DAYS - 7
    oldest = max(newest - plan.training_days, int(day.min()) + _WARM_DAYS)
    rows = (day >= oldest) & (day < newest)
    for name, chosen in (("training", rows), ("calibration", held)):
        if table.fraud[chosen].sum() < 20:
            raise InvalidData(f"fewer than 20 frauds in the {name} days: give a history of at least 30 days")
    fitted = fit(features.values[rows], table.fraud[rows], features.names, plan.rounds, plan.seed, plan.threads)
    margins, fraud = _margins(fitted, features.values[held], folder), table.fraud[held]
    trained: dict[str, Any] = {
        "source": source,
        "data_sha256": table.digest(),
        "rows": int(rows.sum()),
        "frauds": int(table.fraud[rows].sum()),
        "rounds": plan.rounds,
        "seed": plan.seed,
        "held_out": {
            "rows": int(held.sum()),
            "frauds": int(fraud.sum()),
            "auc": round(roc_auc(fraud, margins), 4),
            "average_precision": round(average_precision(fraud, margins), 4),
        },
    }
    calibration = fit_calibration(margins.tolist(), fraud.tolist())
    card = store_model(folder, fitted, calibration, FEATURES_VERSION, trained)
    weeks = [week for back in (4, 3, 2, 1) if (week := _quiet_week(table, features, end - 7 * back - 7)) is not None]
    store_reference(folder, describe_weeks(features.names, [*weeks, Period(features.values[held], margins, table.customer[held])], plan.seed))  # fmt: skip
    (folder / "README.md").write_text(_words(card), encoding="utf-8")
    return card


def _quiet_week(table: Transactions, features: FeatureTable, first_day: int) -> Period | None:
    """A week before the held-out one, for the limits of drift. None in the first days, where histories still fill."""
    rows = (table.day >= first_day) & (table.day < first_day + 7)
    if first_day < int(table.day.min()) + 37 or not rows.any():
        return None
    return Period(features.values[rows], np.zeros(int(rows.sum())), table.customer[rows])


def _margins(fitted: Fitted, values: Any, folder: Path) -> Any:
    """Raw scores by the very path that serves, so that the curve is fitted to what it will be given."""
    store_model(folder, fitted, Calibration((0.0,), (0.5,)), FEATURES_VERSION, {})
    model = load_model(folder, fitted.features, FEATURES_VERSION)
    margins = margins_of(model, values)
    model.close()
    return margins


def margins_of(model: Model, values: Any) -> Any:
    """Raw scores of rows, (rows,)."""
    return np.array([model.margin(row) for row in values.tolist()])


def _words(card: Card) -> str:
    held = card.trained["held_out"]
    return f"""# Fraud model

LightGBM in its text format (`model.txt`, sha256 `{card.sha256}`), with features, calibration and origin in `model.json`.

- Trained on: {card.trained["source"]} ({card.trained["rows"]} payments, {card.trained["frauds"]} of them fraud;
  data sha256 `{card.trained["data_sha256"]}`), seed {card.trained["seed"]}, {card.trained["rounds"]} rounds of 15 leaves.
- Held out, the last week: AUC {held["auc"]}, average precision {held["average_precision"]}
  over {held["rows"]} payments, {held["frauds"]} of them fraud. The same week calibrates the probabilities.
- Use: ranking and pricing the risk of one card payment. Not for: judging a person, credit, or payments unlike its data.
- Limits: a label counts seven days after its event; a new customer or terminal has no history, and its features are
  missing rather than guessed. Train on your own history before you rely on a decision: `callgate fraud train --data DIR`.
"""
