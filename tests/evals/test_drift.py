"""The drift lock: a judge that moved on its frozen set decides nothing, and the report says that the judge changed and not the model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.drift import AnchorScores, drift, load_anchors
from evals.errors import LabelsError, SuiteError
from evals.html import to_html
from evals.launch import launch, lock
from evals.report import Report, verify
from evals.suite import load_suite
from evals.types import Standing, Verdict
from tests.evals.tiny import Served, completion, good, options

SUITE = """
name: locked
version: "1"
dataset: cases.jsonl
anchors: anchors.jsonl
targets:
  good: {model: m, system: be brief}
  bad: {model: m, system: ramble}
metrics:
  - {name: brief, check: length, margin: 0.2}
  - {name: helpful, judge: j}
judges:
  j: {model: m, version: "1", question: "Is the reply helpful?"}
limits: {promote_when: not_worse}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "suite.yaml").write_text(SUITE)
    cases = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"<b>question {n}</b>"}], "expect": {"max_words": 3}}
        for n in range(12)
    ]
    (folder / "cases.jsonl").write_text("\n".join(json.dumps(case) for case in cases))
    anchors = [
        {"metric": "helpful", "messages": [{"role": "user", "content": f"q{n}"}], "answer": "fine" if n % 2 else "no", "human": n % 2 == 1}
        for n in range(40)
    ]  # fmt: skip
    (folder / "anchors.jsonl").write_text("\n".join(json.dumps(one) for one in anchors))
    return folder


def run(suite: Path, served: Served) -> Report:
    return launch(
        options(suite, served, candidate="good", baseline="bad", out=suite.parent / "out", cache=suite.parent / "cache.jsonl")
    )  # fmt: skip


def test_the_same_judge_is_still_trusted_as_before_and_a_changed_one_is_named(suite: Path, served: Served) -> None:
    (scores,) = lock(str(suite), served.url, suite.parent / "out", None)
    assert scores.kappa == 1.0
    steady = run(suite, served)
    helpful = {c.metric: c for c in steady.comparisons}["helpful"]
    assert helpful.trust.standing is Standing.UNCALIBRATED
    assert steady.evidence.anchors == steady.evidence.locked == (scores,)

    def moved(body: dict[str, Any]) -> Any:
        """Says yes to everything: the model answers as before, the judge does not."""
        return completion(json.dumps({"reason": "r", "verdict": "yes"}) if "response_format" in body else good(body))

    served.answer = moved
    changed = run(suite, served)
    assert changed.gate.verdict is Verdict.INCONCLUSIVE
    assert any("judge changed: kappa 0.00 on the 40 anchors, 1.00" in reason for reason in changed.gate.reasons)
    verify(changed, None)
    assert "judge changed" in to_html(changed)


def test_anchors_are_scored_side_by_side_and_told_one_by_one(suite: Path, served: Served) -> None:
    under_way = most = 0

    async def slow(body: dict[str, Any]) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(20):
            await asyncio.sleep(0)
        under_way -= 1
        return completion(good(body))

    served.answer = slow
    told: list[tuple[str, int, int]] = []
    lock(
        str(suite),
        served.url,
        suite.parent / "out",
        None,
        lambda stage, done, total, _: told.append((stage, done, total)),
    )
    assert told == [("anchors of helpful", number, 40) for number in range(1, 41)]
    assert most > 1


def test_an_edited_question_is_another_judge_until_it_is_locked_anew(suite: Path, served: Served) -> None:
    lock(str(suite), served.url, suite.parent / "out", None)
    (suite / "suite.yaml").write_text(SUITE.replace("Is the reply helpful?", "Is the reply of any help?"))
    report = run(suite, served)
    assert any("is not the locked" in reason for reason in report.gate.reasons)
    done = CliRunner().invoke(app, ["lock", str(suite), "--judge-url", served.url])
    assert done.exit_code == 0, done.output
    assert "kappa 1.00" in done.output


def test_agreement_inside_its_interval_is_no_drift_and_silence_is() -> None:
    locked = AnchorScores("m", "j@1", 0.8, 0.7, 0.9, 60, 0)
    assert drift(AnchorScores("m", "j@1", 0.75, 0.6, 0.85, 60, 0), locked) is None
    assert "kappa 0.50" in (drift(AnchorScores("m", "j@1", 0.5, 0.4, 0.6, 60, 0), locked) or "")
    assert "not scored" in (drift(AnchorScores("m", "j@1", 0.8, 0.7, 0.9, 40, 20), locked) or "")


def test_a_judge_that_turns_from_mild_to_strict_has_changed_though_his_kappa_has_not(
    suite: Path, served: Served
) -> None:
    def says(wrong: tuple[str, ...]) -> Any:
        def answer(body: dict[str, Any]) -> Any:
            if "response_format" not in body:
                return completion(good(body))
            shown = body["messages"][1]["content"]
            yes = ("fine" in shown) != any(f"user: q{number}\n" in shown for number in wrong)
            return completion(json.dumps({"reason": "r", "verdict": "yes" if yes else "no"}))

        return answer

    served.answer = says(tuple(str(number) for number in range(0, 20, 2)))  # ten poor answers pass
    (mild,) = lock(str(suite), served.url, suite.parent / "out", None)
    served.answer = says(tuple(str(number) for number in range(1, 20, 2)))  # ten good ones fail
    strict = run(suite, served)
    assert strict.evidence.anchors[0].kappa == mild.kappa == 0.5
    assert any("judge changed: sensitivity 0.50, 1.00" in reason for reason in strict.gate.reasons)


def test_other_anchors_are_not_the_locked_ones(suite: Path, served: Served) -> None:
    lock(str(suite), served.url, suite.parent / "out", None)
    text = (suite / "anchors.jsonl").read_text()
    (suite / "anchors.jsonl").write_text(text.replace('"q3"', '"an easier question"'))
    assert any("not those that were locked" in reason for reason in run(suite, served).gate.reasons)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"metric": "helpful"}', "messages: field required"),
        ("[1]", "an object of keys"),
        ("nonsense", "not a JSON object"),
        ('{"metric": "helpful", "messages": [{"role": "user", "content": "q"}], "answer": "a", "human": true}', "both needed"),
        ("", "no anchor"),
    ],
)  # fmt: skip
def test_a_bad_anchor_is_named(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "anchors.jsonl"
    path.write_text(line)
    with pytest.raises(LabelsError, match=fault):
        load_anchors(path)


def test_anchors_of_an_unknown_metric_stop_the_suite(suite: Path) -> None:
    text = (suite / "anchors.jsonl").read_text()
    (suite / "anchors.jsonl").write_text(text.replace('"helpful"', '"kindness"'))
    with pytest.raises(SuiteError, match="kindness"):
        load_suite(suite)


def test_the_page_is_one_file_that_shows_the_worst_cases_and_escapes_what_a_model_said(
    suite: Path, served: Served
) -> None:
    def evil(body: dict[str, Any]) -> Any:
        if "response_format" in body or "ramble" not in body["messages"][0]["content"]:
            return completion(good(body))
        return completion("<script>alert(1)</script> my card 4111 1111 1111 1111 " + "word " * 9)

    served.answer = evil
    report = launch(options(suite, served, out=suite.parent / "out"))
    page = (suite.parent / "out" / "report.html").read_text()
    assert report.gate.verdict is Verdict.REJECT
    assert page == to_html(report, {sample.id: sample.caller_text for sample in load_suite(suite).dataset.samples})
    assert '<p class="asked">' in page
    assert "<svg" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "4111" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    done = CliRunner().invoke(app, ["report", str(suite.parent / "out" / "report.json"), "--format", "html"])
    assert done.output == to_html(report)
