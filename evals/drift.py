"""The drift lock: a frozen, human-labelled set that every run's judges score again, so that a changed judge is not taken for a changed model.

`anchors.jsonl` beside suite.yaml holds the set, `anchors.lock.json` how the judges agreed with people when it was locked. An agreement outside
of its locked interval, or another judge than the locked one, takes the metric's right to decide: the verdict is then 'judge changed'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from evals.datasets import describe
from evals.digests import digest
from evals.errors import LabelsError
from evals.progress import Progress, say_nothing, together
from evals.statistics.agreement import measure_agreement
from evals.types import Answer, Expectation, Judge, Message, Sample, Standing, Trust


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str
    content: str


class _Anchor(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metric: str = Field(min_length=1)
    messages: list[_Message] = Field(min_length=1)
    contexts: list[str] = []
    answer: str = Field(min_length=1)
    human: StrictBool


@dataclass(frozen=True, slots=True)
class Anchor:
    metric: str
    sample: Sample
    answer: Answer
    human: bool


@dataclass(frozen=True, slots=True)
class AnchorScores:
    """What one judge said of its anchors in one run: agreement as kappa with bounds, and how many it did not score.

    Sensitivity and specificity as (estimate, low, high): a judge who turned from mild to strict may keep his kappa. `anchors` is their digest.
    """

    metric: str
    judge: str
    kappa: float
    low: float
    high: float
    labels: int
    not_scored: int
    sensitivity: tuple[float, float, float] | None = None
    specificity: tuple[float, float, float] | None = None
    anchors: str = ""


def load_anchors(path: Path) -> tuple[Anchor, ...]:
    """Raises LabelsError naming line and field, and where a metric has anchors of one kind only."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    anchors = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _Anchor.model_validate(json.loads(line))
        except ValidationError as error:
            raise LabelsError(f"{path}:{number}: {describe(error)}") from error
        except (ValueError, RecursionError) as error:
            raise LabelsError(f"{path}:{number}: not a JSON object") from error
        name = digest(row.model_dump(mode="json", exclude={"human"}))
        messages = tuple(Message(m.role, m.content) for m in row.messages)
        sample = Sample(name, name, "anchors", messages, Expectation(contexts=tuple(row.contexts)), name)
        anchors.append(Anchor(row.metric, sample, Answer(name, "anchor", 0, row.answer), row.human))
    for metric in {anchor.metric for anchor in anchors}:
        if len({anchor.human for anchor in anchors if anchor.metric == metric}) < 2:
            raise LabelsError(
                f"{path}: metric {metric!r}: anchors that people passed and that they failed are both needed"
            )
    if not anchors:
        raise LabelsError(f"{path}: no anchor in it")
    return tuple(anchors)


async def score_anchors(
    anchors: Sequence[Anchor], judges: Mapping[str, Judge], alpha: float, progress: Progress = say_nothing
) -> tuple[AnchorScores, ...]:
    """By metric, in the order of the judges. A judge that says nothing of its anchors has agreement 0 with bounds -1 and 1."""
    found = []
    for metric, judge in judges.items():
        mine = [anchor for anchor in anchors if anchor.metric == metric]
        if not mine:
            continue
        scores = await together(f"anchors of {metric}", (judge.score(one.sample, one.answer) for one in mine), progress)
        said = [(anchor, score.value) for anchor, score in zip(mine, scores, strict=True)]
        pairs = [(value >= 0.5, anchor.human, anchor.sample.id) for anchor, value in said if value is not None]
        name = f"{judge.id}@{judge.version}"
        frozen = digest(sorted([anchor.sample.id, anchor.human] for anchor in mine))
        if len({human for _, human, _ in pairs}) < 2:
            found.append(AnchorScores(metric, name, 0.0, -1.0, 1.0, len(pairs), len(mine) - len(pairs), anchors=frozen))
            continue
        judged, human, names = ([pair[0] for pair in pairs], [pair[1] for pair in pairs], [pair[2] for pair in pairs])
        agreement = measure_agreement(judged, human, names, alpha)
        kappa, sensitivity, specificity = (
            (one.estimate, one.low, one.high) for one in (agreement.kappa, agreement.sensitivity, agreement.specificity)
        )
        found.append(
            AnchorScores(
                metric, name, *kappa, len(pairs), len(mine) - len(pairs), sensitivity, specificity, anchors=frozen
            )
        )
    return tuple(found)


def drift(now: AnchorScores, locked: AnchorScores) -> str | None:
    """What changed since the lock, or None."""
    if now.judge != locked.judge:
        return f"judge changed: {now.judge} is not the locked {locked.judge}; lock it anew (callgate eval lock)"
    if locked.anchors and now.anchors != locked.anchors:
        return "judge changed: its anchors are not those that were locked; lock it anew (callgate eval lock)"
    if now.not_scored > locked.not_scored + max(1, locked.labels // 20):
        return f"judge changed: {now.not_scored} anchors not scored, {locked.not_scored} when locked"
    if not locked.low <= now.kappa <= locked.high:
        before = f"{locked.kappa:.2f} [{locked.low:.2f}, {locked.high:.2f}]"
        return f"judge changed: kappa {now.kappa:.2f} on the {locked.labels} anchors, {before} when locked"
    for name, rate, then in (
        ("sensitivity", now.sensitivity, locked.sensitivity),
        ("specificity", now.specificity, locked.specificity),
    ):
        if rate and then and not then[1] <= rate[0] <= then[2]:
            return f"judge changed: {name} {rate[0]:.2f}, {then[0]:.2f} [{then[1]:.2f}, {then[2]:.2f}] when locked"
    return None


def changed_trust(metric: str, now: Sequence[AnchorScores], locked: Sequence[AnchorScores]) -> Trust | None:
    """The standing of a judge whose anchors moved; None where nothing moved or nothing is locked for this metric."""
    before = {one.metric: one for one in locked}.get(metric)
    if before is None:
        return None
    current = {one.metric: one for one in now}.get(metric)
    reason = "judge changed: it did not score its anchors" if current is None else drift(current, before)
    return None if reason is None else Trust(Standing.CHANGED, reason, before.labels)


def save_lock(scores: Sequence[AnchorScores], path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(list(scores)), indent=1) + b"\n")


def load_lock(path: Path) -> tuple[AnchorScores, ...]:
    """Empty where there is none yet. Raises LabelsError for a file that is no lock."""
    if not path.is_file():
        return ()
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[AnchorScores, ...])
    except (msgspec.MsgspecError, ValueError) as error:
        raise LabelsError(f"{path}: not a lock of anchors; write it anew with `callgate eval lock`") from error
