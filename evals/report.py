"""The report of a run: evidence, comparisons and verdict under one digest, signed where there is a key.

The signature (HMAC-SHA256) shows that somebody with the key wrote this report and that nobody changed it since; it
does not show that the run was honest. Renders nothing; see render.py.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import msgspec

from evals.calibrate import Calibration, Labels, calibrate, human_of
from evals.compare import compare
from evals.digests import canonical, digest
from evals.errors import RecordError
from evals.evidence import Evidence, require_whole
from evals.gate import decide
from evals.suite import Suite
from evals.types import Comparison, GateReport


@dataclass(frozen=True, slots=True)
class Usage:
    """What one setting took: tokens, dollars, and milliseconds for the median and the slowest answer that was not cached."""

    setting: str
    prompt_tokens: int
    completion_tokens: int
    errors: int
    median_latency_ms: float
    slowest_latency_ms: float
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Report:
    evidence: Evidence
    evidence_digest: str
    comparisons: tuple[Comparison, ...]
    calibrations: tuple[Calibration, ...]
    labels_digest: str | None
    gate: GateReport
    usage: tuple[Usage, ...]
    digest: str = ""
    signature: str | None = None


def build_report(evidence: Evidence, labels: Labels | None = None) -> Report:
    """Everything that follows from the evidence and the labels; the same input gives the same digest."""
    calibrations: Sequence[Calibration] = calibrate(evidence, labels) if labels else ()
    comparisons = compare(evidence, labels=human_of(evidence, labels or {}), calibrations=calibrations)
    gate = decide(comparisons, evidence.limits)
    usage = tuple(_usage(evidence, setting.name) for setting in (evidence.candidate, evidence.baseline))
    report = Report(
        evidence=evidence,
        evidence_digest=evidence.digest(),
        comparisons=comparisons,
        calibrations=tuple(calibrations),
        labels_digest=labels_digest(labels) if labels else None,
        gate=gate,
        usage=usage,
    )
    return replace(report, digest=report_digest(report))


def report_digest(report: Report) -> str:
    """Of the evidence's digest, the labels' and all numbers and reasons; not of time, usage or signature."""
    return digest(
        msgspec.to_builtins(
            {
                "evidence": report.evidence_digest,
                "labels": report.labels_digest,
                "comparisons": report.comparisons,
                "calibrations": report.calibrations,
                "gate": report.gate,
            }
        )
    )


def labels_digest(labels: Labels) -> str:
    return digest(sorted([*key, label.human, label.answer or ""] for key, label in labels.items()))


def sign(report: Report, key: bytes) -> Report:
    """Raises ValueError for a key under 16 bytes, which could be guessed."""
    if len(key) < 16:
        raise ValueError("a signing key needs at least 16 bytes")
    return replace(report, signature=_signature(report, key))


def verify(report: Report, key: bytes | None) -> None:
    """Recomputes evidence, numbers and digest, and with a `key` the signature.

    Raises RecordError naming what does not fit: a part of a run, a changed score, a changed verdict, a missing or wrong signature.
    """
    require_whole(report.evidence)
    if report.evidence.digest() != report.evidence_digest:
        raise RecordError("the evidence does not fit its digest: a score, an answer or a setting was changed")
    if decide(report.comparisons, report.evidence.limits) != report.gate:
        raise RecordError("the verdict does not follow from the numbers: the report was changed")
    if report.labels_digest is None and compare(report.evidence) != report.comparisons:
        raise RecordError("the numbers do not follow from the scores: the report was changed, or by other code")
    if report_digest(report) != report.digest:
        raise RecordError("the report does not fit its digest: it was changed")
    if key is not None and not hmac.compare_digest(_signature(report, key), report.signature or ""):
        raise RecordError("the report is not signed with this key" if report.signature else "the report is not signed")


def _signature(report: Report, key: bytes) -> str:
    """Of all that the report says, what its digest leaves out (times, what it took) included."""
    whole = canonical(msgspec.to_builtins(replace(report, signature=None)))
    return "hmac-sha256:" + hmac.new(key, whole, hashlib.sha256).hexdigest()


def require_about(evidence: Evidence, suite: Suite, candidate: str) -> None:
    """Raises RecordError for the report of something else: of another candidate, or of this suite before it, its cases, its targets or the lock
    of its judges were changed. An old report that promotes must not promote what came after it.
    """
    if evidence.candidate.name != candidate:
        raise RecordError(f"the report is about {evidence.candidate.name!r}, not {candidate!r}")
    sides = (evidence.candidate, evidence.baseline)
    limits = replace(suite.limits, sequential=suite.limits.sequential or evidence.limits.sequential)
    for what, found, wanted in (
        ("suite", evidence.suite_digest, suite.digest),
        ("cases", evidence.dataset_digest, suite.dataset.digest),
        ("targets", sides, tuple(suite.setting(side.name) for side in sides)),
        ("limits", evidence.limits, limits),
        ("lock of the judges", evidence.locked, suite.locked),
    ):
        if found != wanted:
            raise RecordError(f"the report is not of what is in {suite.model.name} now ({what}): run it again")


def save_report(report: Report, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def load_report(path: Path) -> Report:
    """Raises RecordError if the file is no report; does not verify it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not the report of a run: {error}") from error


def _usage(evidence: Evidence, setting: str) -> Usage:
    answers = [answer for answer in evidence.answers if answer.setting == setting]
    waits = sorted(answer.latency_ms for answer in answers if answer.error is None and not answer.from_cache)
    return Usage(
        setting=setting,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        errors=sum(answer.error is not None for answer in answers),
        median_latency_ms=waits[len(waits) // 2] if waits else 0.0,
        slowest_latency_ms=waits[-1] if waits else 0.0,
        cost_usd=sum((answer.cost_usd for answer in answers), Decimal(0)),
    )
