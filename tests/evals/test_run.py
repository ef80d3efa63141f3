"""Whole runs against a double: verdicts, crashes, shards, reports that cannot be changed unseen, exit codes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner

from evals.calibrate import Calibration, Label, answer_digest, calibrate, load_labels
from evals.cli import app, gate_app
from evals.compare import compare, resampled, slices
from evals.errors import LabelsError, RecordError, SuiteError
from evals.evidence import Case, Evidence, load_evidence, merge, save_evidence
from evals.html import to_html
from evals.launch import launch
from evals.render import to_junit, to_markdown, to_terminal
from evals.report import Report, build_report, load_report, save_report, sign, verify
from evals.suite import find_suite, json_schema, load_suite
from evals.terminal import broken_is_3, progress_bars, progress_lines
from evals.types import Score, Standing, Trust, Verdict
from tests.evals.tiny import SUITE, Served, completion, good, options

KEY = b"0123456789abcdef"
REPOSITORY = Path(__file__).parents[2]


def test_a_worse_candidate_is_rejected_a_better_one_promoted_and_an_equal_one_neither(
    suite: Path, served: Served
) -> None:
    assert launch(options(suite, served)).gate.verdict is Verdict.REJECT
    assert launch(options(suite, served, candidate="good", baseline="bad")).gate.verdict is Verdict.PROMOTE
    assert launch(options(suite, served, candidate="same")).gate.verdict is Verdict.INCONCLUSIVE


def test_a_run_that_died_goes_on_where_it_stopped_and_a_complete_one_leaves_no_reply(
    suite: Path, served: Served
) -> None:
    class PowerCutError(Exception):
        pass

    def cut(stage: str, done: int, _total: int, _cost: object) -> None:
        if stage == "answers" and done == 50:
            raise PowerCutError

    with pytest.raises(BaseException):  # noqa: B017, PT011  the cut arrives in an exception group
        launch(options(suite, served), cut)
    paid = served.asked
    assert paid >= 50
    report = launch(options(suite, served))
    # 40 cases, two settings, one judge call an answer; a request under way at the cut may have been asked twice.
    assert served.asked - 160 <= 4
    assert report.gate.verdict is Verdict.REJECT
    assert not (suite / "out" / "journal.jsonl").exists()
    assert load_report(suite / "out" / "report.json") == report


def test_four_shards_give_the_report_of_one_run(suite: Path, served: Served) -> None:
    whole = launch(options(suite, served))
    parts = [launch(options(suite, served, shard=(i, 4), out=suite / str(i))).evidence for i in range(4)]
    joined = build_report(merge(parts[::-1]))
    assert joined.digest == whole.digest
    assert joined.evidence_digest == whole.evidence_digest
    with pytest.raises(RecordError, match="overlap"):
        merge([parts[0], parts[0]])
    with pytest.raises(RecordError, match="different runs"):
        merge([parts[0], replace(parts[1], suite_version="2")])


def test_a_changed_report_is_found_out(suite: Path, served: Served, tmp_path: Path) -> None:
    report = sign(launch(options(suite, served)), KEY)
    verify(report, KEY)
    score = report.evidence.scores[0]
    forged = replace(score, value=1.0 - (score.value or 0.0))
    scores = (forged, *report.evidence.scores[1:])
    promoted = replace(report.gate, verdict=Verdict.PROMOTE)
    for changed, message in (
        (replace(report, evidence=replace(report.evidence, scores=scores)), "does not fit its digest"),
        (replace(report, gate=promoted), "verdict does not follow"),
        (replace(report, comparisons=report.comparisons[:1]), "does not follow"),
        (replace(report, signature=None), "is not signed"),
        (
            replace(report, usage=(replace(report.usage[0], cost_usd=Decimal(0), errors=9), *report.usage[1:])),
            "not signed with",
        ),
        (
            replace(
                report,
                evidence=replace(
                    report.evidence,
                    answers=(replace(report.evidence.answers[0], latency_ms=1.0), *report.evidence.answers[1:]),
                ),
            ),
            "not signed with",
        ),
        (replace(report, signature="hmac-sha256:00"), "not signed with this key"),
    ):
        with pytest.raises(RecordError, match=message):
            verify(changed, KEY)
    with pytest.raises(ValueError, match="16 bytes"):
        sign(report, b"short")
    path = tmp_path / "r.json"
    path.write_text("{}")
    with pytest.raises(RecordError, match="not the report"):
        load_report(path)


def test_evidence_on_disk_cannot_hold_a_nan(suite: Path, served: Served, tmp_path: Path) -> None:
    evidence = launch(options(suite, served)).evidence
    save_evidence(evidence, tmp_path / "e.json")
    assert load_evidence(tmp_path / "e.json") == evidence
    document = json.loads((tmp_path / "e.json").read_text())
    document["scores"][0]["value"] = 7
    (tmp_path / "e.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"\[0, 1\]"):
        load_evidence(tmp_path / "e.json")


def test_a_judge_that_answers_prose_is_counted_and_widens_the_bounds(suite: Path, served: Served) -> None:
    def prose(body: dict[str, Any]) -> web.Response:
        asks_odd = "response_format" in body and "question 1" in body["messages"][1]["content"]
        return completion("I would say yes" if asks_odd else good(body))

    served.answer = prose
    comparison = launch(options(suite, served, candidate="same")).comparisons[1]
    assert comparison.not_scored_candidate == comparison.not_scored_baseline == 11
    assert comparison.applicable == 40
    assert comparison.scored.pairs == 29
    assert comparison.worst.pairs == comparison.best.pairs == 40
    assert comparison.worst.estimate < comparison.scored.estimate < comparison.best.estimate


def relabel(report: Report, human: Callable[[Score], bool]) -> str:
    labels = [
        {"metric": s.metric, "sample_id": s.sample_id, "setting": s.setting, "human": human(s)}
        for s in report.evidence.scores
        if s.metric == "helpful"
    ]
    return "".join(json.dumps(label) + "\n" for label in labels)


def test_a_judge_earns_its_vote_by_labels_and_loses_it_by_labels(suite: Path, served: Served) -> None:
    report = launch(options(suite, served, candidate="good", baseline="bad"))
    path = suite / "labels.jsonl"
    deciding = replace(
        report.evidence, metrics=tuple(replace(metric, decides=True) for metric in report.evidence.metrics)
    )
    assert build_report(deciding).gate.verdict is Verdict.INCONCLUSIVE

    path.write_text(relabel(report, lambda score: score.value == 1.0))
    agreed = build_report(deciding, load_labels(path))
    assert agreed.comparisons[1].trust.standing is Standing.CALIBRATED
    assert "PPI++" in agreed.comparisons[1].method
    assert agreed.gate.verdict is Verdict.PROMOTE

    path.write_text(relabel(report, lambda score: int(score.sample_id[1:]) % 2 == 0))
    chance = build_report(deciding, load_labels(path))
    assert chance.comparisons[1].trust.standing is Standing.REFUSED
    assert "not told apart from chance" in chance.comparisons[1].trust.reason
    assert chance.gate.verdict is Verdict.INCONCLUSIVE

    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    few = calibrate(deciding, load_labels(path))[0]
    assert few.trust.standing is Standing.REFUSED
    assert few.trust.labels_needed == 20


def test_labels_give_agreement_and_pass_rates_corrected_two_ways(suite: Path, served: Served) -> None:
    """The judge passes all brief replies; people fail every fifth of them, and pass no rambling one."""
    report = launch(options(suite, served, candidate="good", baseline="bad"))
    people = [
        json.dumps({"metric": "helpful", "sample_id": s.sample_id, "setting": s.setting, "human": human})
        for s in report.evidence.scores
        if s.metric == "helpful" and int(s.sample_id[1:]) < 30
        for human in [s.value == 1.0 and int(s.sample_id[1:]) % 5 > 0]
    ]
    path = suite / "labels.jsonl"
    path.write_text("\n".join(people))
    labels = load_labels(path)
    (found,) = calibrate(report.evidence, labels)
    good, bad = found.pass_rates
    assert (good.setting, good.judged, good.answers, good.labels) == ("good", 1.0, 40, 30)
    assert good.ppi is not None
    assert good.ppi.estimate == pytest.approx(0.8)
    assert good.rogan_gladen is None  # specificity on this side is 0: a judge at chance
    assert bad.ppi is not None
    assert bad.ppi.estimate == 0.0
    told = invoke("calibrate", suite / "out" / "report.json", path)
    for figure in (
        "kappa 0.80",
        "balanced accuracy 0.92",
        "sensitivity 1.00",
        "specificity 0.83",
        "good passes: 1.00 as judged",
    ):
        assert figure in told.output
    assert "corrected by 30 of 40 labelled 0.80 [" in told.output
    page = to_html(build_report(report.evidence, labels))
    assert "as the labels of people correct it" in page
    agreement = page[page.index('aria-label="Agreement of helpful with people"') :]
    (limit,) = re.findall(r'<line [^>]*y1="([\d.]+)"[^>]*y2="([\d.]+)"[^>]*stroke-dasharray="3 2"/>', agreement)
    assert limit == ("11.0", "29.0")  # beside kappa alone, to which it belongs
    machine = json.loads(invoke("calibrate", suite / "out" / "report.json", path, "--json").stdout)
    assert machine[0]["pass_rates"][0]["ppi"]["estimate"] == pytest.approx(0.8)


def test_labels_of_one_side_alone_correct_nothing_and_it_is_said_how_many_would(suite: Path, served: Served) -> None:
    """Enough for the judge to be known, on the candidate's answers to half of the cases and the baseline's to the other half."""
    evidence = launch(options(suite, served, candidate="good", baseline="bad")).evidence
    deciding = replace(evidence, metrics=tuple(replace(metric, decides=True) for metric in evidence.metrics))
    people = {
        ("helpful", s.sample_id, s.setting, 0): Label(s.value == 1.0)
        for s in evidence.scores
        if s.metric == "helpful"
        and ((int(s.sample_id[1:]) < 20) == (s.setting == "good") or s.sample_id in ("c00", "c38"))
    }
    trust = build_report(deciding, people).comparisons[1].trust
    assert trust.standing is Standing.REFUSED
    assert "labels of both sides of a pair exist in 2 conversations; the correction needs at least 8" in trust.reason
    assert trust.labels_needed == len(people) + 2 * 6


def test_a_label_that_was_given_for_another_text_is_not_used_and_counted(suite: Path, served: Served) -> None:
    report = launch(options(suite, served))
    texts = {(a.sample_id, a.setting): answer_digest(a) for a in report.evidence.answers}
    rows = [
        {"metric": "helpful", "sample_id": s.sample_id, "setting": s.setting, "human": s.value == 1.0, "answer": texts[s.sample_id, s.setting]}
        for s in report.evidence.scores
        if s.metric == "helpful"
    ]  # fmt: skip
    path = suite / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert build_report(report.evidence, load_labels(path)).comparisons[1].trust.standing is Standing.CALIBRATED
    served.answer = lambda body: completion(good(body) if "response_format" in body else good(body) + " indeed")
    later = launch(options(suite, served, labels=path))
    assert later.comparisons[1].trust.standing is Standing.UNCALIBRATED
    assert later.calibrations[0].unmatched == 80
    assert "80 labels fit no scored answer" in to_markdown(later)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"metric": "m", "sample_id": "a", "setting": "s", "human": true, "answer": "fine"}', "answer"),
        ("", "no label"),
        ('{"metric": "m"}', "sample_id"),
        ('{"metric": "m", "sample_id": "a", "setting": "s", "human": "yes"}', "human"),
        ("nope", "not a JSON object"),
        ('{"metric": "m", "sample_id": "a", "setting": "s", "human": true}\n' * 2, ":2: this answer was already"),
    ],
)
def test_a_fault_in_labels_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(line)
    with pytest.raises(LabelsError, match=r"labels\.jsonl") as caught:
        load_labels(path)
    assert message in str(caught.value)


def test_reports_read_well_and_show_no_answer(suite: Path, served: Served) -> None:
    report = launch(options(suite, served))
    markdown, junit = to_markdown(report), to_junit(report)
    assert markdown.startswith("# Reject: bad against good")
    assert report.digest in markdown
    tree = ElementTree.fromstring(junit)  # noqa: S314  written a line above
    assert (tree.get("tests"), tree.get("failures"), tree.get("skipped")) == ("3", "2", "1")
    assert "word word" not in markdown + junit
    assert "\\*" not in markdown
    page = to_html(report)
    assert "<td>-1.000</td>" in page
    low, high = resampled(report.evidence, report.evidence.metrics[0])
    assert (low, high) == (-1.0, -1.0)
    assert f"{low:+.3f} to {high:+.3f}" in page
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_terminal(report))
    assert "…" not in console.export_text()
    cached = tuple(replace(answer, from_cache=True) for answer in report.evidence.answers)
    assert "all from earlier replies" in to_markdown(build_report(replace(report.evidence, answers=cached)))
    assert set(slices(report.evidence, report.evidence.metrics[0])) == {"even", "odd"}


def test_the_published_schema_is_the_one_of_the_code_and_the_shipped_suites_load() -> None:
    published = json.loads((REPOSITORY / "evals" / "suite.schema.json").read_text())
    assert published == json.loads(json.dumps(json_schema()))
    for path in (REPOSITORY / "evals" / "suites").glob("*/suite.yaml"):
        assert (path.parent / "CARD.md").is_file()
        load_suite(path.parent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("check: length", "check: lenght", "metrics.0.check"),
        ("judge: j,", "judge: k,", "judge 'k' is not one of"),
        ("primary: true", "primary: false", "at least one metric with primary"),
        ('version: "1"\ndataset', 'versoin: "1"\ndataset', "versoin"),
        ("check: length", "check: citation", "no case of the dataset has what check citation needs"),
        ("name: tiny", "name: [", "not YAML"),
        ("name: helpful", "name: brief", "suite.yaml: metric 'brief' is listed twice"),
        ("primary: true", "primary: true, marign: 0.1", "metrics.0.marign: unknown key; did you mean margin?"),
        ('version: "1"\ndataset', "version: 1\ndataset", "version: a text is needed here; a number goes in quotes"),
        (SUITE, "", "the document: an object of keys and values is needed here"),
    ],
)
def test_a_fault_in_a_suite_is_named(suite: Path, old: str, new: str, message: str) -> None:
    (suite / "suite.yaml").write_text(SUITE.replace(old, new, 1))
    with pytest.raises(SuiteError, match=r"suite\.yaml") as caught:
        load_suite(suite)
    assert message in str(caught.value)
    with pytest.raises(SuiteError, match="call-centre-smoke"):
        find_suite("no-such-suite")
    with pytest.raises(SuiteError, match="did you mean angry-caller"):
        find_suite("angry-callers")


def test_the_shell_completes_suites_and_their_targets(suite: Path) -> None:
    def completed(line: str) -> list[str]:
        """As a shell asks: the last word is what is typed so far."""
        words = line.split(" ")
        given = {"_EVAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return CliRunner(env=given).invoke(app, prog_name="eval").output.split()

    assert completed("eval run pers") == ["personal-data"]
    assert completed("eval run personal-data --candidate d") == ["degraded"]
    assert completed(f"eval run {suite} --candidate good --baseline ") == ["good", "same", "bad"]
    assert completed("eval run no-such --candidate d") == []


def test_the_shipped_suites_are_listed_with_what_a_run_needs_to_know() -> None:
    told = invoke("suites").output.splitlines()
    assert len(told) == 9
    assert any(
        " ".join(line.split()) == "personal-data 60 cases; targets good, degraded; decided by no_leak, refusal"
        for line in told
    )
    assert json.loads(invoke("suites", "--json").stdout)["call-centre-smoke"]["cases"] == 12


def test_what_a_run_leaves_is_for_its_owner_and_is_named(suite: Path, served: Served) -> None:
    told = invoke("run", suite, "--candidate", "good", "--baseline", "bad", "--url", served.url, "--out", suite / "out")
    assert f"{suite / 'out' / 'report.html'} shows it" in told.output.replace("\n", "")
    for file in ("report.json", "evidence.json", "report.html"):
        assert (suite / "out" / file).stat().st_mode & 0o077 == 0


def test_stopping_a_run_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), broken_is_3():
        raise KeyboardInterrupt
    assert "the same command goes on" in capsys.readouterr().err


def invoke(*arguments: str | Path, **environment: str) -> Any:
    return CliRunner(env=environment).invoke(app, [str(argument) for argument in arguments])


def test_exit_codes_tell_the_verdicts_and_what_is_broken_apart(suite: Path, served: Served) -> None:
    run = ("run", suite, "--url", served.url, "--out", suite / "out", "--json")
    signed = {"CALLGATE_EVAL_KEY": KEY.decode()}
    for candidate, baseline, code in (("good", "bad", 0), ("bad", "good", 1), ("same", "good", 2)):
        result = invoke(*run, "--candidate", candidate, "--baseline", baseline, **signed)
        assert result.exit_code == code, result.output
        assert msgspec.json.decode(result.stdout.encode(), type=Report).signature
        assert invoke("gate", suite / "out" / "report.json", **signed).exit_code == code
    report = suite / "out" / "report.json"
    assert invoke("gate", report, CALLGATE_EVAL_KEY="another key of 16 bytes").exit_code == 3
    assert invoke("compare", suite / "out" / "evidence.json", **signed).exit_code == 2
    for form in ("terminal", "json", "markdown", "junit"):
        assert invoke("report", report, "--format", form).exit_code == 0
    for broken in (
        ("run", suite, "--candidate", "good"),
        ("run", suite, "--candidate", "good", "--baseline", "nobody"),
        ("run", suite, "--candidate", "good", "--baseline", "good", "--url", served.url),
        ("run", suite, "--candidate", "good", "--baseline", "bad", "--url", "http://127.0.0.1:1/v1"),
        ("run", suite, "--candidate", "good", "--baseline", "bad", "--shard", "5/4"),
        ("gate", suite / "suite.yaml"),
        ("nonsense",),
        ("plan", "--discordance", "7"),
    ):
        assert invoke(*broken).exit_code == 3, broken


def test_a_target_that_never_answers_breaks_the_run_and_is_no_zero(suite: Path, served: Served) -> None:
    served.answer = lambda body: web.json_response({"error": {"code": "model_not_found"}}, status=404)
    result = invoke("run", suite, "--candidate", "good", "--baseline", "bad", "--url", served.url, "--out", suite / "o")
    assert result.exit_code == 3
    assert "gave no answer at all" in result.output
    assert "model_not_found" in result.output


def test_a_part_of_a_run_has_no_verdict_and_its_parts_together_have(suite: Path, served: Served) -> None:
    command = ["run", suite, "--candidate", "good", "--baseline", "bad", "--url", served.url, "--out", suite / "out"]
    told = [invoke(*command, "--shard", f"{n}/2") for n in (1, 2)]
    assert [one.exit_code for one in told] == [0, 0]
    parts = sorted((suite / "out").rglob("evidence.json"))
    assert len(parts) == 2
    assert str(parts[0]) in told[0].output.replace("\n", "")
    assert not list((suite / "out").rglob("report.json"))
    half = invoke("compare", parts[0])
    assert half.exit_code == 3
    assert "10 of 20 conversations: this is a part of a run" in half.output
    with pytest.raises(RecordError, match="part of a run"):
        verify(build_report(load_evidence(parts[1])), None)
    assert invoke("compare", *parts).exit_code == 0


def test_labels_of_a_metric_that_is_not_there_stop_the_run_before_it_asks(suite: Path, served: Served) -> None:
    path = suite / "labels.jsonl"
    path.write_text('{"metric": "helpfull", "sample_id": "c00", "setting": "good", "human": true}\n')
    command = ["run", suite, "--candidate", "good", "--baseline", "bad", "--url", served.url, "--out", suite / "out"]
    typo = invoke(*command, "--labels", path)
    assert (typo.exit_code, served.asked) == (3, 0)
    assert "labels of helpfull: the suite has no such metric, but brief, helpful" in typo.output
    assert invoke(*command).exit_code == 0
    again = invoke("calibrate", suite / "out" / "report.json", path)
    assert again.exit_code == 3


def test_the_key_of_the_gateway_is_not_sent_to_judges_elsewhere(suite: Path, served: Served) -> None:
    command = ["run", suite, "--candidate", "bad", "--baseline", "good", "--url", served.url, "--out", suite / "out"]
    keys = {"CALLGATE_API_KEY": "ours", "CALLGATE_JUDGE_KEY": ""}
    with Served() as judge:
        assert invoke(*command, "--judge-url", judge.url, **keys).exit_code == 1
        assert (served.keys, judge.keys) == ({"Bearer ours"}, {None})
        assert invoke(*command, "--judge-url", judge.url, **{**keys, "CALLGATE_JUDGE_KEY": "theirs"}).exit_code == 1
        assert (served.keys, judge.keys) == ({"Bearer ours"}, {None, "Bearer theirs"})
        assert invoke(*command, **keys).exit_code == 1
        assert served.keys == {"Bearer ours"}
    gone = invoke(*command, "--judge-url", judge.url, **keys)
    assert gone.exit_code == 3
    assert "as --judge-url" in gone.output


def test_calibrate_plan_and_simulate_speak_to_machines(suite: Path, served: Served) -> None:
    report = launch(options(suite, served))
    labels = suite / "labels.jsonl"
    labels.write_text(relabel(report, lambda score: score.value == 1.0))
    path = suite / "out" / "report.json"
    good_judge = invoke("calibrate", path, labels, "--json")
    assert good_judge.exit_code == 0, good_judge.output
    assert json.loads(good_judge.stdout)[0]["trust"]["standing"] == "calibrated"
    labels.write_text(relabel(report, lambda score: score.value == 0.0))
    assert invoke("calibrate", path, labels).exit_code == 1
    plan = json.loads(invoke("plan", "--margin", "0.1", "--conversations", "100", "--json").stdout)
    assert plan["conversations_needed"] > 100
    assert plan["detectable_difference"] > 0.1
    told = invoke("plan", "--margin", "0.05", "--conversations", "100").output
    assert "show 'not worse by 0.05' in 80% of the cases where the true difference is +0" in told
    assert (
        f"100 conversations show it where the true difference is at least {plan['detectable_difference'] - 0.05:+.3f}"
        in told
    )
    assert "no number of conversations shows 'better'" in invoke("plan", "--margin", "0").output
    impossible = invoke("plan", "--difference", "0.9")
    assert (impossible.exit_code, "discordance is 0.2" in impossible.output) == (3, True)
    unsigned = invoke("gate", path)
    assert (unsigned.exit_code, "the signature was not checked" in unsigned.output) == (1, True)
    after = CliRunner().invoke(gate_app, [str(path), "--json"])  # `callgate gate`, an option behind the file
    assert (after.exit_code, json.loads(after.stdout)["verdict"]) == (1, "reject")
    lost = invoke("gate", path, CALLGATE_EVAL_KEY="")  # a pipeline without its secret: the check must not go with it
    assert (lost.exit_code, "fewer than 16 bytes" in lost.output) == (3, True)


def test_a_tracker_that_greets_leaves_standard_output_to_the_report(
    suite: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(*_: object) -> Iterator[str]:
        print("View run at: http://127.0.0.1:1")
        yield "told"

    monkeypatch.setattr("evals.launch.record", greet)
    done = invoke(
        "run", suite, "--url", served.url, "--candidate", "good", "--baseline", "bad", "--out", suite / "o", "--json"
    )
    assert json.loads(done.stdout)["gate"]["verdict"] == "promote"
    assert "View run at" in done.stderr


def test_an_old_report_and_one_of_something_else_do_not_pass_for_this_candidate(suite: Path, served: Served) -> None:
    launch(options(suite, served, candidate="good", baseline="bad"))
    path, about = suite / "out/report.json", ("--suite", str(suite), "--candidate")
    assert invoke("gate", path, *about, "good").exit_code == 0
    other = invoke("gate", path, *about, "same")
    assert (other.exit_code, "about 'good', not 'same'" in other.output) == (3, True)
    assert invoke("gate", path, "--suite", suite).exit_code == 3
    text = (suite / "suite.yaml").read_text()
    (suite / "suite.yaml").write_text(text.replace("good: {model: m,", "good: {model: m, version: next,"))
    assert "not of what is in tiny now (suite)" in invoke("gate", path, *about, "good").output
    (suite / "suite.yaml").write_text(text)
    cases = (suite / "cases.jsonl").read_text()
    (suite / "cases.jsonl").write_text(cases.replace("question 7", "an easier question"))
    easier = invoke("gate", path, *about, "good")
    assert (easier.exit_code, "in tiny now (cases)" in easier.output) == (3, True)


def test_the_digest_of_a_report_does_not_hold_time(suite: Path, served: Served) -> None:
    report = launch(options(suite, served))
    slow = tuple(replace(answer, latency_ms=9e9, from_cache=True) for answer in report.evidence.answers)
    later: Evidence = replace(report.evidence, answers=slow)
    assert build_report(later).digest == report.digest
    save_report(report, suite / "r.json")
    assert load_report(suite / "r.json").digest == report.digest


def test_progress_shows_rate_cost_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars(quiet=False) as progress:
        for done in range(1, 6):
            progress("answers", done, 10, Decimal(done) / 10)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    last = shown.strip().splitlines()[-1]
    assert re.search(r"answers .* 5/10 [\d.]+/s \$0\.5000 (\d:\d\d:\d\d|-:--:--)", last), last
    with progress_bars(quiet=True) as progress:
        progress("answers", 1, 2, None)
    assert capsys.readouterr().err.strip() == ""


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter(range(0, 1000, 10))
    progress = progress_lines(lambda: next(seconds))
    for done in range(1, 6):
        progress("answers", done, 5, Decimal(done) / 10)
    assert capsys.readouterr().err.splitlines() == [
        "answers: 3 of 5 $0.3000",
        "answers: 5 of 5 $0.5000",
    ]


def test_a_judge_meets_both_sides_of_a_case_one_after_the_other(suite: Path, served: Served) -> None:
    """First all of the candidate and then all of the baseline, a judge that grew mild half way favoured the latter."""
    judged = []

    def hear(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            judged.append("word" in body["messages"][1]["content"])
        return completion(good(body))

    served.answer = hear
    launch(options(suite, served, concurrency=1))
    assert judged == [True, False] * 40


def test_labels_of_what_passes_are_no_random_part_and_correct_nothing(suite: Path, served: Served) -> None:
    evidence = launch(options(suite, served, candidate="same", baseline="good")).evidence
    names = [f"d{number:03}" for number in range(150)]
    random = np.random.default_rng(4)
    passed = {name: random.random(2) < 0.75 for name in names}
    metric = replace(evidence.metrics[1], decides=True)
    scores = tuple(
        Score("helpful", name, side, 0, float(passed[name][place]), "said", metric.judge)
        for name in names
        for place, side in enumerate(("same", "good"))
    )
    cases = tuple(Case(name, name, "all", "d", ("helpful",)) for name in names)
    evidence = replace(evidence, metrics=(metric,), cases=cases, scores=scores)
    trust = Calibration("helpful", "j", None, 0, Trust(Standing.CALIBRATED, "said so", 60))
    drawn = random.permutation(names)[:60]
    easy = sorted(names, key=lambda name: (not passed[name][0], random.random()))[:60]
    found = {}
    for kind, chosen in (("drawn", drawn), ("easy", easy)):
        labels = {
            ("helpful", str(n), side, 0): bool(passed[n][p]) for n in chosen for p, side in enumerate(("same", "good"))
        }
        (one,) = compare(evidence, labels=labels, calibrations=[trust])
        found[kind] = one.trust
    assert found["drawn"].standing is Standing.CALIBRATED
    assert found["easy"].standing is Standing.REFUSED
    assert "not of a random part of the cases: the judge gives the candidate 1.00" in found["easy"].reason


def test_both_sides_of_a_case_are_asked_together_and_each_is_first_about_as_often(suite: Path, served: Served) -> None:
    asked: list[tuple[str, str]] = []

    def answer(body: dict[str, Any]) -> web.Response:
        if "response_format" not in body:
            asked.append((body["messages"][-1]["content"], body["messages"][0]["content"]))
        return completion(good(body))

    served.answer = answer
    launch(options(suite, served, concurrency=1))
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    assert all(one == other for (one, _), (other, _) in pairs)
    assert 10 <= sum(system == "ramble" for (_, system), _ in pairs) <= 30
