"""How far a judge may be trusted, and what its pass rates are worth: its scores beside what people said of the same answers.

Labels are drawn by somebody else; that they are a random part of the cases is assumed, and a label nobody matches is
named. A label that carries the digest of the text it was given for is used for that text alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from evals.datasets import describe
from evals.digests import digest
from evals.errors import LabelsError
from evals.evidence import Evidence, MetricPlan
from evals.statistics.agreement import Agreement, labels_needed, measure_agreement
from evals.statistics.corrections import CorrectedMean, ppi_mean, rogan_gladen
from evals.types import Answer, Limits, Score, Standing, Trust

Key = tuple[str, str, str, int]  # metric, sample, setting, repeat
Human = Mapping[Key, bool]


class _Label(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metric: str = Field(min_length=1)
    sample_id: str = Field(min_length=1)
    setting: str = Field(min_length=1)
    repeat: int = Field(default=0, ge=0)
    human: StrictBool | None
    answer: str | None = Field(default=None, pattern="^sha256:[0-9a-f]{64}$")
    question: str | None = None  # of a queue that was written into a file: for the eyes of people
    reply: str | None = None
    asked: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said of one answer: that it passes or not. `answer` is the digest of its text (see answer_digest), where it is known."""

    human: bool
    answer: str | None = None


Labels = Mapping[Key, Label]


@dataclass(frozen=True, slots=True)
class PassRate:
    """How many of the answers of one setting pass: as judged, and corrected by the labels of that setting, two ways.

    `ppi` uses every label in its conversation; `rogan_gladen` takes cases for independent and reads sensitivity and specificity off the labelled
    answers, the judged rate off the others. None where it cannot be had: no label, no other answers, or a judge at chance.
    """

    setting: str
    judged: float
    answers: int
    labels: int
    ppi: CorrectedMean | None
    rogan_gladen: CorrectedMean | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """One judge metric beside its labels; `agreement` is None where there were too few, or of one kind only.

    `unmatched` labels are of no scored answer of the run: of an unknown one, of another text, or of one that the judge did not score.
    """

    metric: str
    judge: str
    agreement: Agreement | None
    unmatched: int
    trust: Trust
    pass_rates: tuple[PassRate, ...] = ()


def answer_digest(answer: Answer) -> str:
    """Of what a person saw, so that a label is not taken for one of another text."""
    return digest([answer.text, answer.blocked])


def load_labels(path: Path) -> dict[Key, Label]:
    """One JSON object a line: metric, sample_id, setting, human (true or false), repeat (0 if left out), answer (a digest, if at all). Lines whose human
    is null are not labelled yet.

    Raises LabelsError naming line and field; also for two labels of one answer, which a person has to settle first.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    labels: dict[Key, Label] = {}
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
        if label.human is not None:
            labels[key] = Label(label.human, label.answer)
    if not labels:
        raise LabelsError(f"{path}: no label in it: human is true or false in none of its lines")
    return labels


def require_known(labels: Labels, metrics: Sequence[str]) -> None:
    """Raises LabelsError for labels of a metric that the suite does not have: a slip of the pen must not look like a judge without labels."""
    strange = sorted({key[0] for key in labels}.difference(metrics))
    if strange:
        raise LabelsError(f"labels of {', '.join(strange)}: the suite has no such metric, but {', '.join(metrics)}")


def human_of(evidence: Evidence, labels: Labels) -> dict[Key, bool]:
    """What people said of the answers of this run; labels that were given for another text are left out."""
    texts = {(a.sample_id, a.setting, a.repeat): answer_digest(a) for a in evidence.answers}
    return {key: label.human for key, label in labels.items() if label.answer in (None, texts.get(key[1:]))}


def calibrate(evidence: Evidence, labels: Labels) -> tuple[Calibration, ...]:
    """One Calibration for every metric that a model judges, in the order of the suite. Raises LabelsError as require_known does."""
    require_known(labels, [metric.name for metric in evidence.metrics])
    human = human_of(evidence, labels)
    return tuple(
        _calibrate(evidence, metric, human, sum(key[0] == metric.name for key in labels))
        for metric in evidence.metrics
        if not metric.exact
    )


def _calibrate(evidence: Evidence, metric: MetricPlan, human: Human, given: int) -> Calibration:
    conversation = {case.id: case.conversation for case in evidence.cases}
    scores = [score for score in evidence.scores if score.metric == metric.name and score.value is not None]
    pairs = [(score, human[_key(score)]) for score in scores if _key(score) in human]
    said = [label for _, label in pairs]
    agreement = None
    if len(pairs) >= evidence.limits.min_labels and len(set(said)) == 2:
        judged, clusters = [_passes(score) for score, _ in pairs], [conversation[score.sample_id] for score, _ in pairs]
        agreement = measure_agreement(judged, said, clusters, evidence.limits.alpha)
    rates = [
        _pass_rate(
            [score for score in scores if score.setting == side.name], human, conversation, evidence.limits.alpha
        )
        for side in (evidence.candidate, evidence.baseline)
    ]
    return Calibration(
        metric.name,
        metric.judge,
        agreement,
        given - len(pairs),
        judge_trust(agreement, said, evidence.limits),
        tuple(rate for rate in rates if rate is not None),
    )


def _key(score: Score) -> Key:
    return score.metric, score.sample_id, score.setting, score.repeat


def _passes(score: Score) -> bool:
    return score.value is not None and score.value >= 0.5


def _pass_rate(scores: Sequence[Score], human: Human, conversation: Mapping[str, str], alpha: float) -> PassRate | None:
    """None where nothing was scored."""
    if not scores:
        return None
    seen = [human.get(_key(score)) for score in scores]
    labelled = [(_passes(score), label) for score, label in zip(scores, seen, strict=True) if label is not None]
    others = [_passes(score) for score, label in zip(scores, seen, strict=True) if label is None]
    ppi = gladen = None
    with contextlib.suppress(ValueError):  # no label at all
        ppi = ppi_mean(
            [float(_passes(score)) for score in scores],
            [math.nan if label is None else float(label) for label in seen],
            [conversation[score.sample_id] for score in scores],
            alpha,
        )
    with contextlib.suppress(ValueError):  # labels of one kind, no other answers, or a judge at chance
        gladen = rogan_gladen(
            sum(others),
            len(others),
            true_passes_found=sum(judged and label for judged, label in labelled),
            true_passes=sum(label for _, label in labelled),
            true_failures_found=sum(not judged and not label for judged, label in labelled),
            true_failures=sum(not label for _, label in labelled),
            alpha=alpha,
        )
    judged = sum(map(_passes, scores)) / len(scores)
    return PassRate(scores[0].setting, judged, len(scores), len(labelled), ppi, gladen)


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
        return Trust(Standing.CALIBRATED, f"{figures}: its lower end reaches {limits.min_kappa:.2f}", agreement.labels)
    if agreement.balanced_accuracy.low <= 0.5:
        figures += ", not told apart from chance"
    more = labels_needed(agreement, limits.min_kappa)
    reason = f"{figures}: its lower end does not reach {limits.min_kappa:.2f}"
    return Trust(Standing.REFUSED, reason, agreement.labels, more)
