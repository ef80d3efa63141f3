"""How far a judge may be trusted: its scores beside what people said of the same answers.

Labels are drawn by somebody else; that they are a random part of the cases is assumed, and a label nobody matches is
named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from evals.datasets import describe
from evals.errors import LabelsError
from evals.evidence import Evidence, MetricPlan
from evals.statistics.agreement import Agreement, labels_needed, measure_agreement
from evals.types import Limits, Standing, Trust

Key = tuple[str, str, str, int]  # metric, sample, setting, repeat
Labels = Mapping[Key, bool]


class _Label(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metric: str = Field(min_length=1)
    sample_id: str = Field(min_length=1)
    setting: str = Field(min_length=1)
    repeat: int = Field(default=0, ge=0)
    human: StrictBool


@dataclass(frozen=True, slots=True)
class Calibration:
    """One judge metric beside its labels; `agreement` is None where there were too few, or of one kind only."""

    metric: str
    judge: str
    agreement: Agreement | None
    unmatched: int
    trust: Trust


def load_labels(path: Path) -> dict[Key, bool]:
    """One JSON object a line: metric, sample_id, setting, human (true or false), repeat (0 if left out).

    Raises LabelsError naming line and field; also for two labels of one answer, which a person has to settle first.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    labels: dict[Key, bool] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label = _Label.model_validate(json.loads(line))
        except ValidationError as error:
            raise LabelsError(f"{path}:{number}: {describe(error)}") from error
        except (ValueError, RecursionError) as error:
            raise LabelsError(f"{path}:{number}: not a JSON object") from error
        key = (label.metric, label.sample_id, label.setting, label.repeat)
        if key in labels:
            raise LabelsError(f"{path}:{number}: this answer was already labelled for {label.metric!r}")
        labels[key] = label.human
    if not labels:
        raise LabelsError(f"{path}: no label in it")
    return labels


def calibrate(evidence: Evidence, labels: Labels) -> tuple[Calibration, ...]:
    """One Calibration for every metric that a model judges, in the order of the suite."""
    return tuple(_calibrate(evidence, metric, labels) for metric in evidence.metrics if not metric.exact)


def _calibrate(evidence: Evidence, metric: MetricPlan, labels: Labels) -> Calibration:
    conversation = {case.id: case.conversation for case in evidence.cases}
    wanted = {key for key in labels if key[0] == metric.name}
    judge, human, clusters = [], [], []
    for score in evidence.scores:
        key = (score.metric, score.sample_id, score.setting, score.repeat)
        if key in wanted and score.value is not None:
            judge.append(score.value >= 0.5)
            human.append(labels[key])
            clusters.append(conversation[score.sample_id])
    agreement = None
    if len(human) >= evidence.limits.min_labels and len(set(human)) == 2:
        agreement = measure_agreement(judge, human, clusters, evidence.limits.alpha)
    trust = judge_trust(agreement, human, evidence.limits)
    return Calibration(metric.name, metric.judge, agreement, len(wanted) - len(human), trust)


def judge_trust(agreement: Agreement | None, human: Iterable[bool], limits: Limits) -> Trust:
    """Calibrated if kappa's lower bound reaches the limit; otherwise refused or uncalibrated, and why."""
    seen = list(human)
    if not seen:
        return Trust(Standing.UNCALIBRATED, "nobody has compared this judge with people", 0, limits.min_labels)
    if agreement is None:
        kind = f"{len(seen)} labels of at least {limits.min_labels}, with both pass and fail among them, are needed"
        return Trust(Standing.REFUSED, f"too few labels: {kind}", len(seen), max(limits.min_labels, len(seen) + 1))
    kappa = agreement.kappa
    figures = f"kappa {kappa.estimate:.2f} [{kappa.low:.2f}, {kappa.high:.2f}] on {agreement.labels} labels"
    if kappa.low >= limits.min_kappa:
        return Trust(Standing.CALIBRATED, f"{figures} reaches {limits.min_kappa:.2f}", agreement.labels)
    if agreement.balanced_accuracy.low <= 0.5:
        figures += ", not told apart from chance"
    more = labels_needed(agreement, limits.min_kappa)
    return Trust(Standing.REFUSED, f"{figures} does not reach {limits.min_kappa:.2f}", agreement.labels, more)
