"""Ragas' and DeepEval's real metric code, against a double of a judge over a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evals.errors import SuiteError
from evals.judges.by_deepeval import DeepEvalJudge
from evals.judges.by_ragas import RagasJudge
from evals.judges.panel import Panel, disagreement
from evals.judges.structured import Asking
from evals.suite import load_suite
from evals.target import Budget
from evals.types import Answer, Expectation, Message, Sample, Score, not_scored, scored
from tests.doubles import judge as double_judge
from tests.evals.conftest import ClientFactory, Double, completion

pytestmark = pytest.mark.filterwarnings("ignore")  # what the two libraries warn of is theirs

CONTEXT = "Roaming in Switzerland costs 4.90 euros a day. The charge starts with the first use."
SAMPLE = Sample(
    "s", "s", "all", (Message("user", "What does roaming in Switzerland cost? My mail is a.b@example.com"),),
    Expectation(contexts=(CONTEXT,), reference="Roaming in Switzerland costs 4.90 euros a day."), "d",
)  # fmt: skip
TRUE = "Roaming in Switzerland costs 4.90 euros a day."
HALF = TRUE + " Elephants travel without paying taxes."
RUDE = "Calm down, that is not my problem."


@pytest.fixture
async def asking(double: Double, make_client: ClientFactory) -> AsyncIterator[Asking]:
    double.script = lambda body, number: completion(double_judge.reply(body))
    yield Asking("judge-double", "1", make_client(), embedding_model="embedding-double")


def answer(text: str) -> Answer:
    return Answer("s", "new", 0, text)


async def test_ragas_faithfulness_is_the_share_of_supported_statements(asking: Asking, double: Double) -> None:
    ragas = RagasJudge("f", "faithfulness", asking)
    assert (await ragas.score(SAMPLE, answer(TRUE))).value == 1.0
    half = await ragas.score(SAMPLE, answer(HALF))
    assert half.value == 0.5
    assert len(json.loads(half.raw or "")) == 2
    assert "a.b@example.com" not in json.dumps(double.seen)


async def test_ragas_context_metrics_judge_the_texts_given(asking: Asking) -> None:
    for kind in ("context_precision", "context_recall"):
        score = await RagasJudge("c", kind, asking).score(SAMPLE, answer(TRUE))
        assert score.value == pytest.approx(1.0), score.reason
    without = Sample("s", "s", "all", SAMPLE.messages, Expectation(contexts=(CONTEXT,)), "d")
    assert not RagasJudge("c", "context_recall", asking).applies(without)


async def test_ragas_relevancy_needs_embeddings_and_says_so(
    double: Double, asking: Asking, make_client: ClientFactory
) -> None:
    score = await RagasJudge("r", "answer_relevancy", asking).score(SAMPLE, answer(TRUE))
    assert score.value is None
    assert "embeddings" in score.reason  # the conftest's double has no such route
    runner = web.AppRunner(double_judge.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    double.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    served = Asking("judge-double", "1", make_client("embedded.jsonl"), embedding_model="embedding-double")
    score = await RagasJudge("r", "answer_relevancy", served).score(SAMPLE, answer(TRUE))
    await runner.cleanup()
    assert score.value is not None
    assert 0.3 < score.value < 1
    none = Asking("judge-double", "1", served.client)
    assert "no embedding_model" in (await RagasJudge("r", "answer_relevancy", none).score(SAMPLE, answer(TRUE))).reason


async def test_deepeval_tone_and_role_tell_a_rude_reply(asking: Asking) -> None:
    for kind in ("tone", "professionalism", "role_adherence"):
        deepeval = DeepEvalJudge("t", kind, asking)
        good, bad = [await deepeval.score(SAMPLE, answer(text)) for text in (TRUE, RUDE)]
        assert good.value is not None, good.reason
        assert bad.value is not None, bad.reason
        assert good.value > bad.value


async def test_deepeval_faithfulness_tells_an_invention(asking: Asking) -> None:
    deepeval = DeepEvalJudge("f", "faithfulness", asking)
    good, bad = [await deepeval.score(SAMPLE, answer(text)) for text in (TRUE, HALF)]
    assert good.value == 1.0
    assert bad.value == 0.5


def test_deepeval_says_nothing_on_standard_output() -> None:
    code = (
        "from evals.judges.by_deepeval import DeepEvalJudge; from evals.judges.structured import Asking\n"
        "DeepEvalJudge('t', 'tone', Asking('m', '1', None))._metric(Asking('m', '1', None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""  # `eval run --json` puts one document there


def bad_replies() -> list[web.Response]:
    return [
        completion("I think it is fine."),
        completion("I am sorry, I cannot help with that."),
        completion('{"statements": "none"}'),
        completion('{"score": NaN, "reason": "x"}'),
        web.Response(text="<html>gateway timeout</html>", status=504, content_type="text/html"),
        web.Response(text="<html>ok</html>", content_type="text/html"),
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("vendor", ["ragas", "deepeval"])
async def test_prose_refusals_nan_and_html_are_not_scored(
    double: Double, make_client: ClientFactory, vendor: str, number: int
) -> None:
    double.script = lambda body, n: bad_replies()[number]
    asking = Asking("m", "1", make_client())
    judge: Any = RagasJudge("f", "faithfulness", asking) if vendor == "ragas" else DeepEvalJudge("t", "tone", asking)
    score = await judge.score(SAMPLE, answer(TRUE))
    assert score.value is None
    assert score.reason


async def test_a_judge_without_budget_or_an_answer_that_never_came_is_not_scored(
    double: Double, make_client: ClientFactory
) -> None:
    asking = Asking("m", "1", make_client(budget=Budget(max_requests=1)))
    double.script = lambda body, number: completion(double_judge.reply(body))
    score = await RagasJudge("f", "faithfulness", asking).score(SAMPLE, answer(TRUE))
    assert "budget" in score.reason
    lost = await RagasJudge("f", "faithfulness", asking).score(SAMPLE, Answer("s", "new", 0, error="timeout"))
    assert lost.reason == "no answer: timeout"


async def test_a_panel_goes_with_the_majority_and_counts_who_does_not() -> None:
    class Fixed:
        def __init__(self, name: str, value: float | None) -> None:
            self.id, self.version, self.value = name, "1", value

        def applies(self, sample: Sample) -> bool:
            return True

        async def score(self, sample: Sample, answer: Answer) -> Score:
            if self.value is None:
                return not_scored("p", answer, self.id, reason="silent")
            return scored("p", answer, self.id, self.value, reason="said")

    def panel(*values: float | None) -> Panel:
        return Panel("p", tuple(Fixed(f"j{n}", value) for n, value in enumerate(values)))

    found = await panel(1.0, 0.0, 1.0).score(SAMPLE, answer(TRUE))
    assert found.value == 1.0
    assert disagreement(found) == pytest.approx(1 / 3)
    assert (await panel(1.0, 0.0).score(SAMPLE, answer(TRUE))).reason == "the judges are split evenly"
    assert (await panel(1.0, None, None).score(SAMPLE, answer(TRUE))).value is None
    assert panel(1.0, 0.0).id == "panel/j0+j1"


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("{name: m, judge: j, by: ragas/madeup}", "ragas/answer_relevancy"),
        ("{name: m, check: length, by: ragas/faithfulness}", "it needs judge"),
        ("{name: m, panel: [other, j]}", "judge 'other' is not one of"),
        ("{name: m, judge: j}", "needs a question"),
        ("{name: m, local: clairvoyance}", "'faithfulness'"),
    ],
)
def test_a_metric_that_cannot_be_built_is_named_when_the_suite_is_loaded(
    tmp_path: Path, metric: str, fault: str
) -> None:
    (tmp_path / "cases.jsonl").write_text(json.dumps({"id": "a", "messages": [{"role": "user", "content": "q"}], "expect": {"max_words": 5}}))  # fmt: skip
    (tmp_path / "suite.yaml").write_text(
        f'name: s\nversion: "1"\ndataset: cases.jsonl\ntargets: {{a: {{model: m}}, b: {{model: m}}}}\nmetrics: [{metric}]\n'
        'judges: {j: {model: m, version: "1"}}\nlimits: {promote_when: not_worse}\n'
    )
    with pytest.raises(SuiteError, match=fault):
        load_suite(tmp_path)
