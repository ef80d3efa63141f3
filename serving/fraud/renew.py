"""Continuous training: a challenger from the latest history, judged against the champion on the same week, as a whole and in slices.

The gate is pure: numbers and limits in, reasons out. Afterwards the challenger runs in the shadow (`shadow`) and is judged again on
what it said there. Knows nothing of HTTP, Redis or MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.fraud.dataset import Transactions
from serving.fraud.evaluate import Mask, Scores, average_precision, measure, paired_gain
from serving.fraud.features import FEATURES_VERSION, FeatureTable
from serving.fraud.model import InvalidModel, load_model
from serving.fraud.train import HELD_DAYS, Plan, features_of, margins_of, train

FLAGGED_SHARE = 0.01  # of payments: where false alarms of slices are compared
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What a challenger must hold."""

    least_auc: float = 0.7
    most_loss: float = (
        0.02  # of average precision: the lower end of the paired interval may not be further below the champion
    )
    most_slice_loss: float = 0.1  # of average precision, in any slice with enough frauds
    most_false_alarm_ratio: float = 3.0  # of a slice's false alarm rate to that of all
    least_frauds: int = 20
    least_genuine: int = 500


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the held-out week. champion_ap is NaN without a champion or with too few frauds."""

    name: str
    rows: int
    frauds: int
    ap: float
    champion_ap: float
    false_alarm_rate: float
    recall: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """A trained challenger and what is said of it. passed: it may go into the shadow."""

    folder: str
    auc: float
    ap: float
    cp100: float
    champion_ap: float
    gain: float
    gain_low: float
    gain_high: float
    false_alarm_rate: float
    slices: tuple[Slice, ...]
    trained: Mapping[str, Any]
    reasons: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return not self.reasons

    def metrics(self) -> dict[str, float]:
        """Plain numbers by name, as an experiment tracker takes them."""
        whole = {name: getattr(self, name) for name in ("auc", "ap", "cp100", "gain", "gain_low", "gain_high", "false_alarm_rate")}  # fmt: skip
        parts = {f"slice/{one.name}/{name}": getattr(one, name) for one in self.slices for name in ("ap", "false_alarm_rate", "recall")}  # fmt: skip
        return {name: value for name, value in (whole | parts).items() if not np.isnan(value)}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def renew(
    table: Transactions, champion: Path | None, out: Path, plan: Plan, source: str, limits: Limits | None = None
) -> Renewal:
    """Trains a challenger into `out` and judges it on the history's last week, which it was not trained on.

    A champion that cannot be loaded for today's features is no champion. Raises: InvalidData.
    """
    features = features_of(table)
    card = train(table, plan, out, source, features)
    rows = table.day > int(table.day.max()) - HELD_DAYS
    scores = _scores(out, features, rows)
    theirs = _scores(champion, features, rows) if champion else None
    assert scores is not None  # noqa: S101 (it was just stored)
    found = measure(table, rows, scores)
    gain = paired_gain(table, rows, scores, theirs, DRAWS, plan.seed) if theirs is not None else (float("nan"),) * 3
    fraud = table.fraud[rows]
    flagged = scores >= np.quantile(scores, 1 - FLAGGED_SHARE)
    renewal = Renewal(
        folder=str(out),
        auc=found.auc,
        ap=found.average_precision,
        cp100=found.card_precision_100,
        champion_ap=average_precision(fraud, theirs) if theirs is not None else float("nan"),
        gain=gain[0],
        gain_low=gain[1],
        gain_high=gain[2],
        false_alarm_rate=float(flagged[fraud == 0].mean()),
        slices=tuple(
            _slice(name, part, fraud, scores, theirs, flagged)
            for name, part in slices_of(table, features, rows).items()
        ),
        trained=card.trained,
    )
    return judged(renewal, limits or Limits())


def _scores(folder: Path | None, features: FeatureTable, rows: Mask) -> Scores | None:
    try:
        model = load_model(folder or Path(), features.names, FEATURES_VERSION)
    except InvalidModel:
        return None
    scores: Scores = margins_of(model, features.values[rows])
    model.close()
    return scores


def slices_of(table: Transactions, features: FeatureTable, rows: Mask) -> dict[str, NDArray[np.bool_]]:
    """Where bias would show, as masks over the rows: customers by spending band (thirds of their usual amount; new ones apart) and
    terminals by region. Without coordinates a region is a block of a tenth of the terminal ids."""
    usual = features.values[rows, features.names.index("customer_clean_mean")]
    low, high = np.nanquantile(usual, [1 / 3, 2 / 3]) if not np.isnan(usual).all() else (0.0, 0.0)
    terminal = table.terminal[rows]
    region = terminal * 10 // (int(table.terminal.max()) + 1)
    parts = {
        "spending:new": np.isnan(usual),
        "spending:low": usual <= low,
        "spending:middle": (usual > low) & (usual <= high),
        "spending:high": usual > high,
        **{f"region:{number}": region == number for number in range(10)},
    }
    return {name: part for name, part in parts.items() if part.any()}


def _slice(
    name: str, part: Mask, fraud: NDArray[np.int64], scores: Scores, theirs: Scores | None, flagged: Mask
) -> Slice:
    frauds, genuine = int(fraud[part].sum()), part & (fraud == 0)
    precise = [average_precision(fraud[part], one[part]) if one is not None and frauds else float("nan") for one in (scores, theirs)]  # fmt: skip
    return Slice(
        name=name,
        rows=int(part.sum()),
        frauds=frauds,
        ap=precise[0],
        champion_ap=precise[1],
        false_alarm_rate=float(flagged[genuine].mean()) if genuine.any() else 0.0,
        recall=float(flagged[part & (fraud == 1)].mean()) if frauds else float("nan"),
    )


def judged(found: Renewal, limits: Limits) -> Renewal:
    """The same with the reasons, if any, why it may not go into the shadow."""
    reasons = []
    if not found.auc >= limits.least_auc:
        reasons.append(f"AUC {found.auc:.3f} is below {limits.least_auc}")
    if found.gain_low < -limits.most_loss:
        reasons.append(
            f"average precision may be {-found.gain_low:.3f} below the champion's; at most {limits.most_loss}"
        )
    for one in found.slices:
        if one.frauds >= limits.least_frauds and one.champion_ap - one.ap > limits.most_slice_loss:
            reasons.append(f"{one.name}: average precision {one.ap:.3f}, the champion's {one.champion_ap:.3f}")
        most = limits.most_false_alarm_ratio * found.false_alarm_rate
        if one.rows - one.frauds >= limits.least_genuine and one.false_alarm_rate > most:
            reasons.append(
                f"{one.name}: {one.false_alarm_rate:.2%} false alarms, {found.false_alarm_rate:.2%} over all"
            )
    values = {name: getattr(found, name) for name in Renewal.__slots__}
    return Renewal(**values | {"reasons": tuple(reasons)})
