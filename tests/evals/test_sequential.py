"""A sequential run: it stops as soon as it knows, asks no more, and is held to intervals that survive every look."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evals.calibrate import Calibration, Label, load_labels
from evals.cli import app
from evals.compare import compare, look_order
from evals.errors import SuiteError
from evals.evidence import Case, Evidence
from evals.habits import habits
from evals.launch import launch
from evals.report import build_report, verify
from evals.statistics.sequential import asymptotic_sequence
from evals.types import PromoteWhen, Score, Standing, Trust, Verdict
from tests.evals.tiny import Served, options, write_suite


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The tiny suite with every case a conversation of its own."""
    folder = write_suite(tmp_path / "tiny")
    cases = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    (folder / "cases.jsonl").write_text(
        "".join(json.dumps({**case, "conversation": case["id"]}) + "\n" for case in cases)
    )
    return folder


def test_a_clear_difference_is_known_early_and_the_rest_is_never_asked(suite: Path, served: Served) -> None:
    report = launch(options(suite, served, sequential=True))
    assert report.gate.verdict is Verdict.REJECT
    assert served.asked == 80  # 20 of 40 cases, two settings, one judge call an answer
    assert len(report.evidence.cases) == 20
    first = report.comparisons[0].anytime
    assert first is not None
    assert (first.conversations, first.p_worse < 0.05, first.high < -0.2) == (20, True, True)
    verify(report, None)
    assert next(habits(report.evidence)).startswith(
        "sequential: stopped after 20 of 40 conversations, 50% of the calls"
    )
    again = launch(options(suite, served, sequential=True, out=suite / "again"))
    assert again.digest == report.digest


def test_equal_settings_are_asked_about_to_the_end(suite: Path, served: Served) -> None:
    report = launch(options(suite, served, candidate="same", sequential=True))
    assert report.gate.verdict is Verdict.INCONCLUSIVE
    assert len(report.evidence.cases) == 40


def test_the_command_stops_early_too_and_shards_are_refused(suite: Path, served: Served) -> None:
    command = ["run", str(suite), "--candidate", "good", "--baseline", "bad", "--url", served.url, "--sequential"]
    found = CliRunner().invoke(app, [*command, "--out", str(suite / "out"), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["evidence"]["limits"]["sequential"] is True
    with pytest.raises(SuiteError, match="cannot be cut into shards"):
        launch(options(suite, served, sequential=True, shard=(0, 2)))


def many(report_evidence: Evidence, conversations: int, worse: float) -> Evidence:
    """A judged metric alone, `worse` the share of the candidate's failures; the baseline never fails."""
    random = np.random.default_rng(3)
    names = [f"c{n:03}" for n in range(conversations)]
    metric = replace(report_evidence.metrics[1], decides=True, primary=True, margin=0.1)
    failed = dict(zip(names, random.random(conversations) < worse, strict=True))
    scores = [
        Score("helpful", name, side, 0, 0.0 if side == "bad" and failed[name] else 1.0, "said", metric.judge)
        for name in names
        for side in ("bad", "good")
    ]
    cases = tuple(Case(name, name, "all", "d", ("helpful",)) for name in names)
    limits = replace(report_evidence.limits, sequential=True, promote_when=PromoteWhen.NOT_WORSE)
    return replace(
        report_evidence, metrics=(metric,), cases=cases, scores=tuple(scores), answers=(), limits=limits
    )  # fmt: skip


def test_a_judge_that_labels_correct_is_read_by_the_sequence_without_bounds(suite: Path, served: Served) -> None:
    evidence = many(launch(options(suite, served)).evidence, 120, 0.5)
    labelled = sorted((case.id for case in evidence.cases), key=lambda name: look_order("labels", name))[:60]
    rows = [
        {"metric": "helpful", "sample_id": s.sample_id, "setting": s.setting, "human": s.value == 1.0}
        for s in evidence.scores
        if s.sample_id in labelled
    ]
    path = suite / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = build_report(evidence, load_labels(path))
    (one,) = report.comparisons
    assert one.trust.standing is Standing.CALIBRATED
    assert one.anytime is not None
    assert one.anytime.high < -0.1
    assert report.gate.verdict is Verdict.REJECT
    first = {case.id for case in evidence.cases[:25]}
    few = replace(evidence, cases=evidence.cases[:25], scores=tuple(s for s in evidence.scores if s.sample_id in first))
    early = build_report(few, load_labels(path)).comparisons[0].anytime
    assert early is not None
    assert (early.low, early.high, early.p_worse) == (-1.0, 1.0, 1.0)  # its limit theorem needs thirty


def test_labels_do_not_speak_for_conversations_that_were_never_judged(suite: Path, served: Served) -> None:
    """People are stricter with the candidate than its judge; where there was no answer to judge, the best case stays the best case."""
    evidence = many(launch(options(suite, served)).evidence, 120, 0.0)
    names = [case.id for case in evidence.cases]
    silent, failed = set(names[::6]), set(names[1::5])
    scores = [
        replace(s, value=None, reason="timeout") if s.setting == "bad" and s.sample_id in silent
        else replace(s, value=float(s.setting == "bad" or s.sample_id not in names[::2]))
        for s in evidence.scores
    ]  # fmt: skip
    people = {
        ("helpful", s.sample_id, s.setting, 0): Label(
            s.value == 1.0 and not (s.setting == "bad" and s.sample_id in failed)
        )
        for s in scores
        if s.sample_id not in silent
    }
    evidence = replace(evidence, scores=tuple(scores), limits=replace(evidence.limits, max_not_scored=0.5))
    (one,) = build_report(evidence, people).comparisons
    assert one.trust.standing is Standing.CALIBRATED
    assert one.anytime is not None
    order = sorted(names, key=lambda name: look_order(evidence.dataset_digest, name))
    other = {name: float(name not in names[::2]) for name in names}
    truth = np.array([(1.0 if name in silent else float(name not in failed)) - other[name] for name in order])
    first = [number for number, name in enumerate(order, start=1) if name not in silent][29]
    assert one.anytime.high == pytest.approx(asymptotic_sequence(truth, evidence.limits.alpha, first=first).high[-1])


@pytest.mark.parametrize(("conversations", "share"), [(400, 0.06), (600, 0.04)])
def test_few_labels_do_not_promote_by_a_judge_who_favours_the_candidate(
    suite: Path, served: Served, conversations: int, share: float
) -> None:
    """Truth exactly on the margin. Read from the thirtieth conversation on, labelled or not, most were promoted."""
    random, found = np.random.default_rng(6), 0
    start = many(launch(options(suite, served)).evidence, conversations, 0.0)
    names = [case.id for case in start.cases]
    order = sorted(names, key=lambda name: look_order(start.dataset_digest, name))
    trust = Calibration("helpful", "j", None, 0, Trust(Standing.CALIBRATED, "said so", 50))
    for _ in range(10):
        pairs = {}
        for name in names:
            truth = random.random(2) < (0.88, 0.98)
            kind = random.random(2) < (0.9, 0.0)  # nearly all of the candidate's failures are passed
            pairs[name] = truth, truth | kind
        scores = tuple(
            Score("helpful", name, side, 0, float(judged[place]), "said", start.metrics[0].judge)
            for name, (_, judged) in pairs.items()
            for place, side in enumerate(("bad", "good"))
        )
        labelled = set(random.choice(names, int(share * conversations), replace=False))
        labels = {
            ("helpful", name, side, 0): bool(truth[place])
            for name, (truth, _) in pairs.items()
            if name in labelled
            for place, side in enumerate(("bad", "good"))
        }
        for looked in range(100, conversations + 1, 100):
            mine = set(order[:looked])
            evidence = replace(
                start,
                cases=tuple(case for case in start.cases if case.id in mine),
                scores=tuple(score for score in scores if score.sample_id in mine),
            )
            (one,) = compare(evidence, labels=labels, calibrations=[trust])
            if one.anytime is not None and one.trust.may_decide and one.anytime.p_not_worse <= 0.05:
                found += 1
                break
    assert found <= 1
