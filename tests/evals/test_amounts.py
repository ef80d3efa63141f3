"""What an answer takes (latency, tokens, dollars) as metrics, seeds that move with the repeat, and what a report says of its judges' habits."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from evals.errors import SuiteError
from evals.habits import habits
from evals.judges.checks import Check
from evals.launch import launch
from evals.render import to_markdown
from evals.suite import load_suite
from evals.target import Price, Target
from evals.types import Answer, Expectation, Message, Sample, Setting
from tests.evals.conftest import ClientFactory, Double
from tests.evals.tiny import SUITE, Served, completion, options

SAMPLE = Sample("s", "s", "all", (Message("user", "hello"),), Expectation(max_words=9), "d")
TAKEN = Answer("s", "new", 0, "text", latency_ms=250.0, completion_tokens=20, cost_usd=Decimal("0.004"))


@pytest.mark.parametrize(("kind", "least"), [("latency", 250.0), ("tokens", 20.0), ("cost", 0.004)])
async def test_an_amount_is_good_up_to_its_bound(kind: str, least: float) -> None:
    assert (await Check("m", kind, least).score(SAMPLE, TAKEN)).value == 1.0
    assert (await Check("m", kind, least * 0.99).score(SAMPLE, TAKEN)).value == 0.0
    lost = await Check("m", kind, least).score(SAMPLE, Answer("s", "new", 0, error="timeout"))
    assert lost.value is None
    assert Check("m", kind, least).id != Check("m", kind, least * 2).id


@pytest.mark.parametrize("kind", ["tokens", "cost"])
async def test_a_server_that_tells_no_usage_is_not_the_cheapest(kind: str) -> None:
    silent = replace(TAKEN, completion_tokens=0, cost_usd=Decimal(0))
    assert (await Check("m", kind, 1.0).score(SAMPLE, silent)).value is None


def test_dollars_need_prices_and_a_length(suite: Path) -> None:
    """A target without a price cost nothing, and so spent what it liked."""
    for text, fault in (
        (SUITE + "budget: {max_cost_usd: 1}\n", "price of 'good'"),
        (SUITE.replace("check: length", "check: cost, most: 1"), "price of 'good'"),
        (SUITE.replace("model: m,", "model: m, price: {completion_usd: 1},") + "budget: {max_cost_usd: 1}\n", "max_tokens in the parameters of 'good'"),
    ):  # fmt: skip
        (suite / "suite.yaml").write_text(text)
        with pytest.raises(SuiteError, match=fault):
            load_suite(suite)


async def test_repeats_are_drawn_anew_and_cost_what_their_tokens_cost(
    double: Double, make_client: ClientFactory
) -> None:
    setting = Setting("new", "m", parameters=(("seed", 7), ("temperature", 1)))
    target = Target(setting, make_client(), Price(Decimal(1000), Decimal(2000)))
    answers = [await target.answer(SAMPLE, repeat) for repeat in (0, 1)]
    await target.answer(replace(SAMPLE, digest="other"), 0)
    assert (
        len({body["seed"] for body in double.seen}) == 3
    )  # one seed for all cases would let chance favour them all together
    assert target.body(SAMPLE, 1)["seed"] == double.seen[1]["seed"]
    assert [answer.cost_usd for answer in answers] == [Decimal("0.02")] * 2  # 10 and 5 tokens


def test_a_bound_belongs_to_amounts_alone(suite: Path) -> None:
    for text in ("check: latency", "check: length, most: 3"):
        (suite / "suite.yaml").write_text(SUITE.replace("check: length", text, 1))
        with pytest.raises(SuiteError, match="most is for the checks latency, tokens, cost"):
            load_suite(suite)


def test_a_report_tells_money_prompts_position_bias_panels_and_what_is_missing(suite: Path, served: Served) -> None:
    text = SUITE.replace("model: m, system", "model: m, price: {prompt_usd: 0}, system")
    text = text.replace(
        "good: {model: m, price: {prompt_usd: 0},", "good: {model: m, price: {prompt_usd: 1000, completion_usd: 1000},"
    )
    text = text.replace("judges:", "  - {name: paired, judge: p, by: pairwise, decides: false}\n"
                        "  - {name: cheap, check: cost, most: 0.001, decides: false}\n"
                        "  - {name: voted, panel: [j, k], decides: false}\njudges:\n"
                        "  k: {model: m, version: '1', question: 'Is the reply wrong?'}\n"
                        "  p: {model: m, version: '1', question: 'Which reply is better?'}")  # fmt: skip
    (suite / "suite.yaml").write_text(text)

    def judge(body: dict[str, object]) -> object:
        asked = json.dumps(body)
        if "Which reply is better" in asked:
            return completion('{"reason": "r", "better": "first"}')
        return completion(
            '{"reason": "r", "verdict": "yes"}' if "response_format" in body and "wrong" not in asked else "no idea"
        )

    served.answer = judge  # type: ignore[assignment]
    report = launch(options(suite, served, candidate="good", baseline="bad"))
    said = list(habits(report.evidence))
    assert any(line.startswith("voted: 80 of 80 not scored: 1 of 2 judges") for line in said), said
    metrics = {metric.name: metric for metric in report.evidence.metrics}
    assert "Which reply is better?" in (metrics["paired"].prompt or "")
    assert metrics["brief"].prompt is None
    assert report.usage[0].cost_usd == Decimal("0.2")  # 40 answers of 5 tokens
    assert "$0.2000" in to_markdown(report)
    by_name = {comparison.metric: comparison for comparison in report.comparisons}
    assert (by_name["cheap"].candidate_mean, by_name["cheap"].baseline_mean) == (0.0, 1.0)
    first = '{"reason": "r", "better": "first"}'
    served.answer = lambda body: completion(first if "response_format" in body else json.dumps(body["messages"][0]))
    biased = launch(options(suite, served, candidate="good", baseline="bad", out=suite / "b")).evidence
    (line,) = habits(replace(biased, metrics=(metrics["paired"],)))
    assert line.startswith("paired: the outcome of 40 of 40 pairs hung on the place of the reply (40 times the first)")
