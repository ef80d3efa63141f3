"""Everything bad that a run may be given: each is named, none ends in a traceback, and none becomes a 0 or a 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from evals.calibrate import answer_digest, load_labels
from evals.cli import app
from evals.errors import LabelsError
from evals.habits import habits
from evals.launch import _shareable, launch, write_queue
from evals.report import Report, load_report
from evals.suite import load_suite
from evals.types import Verdict
from tests.evals.tiny import SUITE, Served, completion, good, options


def run(suite: Path, served: Served, *more: str) -> Any:
    command = ["run", str(suite), "--candidate", "good", "--baseline", "bad", "--url", served.url]
    return CliRunner().invoke(app, [*command, "--out", str(suite / "out"), "--concurrency", "64", *more])


CASE = '{"id": "a", "messages": [{"role": "user", "content": "q"}], "expect": {"max_words": 5}}\n'


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("cases.jsonl", "", "the dataset is empty"),
        ("cases.jsonl", CASE * 2, ":2: id 'a' was already used on line 1"),
        ("suite.yaml", SUITE.replace("check: length", "check: charm"), "metrics.0.check"),
        ("suite.yaml", SUITE.replace("judge: j, decides", "judge: j, by: ragas/charm, decides"), "metrics.1.by"),
        ("suite.yaml", SUITE.replace("judge: j, decides", "judge: j, by: ragas/context_recall, decides"), "context_recall needs: contexts and reference"),
        ("suite.yaml", SUITE.replace("judge: j, decides", "local: faithfulness, decides"), "faithfulness needs: contexts"),
        ("labels.jsonl", "", "no label in it"),
    ],
)  # fmt: skip
def test_what_is_wrong_before_the_run_is_named_and_nothing_is_asked(
    suite: Path, served: Served, file: str, content: str, named: str
) -> None:
    (suite / file).write_text(content)
    done = run(suite, served, *(["--labels", str(suite / file)] if file == "labels.jsonl" else []))
    assert (done.exit_code, served.asked) == (3, 0)
    assert named in done.output, done.output
    assert "Traceback" not in done.output


async def hang(_body: dict[str, Any]) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


def html(status: int) -> Callable[[dict[str, Any]], web.Response]:
    return lambda body: web.Response(text="<html>busy</html>", status=status, content_type="text/html")


JUDGES: list[tuple[Any, str]] = [
    (lambda body: completion("In my opinion it is rather good."), "no yes or no in the asked shape"),
    (lambda body: completion("I am sorry, but I cannot judge this."), "no yes or no in the asked shape"),
    (lambda body: completion('{"reason": "r", "verdict": NaN}'), "no yes or no in the asked shape"),
    (lambda body: completion('{"reason": "r", "verdict": 1}'), "no yes or no in the asked shape"),
    (lambda body: completion(""), "no yes or no in the asked shape"),
    (html(200), "the reply is not JSON"),
    (html(400), "http 400: the reply is not JSON"),
    (hang, "timeout: no reply within 5 s"),
    (lambda body: web.json_response({"error": {"code": "content_filter"}}, status=400), "blocked by policy"),
    (lambda body: web.json_response({"choices": []}), "not an OpenAI chat completion"),
]


@pytest.mark.parametrize(("judge", "named"), JUDGES)
def test_a_judge_that_gives_no_verdict_is_counted_by_reason_and_decides_nothing(
    suite: Path, served: Served, judge: Any, named: str
) -> None:
    text = SUITE.replace("judge: j, decides: false", "judge: j") + "budget: {deadline_s: 5}\n"
    (suite / "suite.yaml").write_text(text)
    cases = (suite / "cases.jsonl").read_text().splitlines(keepends=True)
    (suite / "cases.jsonl").write_text("".join(cases[:20]))
    served.answer = lambda body: judge(body) if "response_format" in body else completion(good(body))
    done = run(suite, served)
    assert done.exit_code == 2, done.output
    report = load_report(suite / "out/report.json")
    scores = [score for score in report.evidence.scores if score.metric == "helpful"]
    assert {score.value for score in scores} == {None}
    assert all(named in score.reason for score in scores), scores[0].reason
    comparison = report.comparisons[1]
    assert (comparison.not_scored_candidate, comparison.not_scored_baseline) == (20, 20)
    assert (comparison.candidate_mean, comparison.scored.pairs) == (None, 0)
    assert (comparison.worst.estimate, comparison.best.estimate) == (-1.0, 1.0)
    assert any("40 of 40 not scored" in line and named in line for line in habits(report.evidence))


def test_a_case_without_a_reference_is_left_out_by_name_and_the_others_are_judged(suite: Path, served: Served) -> None:
    (suite / "suite.yaml").write_text(
        SUITE.replace("judge: j, decides", "judge: j, by: deepeval/faithfulness, decides")
    )
    cases = [json.loads(line) for line in (suite / "cases.jsonl").read_text().splitlines()[:4]]
    for case in cases[1:]:
        case["expect"]["contexts"] = ["fine"]
    (suite / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    served.answer = lambda body: completion("word " if "json_schema" in str(body.get("response_format")) else "fine")
    report = launch(options(suite, served))
    assert {score.sample_id for score in report.evidence.scores if score.metric == "helpful"} == {"c01", "c02", "c03"}
    assert any("1 of 4 cases lack the contexts or the reference" in line for line in habits(report.evidence))


def test_too_few_labels_are_named_with_how_many_would_decide(suite: Path, served: Served) -> None:
    (suite / "suite.yaml").write_text(SUITE.replace("judge: j, decides: false", "judge: j"))
    rows = [
        {"metric": "helpful", "sample_id": f"c{n:02}", "setting": side, "human": side == "good"}
        for n in range(3)
        for side in ("good", "bad")
    ]
    (suite / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(suite, served, "--labels", str(suite / "labels.jsonl"))
    assert done.exit_code == 2
    report = load_report(suite / "out/report.json")
    assert report.gate.verdict is Verdict.INCONCLUSIVE
    assert "too few labels: 6 labels of at least 20" in report.gate.reasons[0]
    assert "about 20 labels would decide" in report.gate.reasons[0]
    queued, asked = suite / "queue.jsonl", ["queue", str(suite / "out/report.json"), str(suite), "--file"]
    assert "20 answers in" in CliRunner().invoke(app, [*asked, str(queued)]).output
    lines = [json.loads(line) for line in queued.read_text().splitlines()]
    assert {line["human"] for line in lines} == {None}
    assert lines[0]["question"].startswith("question ")
    assert lines[0]["asked"] == load_suite(suite).model.judges["j"].question
    with pytest.raises(LabelsError, match="true or false in none"):
        load_labels(queued)
    queued.write_text("".join(json.dumps({**line, "human": line["reply"] == "fine"}) + "\n" for line in lines))
    known = CliRunner().invoke(app, ["calibrate", str(suite / "out/report.json"), str(queued)])
    assert "helpful: calibrated: kappa 1.00" in known.output
    told = CliRunner().invoke(app, ["calibrate", str(suite / "out/report.json"), str(suite / "labels.jsonl")])
    assert (told.exit_code, "about 20 labels would decide" in told.output) == (1, True)


def test_people_who_label_are_not_shown_what_a_case_calls_secret(suite: Path, served: Served) -> None:
    """Nor is Phoenix: judges never were, and a name has no shape that a pattern could tell."""
    (suite / "suite.yaml").write_text(SUITE.replace("judge: j, decides: false", "judge: j"))
    cases = [json.loads(line) for line in (suite / "cases.jsonl").read_text().splitlines()]
    for case in cases:
        case["messages"][0]["content"] += ", asks Ada Quill"
        case["expect"]["secrets"] = ["Ada Quill"]
    (suite / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    served.answer = lambda body: completion("Dear Ada  Quill")
    report = launch(options(suite, served))
    list(write_queue(report, str(suite), suite / "queue.jsonl"))
    queued = (suite / "queue.jsonl").read_text()
    assert "Dear <SECRET_1>" in queued
    assert "Quill" not in queued
    assert load_labels_of(queued, report)
    shown, questions = _shareable(report, str(suite))
    assert "Quill" not in str([[answer.text for answer in shown.evidence.answers], questions])


def load_labels_of(queued: str, report: Report) -> bool:
    """Whether each line names the text that was given, and not the one that was shown."""
    given = {answer_digest(answer) for answer in report.evidence.answers}
    return {json.loads(line)["answer"] for line in queued.splitlines()} <= given
