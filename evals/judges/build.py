"""From the metrics of a suite to what scores them: the one place that knows every kind of judge."""

from __future__ import annotations

from evals.judges.by_deepeval import DeepEvalJudge
from evals.judges.by_ragas import RagasJudge
from evals.judges.checks import CHECKS, Check
from evals.judges.faithfulness import FaithfulnessHead, LocalFaithfulness
from evals.judges.model import ModelJudge
from evals.judges.pairwise import PairwiseJudge
from evals.judges.panel import Panel
from evals.judges.structured import NEEDS, Asking
from evals.suite import JudgeModel, MetricModel, SuiteModel
from evals.target import ChatClient, Price
from evals.types import Expectation, Judge, Message, Sample


def build_judges(suite: SuiteModel, client: ChatClient) -> dict[str, Judge]:
    """A judge for every metric that scores one reply, by the name of the metric, in the order of the suite."""
    return {metric.name: _judge(metric, suite, client) for metric in suite.metrics if metric.by != "pairwise"}


def build_pairwise(suite: SuiteModel, client: ChatClient) -> dict[str, PairwiseJudge]:
    """A judge for every metric that compares two replies."""
    found = {}
    for metric in suite.metrics:
        if metric.by == "pairwise" and metric.judge is not None:
            model = suite.judges[metric.judge]
            found[metric.name] = PairwiseJudge(
                metric.name, metric.judge, model.model, model.question or "", model.version, client, _parameters(model), _price(model)
            )  # fmt: skip
    return found


def applies_live(judge: str, *, passages: bool = True) -> bool:
    """Whether a judge of this id (that of a MetricPlan) can score a live call (one that retrieved `passages`), of which nobody wrote down what a good answer does."""
    kind, _, rest = judge.partition("@")[0].partition("/")
    name, _, most = rest.partition("/")
    live = Sample("live", "live", "live", (Message("user", "?"),), Expectation(contexts=("?",) * passages), "live")
    if kind == "check":
        return bool(most) or CHECKS[name].applies(live)
    if kind in ("ragas", "deepeval"):
        return all(getattr(live.expect, need) for need in NEEDS[f"{kind}/{name}"])
    return kind != "pairwise" and (kind != "local" or passages)


def _judge(metric: MetricModel, suite: SuiteModel, client: ChatClient) -> Judge:
    if metric.check is not None:
        return Check(metric.name, metric.check, metric.most)
    if metric.local is not None:
        return LocalFaithfulness(metric.name, FaithfulnessHead.load())
    if metric.panel is not None:
        return Panel(metric.name, tuple(_asked(metric.name, name, suite.judges[name], client) for name in metric.panel))
    name = metric.judge or ""
    vendor, _, kind = metric.by.partition("/")
    if not kind:
        return _asked(metric.name, name, suite.judges[name], client)
    model = suite.judges[name]
    asking = Asking(model.model, model.version, client, _parameters(model), _price(model), model.embedding_model)
    return RagasJudge(metric.name, kind, asking) if vendor == "ragas" else DeepEvalJudge(metric.name, kind, asking)


def _asked(metric: str, name: str, judge: JudgeModel, client: ChatClient) -> ModelJudge:
    return ModelJudge(
        metric, name, judge.model, judge.question or "", judge.version, client, _parameters(judge), _price(judge)
    )


def _parameters(judge: JudgeModel) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(judge.parameters.items()))


def _price(judge: JudgeModel) -> Price:
    return Price(judge.price.prompt_usd, judge.price.completion_usd)
