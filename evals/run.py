"""One evaluation run, top to bottom: the file to read first.

Both settings answer the same samples in the same run and meet the same judges. Reads no environment and prints nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from evals.compare import look_order
from evals.digests import code_digest
from evals.drift import AnchorScores, score_anchors
from evals.errors import SuiteError, TargetError
from evals.evidence import Evidence, MetricPlan, case_of, merge
from evals.judges.build import build_judges, build_pairwise
from evals.judges.pairwise import PairwiseJudge
from evals.progress import Progress, say_nothing
from evals.suite import Suite
from evals.target import ChatClient, Price, Target
from evals.types import Answer, Judge, Sample, Score, Setting

Item = TypeVar("Item")
Result = TypeVar("Result")
Decided = Callable[[Evidence], bool]
LOOK = 10  # conversations between two looks of a sequential run


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is about. `shard` is (index, count), 0-based, or None for the whole."""

    suite: Suite
    candidate: Setting
    baseline: Setting
    shard: tuple[int, int] | None = None


class EvalRun:
    """`client` asks the targets and `judge_client` the judges; both may be one."""

    def __init__(
        self,
        client: ChatClient,
        judge_client: ChatClient,
        *,
        concurrency: int,
        progress: Progress | None = None,
        anchor_client: ChatClient | None = None,
    ) -> None:
        """`anchor_client` must not answer from an earlier run: a judge that is not asked cannot be seen to have changed."""
        self._client = client
        self._judge_client = judge_client
        self._anchor_client = anchor_client or judge_client
        self._concurrency = concurrency
        self._progress = progress or say_nothing

    async def gather(self, plan: Plan, decided: Decided | None = None) -> Evidence:
        """All answers and scores, undecided; of a sequential suite, as many as it takes until they are `decided`.

        Raises TargetError if one setting of a whole run gave no answer at all. The anchors of a run that is cut into shards are scored by the
        first shard alone.
        """
        judges = build_judges(plan.suite.model, self._judge_client)
        pairwise = build_pairwise(plan.suite.model, self._judge_client)
        anchors = await self.score_anchors(plan.suite) if plan.shard is None or plan.shard[0] == 0 else ()
        found: Evidence | None = None
        for samples in looks(self.load(plan), plan):
            evidence = await self._ask(samples, plan, judges, pairwise)
            evidence = replace(evidence, anchors=anchors, locked=plan.suite.locked)
            found = evidence if found is None else merge([found, evidence])
            if plan.suite.limits.sequential and decided is not None and decided(found):
                break
        assert found is not None, "a dataset has at least one case"  # noqa: S101
        return found

    async def _ask(
        self, samples: Sequence[Sample], plan: Plan, judges: dict[str, Judge], pairwise: dict[str, PairwiseJudge]
    ) -> Evidence:
        candidate, baseline = await self.generate(samples, plan)
        scores = await self.judge(samples, [*candidate, *baseline], judges)
        scores += await self.judge_pairs(samples, candidate, baseline, pairwise)
        return collect(plan, samples, {**judges, **pairwise}, [*candidate, *baseline], scores)

    async def score_anchors(self, suite: Suite) -> tuple[AnchorScores, ...]:
        """Empty where the suite has none."""
        judges = build_judges(suite.model, self._anchor_client) if suite.anchors else {}
        return await score_anchors(suite.anchors, judges, suite.limits.alpha, self._progress)

    def load(self, plan: Plan) -> tuple[Sample, ...]:
        if plan.candidate.name == plan.baseline.name:
            raise SuiteError("candidate and baseline are one target; to compare a model with itself give it two names")
        if plan.shard and plan.suite.limits.sequential:
            raise SuiteError("a sequential run looks at its cases in order and may stop: it cannot be cut into shards")
        dataset = plan.suite.dataset
        return (dataset.shard(*plan.shard) if plan.shard else dataset).samples

    async def generate(self, samples: Sequence[Sample], plan: Plan) -> tuple[list[Answer], list[Answer]]:
        """The candidate's and the baseline's answers, in the order of the samples. Both sides are asked a case one after the other, each of them first
        in half of the cases: a slow hour, a warm cache or a spent budget favours neither.
        """
        targets = [self._target(plan, setting) for setting in (plan.candidate, plan.baseline)]
        asked = [
            (targets[side], sample, repeat)
            for sample in samples
            for repeat in range(plan.suite.model.repeats)
            for side in ((0, 1) if int(sample.digest[-1], 16) % 2 else (1, 0))
        ]
        answers = await self._each("answers", asked, lambda one: one[0].answer(one[1], one[2]))
        candidate, baseline = ([a for a in answers if a.setting == target.setting.name] for target in targets)
        if plan.shard is None:
            require_answers(answers, plan.candidate.name)
            require_answers(answers, plan.baseline.name)
        return candidate, baseline

    def _target(self, plan: Plan, setting: Setting) -> Target:
        price = plan.suite.model.targets[setting.name].price
        return Target(setting, self._client, Price(price.prompt_usd, price.completion_usd))

    async def judge(self, samples: Sequence[Sample], answers: list[Answer], judges: dict[str, Judge]) -> list[Score]:
        """Both answers to a case one after the other: a judge that changes on the way does so for both sides."""
        by_id = {sample.id: sample for sample in samples}
        asked = [
            (judge, by_id[answer.sample_id], answer)
            for judge in judges.values()
            for answer in sorted(answers, key=lambda answer: (answer.sample_id, answer.repeat))
            if judge.applies(by_id[answer.sample_id])
        ]
        return await self._each("scores", asked, lambda one: one[0].score(one[1], one[2]))

    async def judge_pairs(
        self,
        samples: Sequence[Sample],
        candidate: Sequence[Answer],
        baseline: Sequence[Answer],
        judges: dict[str, PairwiseJudge],
    ) -> list[Score]:
        """Both answers of a case side by side; the order of both lists is the same, by generate."""
        by_id = {sample.id: sample for sample in samples}
        asked = [
            (judge, by_id[one.sample_id], one, other)
            for judge in judges.values()
            for one, other in zip(candidate, baseline, strict=True)
        ]
        found = await self._each("pairs", asked, lambda job: job[0].score_pair(*job[1:]))
        return [score for pair in found for score in pair]

    async def _each(self, stage: str, items: list[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
        """`work` over `items` by a fixed number of workers; results in the order of the items."""
        results: list[Result | None] = [None] * len(items)
        waiting = iter(enumerate(items))
        done = 0

        async def worker() -> None:
            nonlocal done
            for index, item in waiting:
                results[index] = await work(item)
                done += 1
                self._progress(stage, done, len(items), self._client.budget.cost_usd)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(items))):
                group.create_task(worker())
        return [result for result in results if result is not None]


def looks(samples: tuple[Sample, ...], plan: Plan) -> Iterator[tuple[Sample, ...]]:
    """All samples at once, or of a sequential suite the conversations in the order of the looks, LOOK at a time."""
    if not plan.suite.limits.sequential:
        yield samples
        return
    dataset = plan.suite.dataset.digest
    order = sorted({sample.conversation for sample in samples}, key=lambda name: look_order(dataset, name))
    for first in range(0, len(order), LOOK):
        mine = set(order[first : first + LOOK])
        yield tuple(sample for sample in samples if sample.conversation in mine)


def require_answers(answers: Sequence[Answer], setting: str) -> None:
    """Raises TargetError where a setting was asked and every answer is an error."""
    mine = [answer for answer in answers if answer.setting == setting]
    errors = [answer.error for answer in mine if answer.error is not None]
    if mine and len(errors) == len(mine):
        raise TargetError(f"target {setting!r} gave no answer at all; the first error was: {errors[0]}")


def collect(
    plan: Plan,
    samples: Sequence[Sample],
    judges: Mapping[str, Judge | PairwiseJudge],
    answers: Sequence[Answer],
    scores: Sequence[Score],
) -> Evidence:
    """The run as evidence; `judges` give each metric the identity of what scored it."""
    suite = plan.suite.model
    metrics = tuple(
        MetricPlan(
            metric.name,
            f"{judges[metric.name].id}@{judges[metric.name].version}",
            metric.check is not None,
            metric.decides,
            metric.primary,
            metric.margin,
            getattr(judges[metric.name], "prompt", None),
        )
        for metric in suite.metrics
    )
    cases = tuple(case_of(s, tuple(name for name, judge in judges.items() if judge.applies(s))) for s in samples)
    return Evidence(
        suite=suite.name,
        suite_version=suite.version,
        suite_digest=plan.suite.digest,
        dataset_digest=plan.suite.dataset.digest,
        code_digest=code_digest(Path(__file__).parent),
        candidate=plan.candidate,
        baseline=plan.baseline,
        repeats=suite.repeats,
        limits=plan.suite.limits,
        metrics=metrics,
        cases=cases,
        answers=tuple(answers),
        scores=tuple(scores),
        conversations=len({sample.conversation for sample in plan.suite.dataset.samples}),
    )
