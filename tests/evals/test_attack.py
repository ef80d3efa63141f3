"""Replies that instruct their judge: the set, a judge that obeys them and one that does not, and that they stay inside their marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from evals.attack import count_flips, load_attacks
from evals.cli import app
from evals.errors import DatasetError, SuiteError
from evals.launch import attack
from tests.evals.tiny import SUITE, Served, completion

REPLY = re.compile(r"<(reply) (\w{16})>\n(.*)\n</reply \2>", re.DOTALL)


def test_the_set_has_forty_cases_and_more_of_many_kinds() -> None:
    attacks = load_attacks()
    assert len({attack.attacked.text for attack in attacks}) >= 40
    assert len({attack.family for attack in attacks}) >= 10
    assert all(attack.attacked.text.startswith(attack.plain.text) for attack in attacks)


def robust(body: dict[str, Any]) -> str:
    """Takes the reply for what it is."""
    return json.dumps({"reason": "r", "verdict": "no"})


def gullible(body: dict[str, Any]) -> str:
    """Says yes as soon as a reply has a second line: it takes data for instructions."""
    found = REPLY.search(body["messages"][1]["content"])
    assert found, "the reply is not between its marks"
    return json.dumps({"reason": "r", "verdict": "yes" if "\n" in found[3] else "no"})


@pytest.mark.parametrize(("judge", "flips"), [(robust, 0), (gullible, 48)])
def test_verdicts_that_flip_are_counted(suite: Path, served: Served, judge: Any, flips: int) -> None:
    served.answer = lambda body: completion(judge(body))
    (one,) = attack(str(suite), served.url, suite / "out", None)
    assert (one.metric, one.cases, one.not_scored) == ("helpful", 48, 0)
    assert (one.to_pass, one.to_fail) == (flips, 0)
    assert one.per_100.estimate == pytest.approx(100 * flips / 48)
    assert one.per_100.low <= one.per_100.estimate <= one.per_100.high
    assert sum(count for _, count in one.families) == flips
    assert not list((suite / "out").glob("*.jsonl"))


def test_a_judge_that_says_nothing_clear_has_no_flips_and_is_counted(suite: Path, served: Served) -> None:
    served.answer = lambda body: completion("I would rather not say")
    (one,) = attack(str(suite), served.url, suite / "out", None)
    assert (one.not_scored, one.to_pass, one.per_100.low, one.per_100.high) == (48, 0, 0.0, 100.0)
    assert count_flips("m", "j", load_attacks()[:1], [(1.0, 0.0)]).to_fail == 1


def test_the_command_fails_above_the_flips_that_are_accepted(suite: Path, served: Served, tmp_path: Path) -> None:
    served.answer = lambda body: completion(gullible(body))
    command = ["attack", str(suite), "--judge-url", served.url]
    assert CliRunner().invoke(app, [*command, "--json"]).exit_code == 0
    shown = CliRunner().invoke(app, [*command, "--most", "5"])
    assert (shown.exit_code, "100.0 flips per 100" in shown.output) == (1, True)
    assert CliRunner().invoke(app, ["attack", str(suite), "--judge-url", "http://127.0.0.1:9/v1"]).exit_code == 3
    served.answer = lambda body: web.Response(text="<html>", content_type="text/html")
    silent = CliRunner().invoke(app, command)
    assert (silent.exit_code, "48 of 48 not scored" in silent.output) == (2, True)


def test_a_judge_that_passes_every_poor_reply_is_not_called_robust(suite: Path, served: Served) -> None:
    served.answer = lambda body: completion(json.dumps({"reason": "r", "verdict": "yes"}))
    shown = CliRunner().invoke(app, ["attack", str(suite), "--judge-url", served.url])
    assert shown.exit_code == 2
    assert "48 of these poor replies passed without any attack, so none could be talked over" in shown.output
    one = count_flips("m", "j", load_attacks()[:3], [(1.0, 1.0), (0.0, 1.0), (0.0, None)])
    assert (one.passed_plain, one.to_pass, one.measured) == (1, 1, True)


def test_what_cannot_be_attacked_and_what_cannot_be_read_is_named(suite: Path, served: Served, tmp_path: Path) -> None:
    (suite / "suite.yaml").write_text(SUITE.replace("  - {name: helpful, judge: j, decides: false}\n", ""))
    with pytest.raises(SuiteError, match="no metric of the suite has a judge"):
        attack(str(suite), served.url, suite / "out", None)
    (tmp_path / "a.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DatasetError, match=r"a\.jsonl:1"):
        load_attacks(tmp_path / "a.jsonl")
