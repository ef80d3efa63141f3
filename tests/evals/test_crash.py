"""A run whose process is killed: the same command goes on, and neither asks nor pays twice, nor spends more than the limit with both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evals.habits import habits
from evals.launch import launch
from evals.report import load_report
from evals.types import Verdict
from tests.evals.tiny import SUITE, Served, completion, good, options

ROOT = Path(__file__).parents[2]


def run_and_kill(suite: Path, served: Served, at: int) -> None:
    """`callgate eval run` in a process of its own, killed without a word when it asks for the `at`-th time."""
    code = "from evals.cli import app; app()"
    arguments = ["run", str(suite), "--candidate", "bad", "--baseline", "good", "--url", served.url]
    command = [sys.executable, "-c", code, *arguments, "--out", str(suite / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answer(body: dict[str, Any]) -> web.Response:
        if served.asked == at:
            os.kill(process.pid, signal.SIGKILL)
        return completion(good(body))

    served.answer = answer
    assert process.wait(60) == -signal.SIGKILL
    served.catch_up()
    served.answer = lambda body: completion(good(body))


def replies(suite: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (suite / "out/journal.jsonl").read_text().splitlines())
    return [line["reply"] for line in lines if line.get("reply")]


@pytest.mark.parametrize("at", [30, 110])  # among the answers, among the scores
def test_a_killed_run_goes_on_and_pays_for_nothing_twice(suite: Path, served: Served, at: int) -> None:
    run_and_kill(suite, served, at)
    kept = len(replies(suite))
    assert at - 4 <= kept <= at  # what was under way at the end of it cannot have been kept
    before = served.asked
    report = launch(options(suite, served))
    assert served.asked - before == 160 - kept  # 40 cases, two settings, one judge call an answer
    assert report.gate.verdict is Verdict.REJECT
    whole = launch(options(suite, served, out=suite / "whole"))
    assert load_report(suite / "out/report.json").digest == whole.digest


def test_both_processes_together_keep_the_money_limit(suite: Path, served: Served) -> None:
    priced = SUITE.replace("system: be brief}", "system: be brief, price: {completion_usd: 500000}}").replace(
        "bad: {model: m,", "bad: {model: m, price: {completion_usd: 500000}, parameters: {max_tokens: 2},", 1
    )
    priced = priced.replace("  good: {model: m,", "  good: {model: m, parameters: {max_tokens: 2},", 1)
    priced = priced.replace("version: other}", "version: other, price: {}}").replace(
        "j: {model: m,", "j: {model: m, price: {},"
    )
    (suite / "suite.yaml").write_text(priced + "budget: {max_cost_usd: 50}\n")  # a dollar an answer
    run_and_kill(suite, served, 30)
    kept = replies(suite)
    assert all(reply["completion_tokens"] == 2 for reply in kept)
    evidence = launch(options(suite, served)).evidence
    answers, judged = evidence.answers, [s for s in evidence.scores if s.metric == "helpful" and s.value is not None]
    paid = [answer for answer in answers if answer.error is None]
    # Those that were under way when it was killed are paid for too, the up to three that it had noted and not yet sent among them.
    assert 47 <= served.asked - len(judged) <= 50
    assert 46 <= sum(answer.cost_usd for answer in paid) <= 50
    assert sum(answer.from_cache for answer in paid) == len(kept)
    assert {answer.error for answer in answers} - {None} == {"budget: the limit of the suite is reached"}


def test_replies_kept_for_later_runs_are_no_part_of_their_budget(suite: Path, served: Served) -> None:
    first = launch(options(suite, served, cache=suite / "kept.jsonl"))
    (suite / "suite.yaml").write_text(SUITE + "budget: {max_requests: 1}\n")
    again = launch(options(suite, served, cache=suite / "kept.jsonl"))
    assert [a.text for a in again.evidence.answers] == [a.text for a in first.evidence.answers]


def test_a_run_whose_money_ends_keeps_what_it_paid_for_until_there_is_more(suite: Path, served: Served) -> None:
    (suite / "suite.yaml").write_text(SUITE + "budget: {max_requests: 100}\n")
    short = launch(options(suite, served))
    assert served.asked == 100
    assert any(
        "the budget of the suite is spent: 60 answers and scores are missing" in line for line in habits(short.evidence)
    )
    (suite / "suite.yaml").write_text(SUITE + "budget: {max_requests: 160}\n")
    whole = launch(options(suite, served))
    assert served.asked == 160
    assert not [line for line in habits(whole.evidence) if "budget" in line]
    assert not (suite / "out/journal.jsonl").exists()
