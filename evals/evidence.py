"""What a run found: who was asked what, by which code, and every answer and score; the input of every later question.

Its digest covers content and not time, order or sharding: one process and four shards give the same evidence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from evals.digests import digest
from evals.drift import AnchorScores
from evals.errors import RecordError
from evals.types import BUDGET_SPENT, Answer, Limits, Sample, Score, Setting


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """A metric as the suite asks for it. `exact` is true where it is computed and not judged.

    `prompt` is all that a judge is told besides the case, with its sampling parameters and seed.
    """

    name: str
    judge: str
    exact: bool
    decides: bool
    primary: bool
    margin: float
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A sample without its text: what the statistics need of it. `metrics` are those that apply to it."""

    id: str
    conversation: str
    slice: str
    digest: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """`conversations` are those of the whole dataset; a sequential run may have stopped before it asked them all."""

    suite: str
    suite_version: str
    suite_digest: str
    dataset_digest: str
    code_digest: str
    candidate: Setting
    baseline: Setting
    repeats: int
    limits: Limits
    metrics: tuple[MetricPlan, ...]
    cases: tuple[Case, ...]
    answers: tuple[Answer, ...]
    scores: tuple[Score, ...]
    anchors: tuple[AnchorScores, ...] = ()
    locked: tuple[AnchorScores, ...] = ()
    conversations: int = 0

    def digest(self) -> str:
        """Of everything but what differs between two equal runs: latency, and whether a reply came from the journal."""
        document = msgspec.to_builtins(self)
        for answer in document["answers"]:
            del answer["latency_ms"], answer["from_cache"]
        document["cases"] = sorted(document["cases"], key=lambda case: case["id"])
        document["answers"] = sorted(document["answers"], key=_answer_key)
        document["scores"] = sorted(document["scores"], key=_score_key)
        return digest(document)


def _answer_key(answer: dict[str, Any]) -> tuple[str, str, int]:
    return answer["sample_id"], answer["setting"], answer["repeat"]


def _score_key(score: dict[str, Any]) -> tuple[str, str, str, int]:
    return score["metric"], score["sample_id"], score["setting"], score["repeat"]


def case_of(sample: Sample, metrics: tuple[str, ...]) -> Case:
    return Case(sample.id, sample.conversation, sample.slice, sample.digest, metrics)


def merge(shards: list[Evidence]) -> Evidence:
    """Shards of one run as if it had not been cut. Raises RecordError if they are of different runs or overlap.

    The anchors are those of the shards that scored them (the first one does).
    """
    if not shards:
        raise RecordError("nothing to merge: no shard was given")
    anchors = next((shard.anchors for shard in shards if shard.anchors), ())
    if any(shard.anchors not in ((), anchors) for shard in shards):
        raise RecordError("the judges scored the anchors differently in different shards: score them in one")
    shards = [replace(shard, anchors=anchors) for shard in shards]
    first = shards[0]
    cases, answers, scores = list(first.cases), list(first.answers), list(first.scores)
    for shard in shards[1:]:
        if replace(shard, cases=(), answers=(), scores=()) != replace(first, cases=(), answers=(), scores=()):
            raise RecordError("the shards are of different runs: suite, dataset, code, settings or limits differ")
        cases += shard.cases
        answers += shard.answers
        scores += shard.scores
    if len({case.id for case in cases}) != len(cases):
        raise RecordError("the shards overlap: a case is in more than one of them")
    cases.sort(key=lambda case: case.id)
    answers.sort(key=lambda answer: (answer.sample_id, answer.setting, answer.repeat))
    scores.sort(key=lambda score: (score.metric, score.sample_id, score.setting, score.repeat))
    return replace(first, cases=tuple(cases), answers=tuple(answers), scores=tuple(scores))


def out_of_budget(evidence: Evidence) -> int:
    """How many answers and scores are missing because the limit of the suite was reached; what was paid for is worth keeping then."""
    answers = sum(BUDGET_SPENT in (answer.error or "") for answer in evidence.answers)
    return answers + sum(score.value is None and BUDGET_SPENT in score.reason for score in evidence.scores)


def require_whole(evidence: Evidence) -> None:
    """Raises RecordError for a part of a run: a verdict is of all conversations, or of a sequential run as many as it took."""
    asked = len({case.conversation for case in evidence.cases})
    if not evidence.limits.sequential and asked < evidence.conversations:
        raise RecordError(
            f"{asked} of {evidence.conversations} conversations: this is a part of a run; join the evidence.json of all its shards with "
            "`callgate eval compare`"
        )


def save_evidence(evidence: Evidence, path: Path) -> None:
    """Whole or not at all: who looks for the file of a shard never sees half of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=1))
    unfinished.replace(path)


def load_evidence(path: Path) -> Evidence:
    """Raises RecordError if the file is no evidence, or holds a score that is no number in [0, 1]."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not the evidence of a run: {error}") from error
