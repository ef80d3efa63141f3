"""The drift report of a decision log: what was scored lately against what the model was trained on.

Reads a log and a model folder; computes nothing itself (`drift`) and draws nothing (`drift_page`). Customer and terminal ids stay
inside as digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.fraud.drift import (
    SCORE,
    Calibrated,
    Period,
    Reference,
    Shift,
    calibration,
    compare,
    concept,
    shares_beyond,
)
from serving.fraud.entries import Decided, Labelled, decode_entry, unpack_features
from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.history import DAY_S, LABEL_DELAY_S, digest_of
from serving.fraud.journal import read_journal
from serving.fraud.model import Model, load_model

REFERENCE_FILE = "reference.json"
QUALITY_LIMITS = {"degraded": 0.05, "unknown_customer": 0.25, "late_labels": 0.2, "clock_skew": 0.01}
LEAST_ROWS = 500


class NoReference(Exception):
    """Nothing to compare: the model has no reference, or the log too few decisions; the message says which."""


@dataclass(frozen=True, slots=True)
class Window:
    """Decisions of a log, in the order of their time. values: (rows, features); the others (rows,).

    fraud: as labelled by now. lag_s: how long after the payment the label came, -1 without one. model: the digest that decided.
    """

    values: NDArray[np.float64]
    probability: NDArray[np.float64]
    at_s: NDArray[np.int64]
    decided_s: NDArray[np.float64]
    customer: NDArray[np.int64]
    terminal: NDArray[np.int64]
    cents: NDArray[np.int64]
    fraud: NDArray[np.int64]
    lag_s: NDArray[np.float64]
    model: NDArray[np.str_]
    degraded: int

    def within(self, start_s: int, end_s: int) -> NDArray[np.bool_]:
        return (self.at_s >= start_s) & (self.at_s < end_s)


def read_window(log: Path) -> Window:
    """Every scored decision of a log, once, with the last label that came for it."""
    decided: dict[str, Decided] = {}
    labels: dict[str, tuple[int, float]] = {}
    degraded = 0
    for data in read_journal(log):
        entry = decode_entry(data)
        if isinstance(entry, Labelled):
            labels[entry.label.transaction_id] = int(entry.label.fraud), entry.at_s
        elif isinstance(entry, Decided):
            degraded += entry.filed.decision.degraded
            if entry.features:
                decided.setdefault(entry.filed.transaction.transaction_id, entry)
    rows = sorted(decided.values(), key=lambda one: (one.filed.transaction.at_s, one.filed.transaction.transaction_id))
    told = [labels.get(one.filed.transaction.transaction_id, (0, -1.0)) for one in rows]
    at_s = np.array([one.filed.transaction.at_s for one in rows], dtype=np.int64)
    came = np.array([came_s for _, came_s in told])
    names = len(feature_names())
    return Window(
        values=np.array([unpack_features(one.features) for one in rows]).reshape(-1, names),
        probability=np.array([one.filed.decision.probability or 0.0 for one in rows]),
        at_s=at_s,
        decided_s=np.array([one.filed.decision.decided_s for one in rows]),
        customer=_ids([one.filed.transaction.customer_id for one in rows]),
        terminal=_ids([one.filed.transaction.terminal_id for one in rows]),
        cents=np.array([one.cents for one in rows], dtype=np.int64),
        fraud=np.array([fraud for fraud, _ in told], dtype=np.int64),
        lag_s=np.where(came >= 0, came - at_s, -1.0),
        model=np.array([one.filed.decision.model for one in rows], dtype=str),
        degraded=degraded,
    )


def _ids(names: list[str]) -> NDArray[np.int64]:
    return np.array([digest_of(name) >> 34 for name in names], dtype=np.int64)  # 30 bits: pairs fit 63


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. alarms: signals in the order of their names, empty when all is well."""

    rows: int
    labelled_rows: int
    from_s: int
    to_s: int
    shifts: tuple[Shift, ...]
    calibrated: Calibrated | None
    concept_at_s: tuple[int, ...]
    quality: Mapping[str, float]
    alarms: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["shifts"] = [asdict(shift) for shift in self.shifts if shift.alarm]
        return found

    def gauges(self) -> dict[str, float]:
        """Figures for Prometheus, by the name after `callgate_fraud_`."""
        score = next(shift for shift in self.shifts if shift.name == SCORE)
        return {
            "drift_features_alarmed": float(sum(shift.alarm for shift in self.shifts if shift.name != SCORE)),
            "drift_largest_ks": max(shift.ks for shift in self.shifts),
            "drift_largest_psi": max(shift.psi for shift in self.shifts),
            "drift_score_ks": score.ks,
            "drift_calibration_z": self.calibrated.z if self.calibrated else 0.0,
            "drift_concept_changes": float(len(self.concept_at_s)),
            "drift_alarms": float(len(self.alarms)),
            **{f"quality_{name}_share": share for name, share in self.quality.items()},
        }


def report(window: Window, model: Model, reference: Reference, days: int = 7) -> Report:
    """The last `days` of a log against the reference; calibration and concept over what this model decided and labels count for.

    Raises:
        NoReference: there are too few decisions to say anything.
    """
    if len(window.at_s) < LEAST_ROWS:
        raise NoReference(f"the log holds {len(window.at_s)} scored payments; {LEAST_ROWS} are needed")
    end = int(window.at_s[-1]) + 1
    recent = window.within(end - days * DAY_S, end)
    margins = np.array([model.margin(row) for row in window.values[recent].tolist()])
    shifts = compare(reference, feature_names(), window.values[recent], margins)
    own = window.model == model.digest
    told = own & window.within(end - LABEL_DELAY_S - days * DAY_S, end - LABEL_DELAY_S)
    calibrated = None
    if told.sum() >= LEAST_ROWS:
        calibrated = calibration(window.probability[told], window.fraud[told], window.customer[told], window.terminal[told], reference.rows)  # fmt: skip
    old = own & (window.at_s < end - LABEL_DELAY_S)
    errors = (window.probability[old] - window.fraud[old]) ** 2
    changes = tuple(int(window.at_s[old][position]) for position in concept(errors.tolist()))
    shares = _quality(window, recent)
    alarms = {
        "covariates": any(shift.alarm for shift in shifts if shift.name != SCORE),
        "scores": any(shift.alarm for shift in shifts if shift.name == SCORE),
        "calibration": calibrated is not None and calibrated.alarm,
        "concept": any(at_s >= end - LABEL_DELAY_S - 2 * days * DAY_S for at_s in changes),
        **{f"quality:{name}": True for name in shares_beyond(shares, QUALITY_LIMITS)},
    }
    return Report(
        rows=int(recent.sum()),
        labelled_rows=int(told.sum()),
        from_s=int(window.at_s[recent][0]),
        to_s=end,
        shifts=tuple(shifts),
        calibrated=calibrated,
        concept_at_s=changes,
        quality=shares,
        alarms=tuple(sorted(name for name, on in alarms.items() if on)),
    )


def _quality(window: Window, recent: NDArray[np.bool_]) -> dict[str, float]:
    """Shares of what should be rare: degraded decisions, customers without history, labels that came after they would have
    counted, payments whose own time is ahead of ours."""
    mean = window.values[recent, feature_names().index("customer_clean_mean")]
    with_label = window.lag_s >= 0
    return {
        "degraded": window.degraded / max(1, window.degraded + len(window.at_s)),
        "unknown_customer": float(np.isnan(mean).mean()),
        "late_labels": float((window.lag_s[with_label] > LABEL_DELAY_S).mean()) if with_label.any() else 0.0,
        "clock_skew": float((window.at_s[recent] > window.decided_s[recent] + 5).mean()),
    }


def store_reference(folder: Path, reference: Reference) -> None:
    (folder / REFERENCE_FILE).write_bytes(msgspec.json.encode(reference) + b"\n")


def load_reference(folder: Path) -> Reference:
    """Raises: NoReference."""
    try:
        return msgspec.json.decode((folder / REFERENCE_FILE).read_bytes(), type=Reference)
    except (OSError, msgspec.DecodeError):
        raise NoReference(
            f"{folder / REFERENCE_FILE} is missing or no reference; `callgate fraud train` writes one beside its model"
        ) from None


def alarms_of(log: Path, folder: Path) -> tuple[str, ...]:
    """The alarms of a log against a model folder's reference. Raises: NoReference, InvalidModel."""
    model = load_model(folder, feature_names(), FEATURES_VERSION)
    try:
        return report(read_window(log), model, load_reference(folder)).alarms
    finally:
        model.close()


def describe_weeks(names: tuple[str, ...], weeks: list[Period], seed: int) -> Reference:
    """The reference of the last week given, with limits from it and the ones before."""
    from serving.fraud.drift import describe

    return describe(names, weeks[-1], weeks[:-1], seed=seed)
