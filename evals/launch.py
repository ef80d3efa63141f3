"""Puts a run on its feet: opens session and journals, gives the run real time and chance, writes what it found.

The only file that opens anything for a run, so it also closes it. Decides nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from evals.calibrate import load_labels
from evals.evidence import save_evidence
from evals.journal import Journal
from evals.render import to_junit, to_markdown
from evals.report import Report, save_report, sign
from evals.run import EvalRun, Plan, Progress
from evals.suite import find_suite, load_suite
from evals.target import Budget, ChatClient, Patience, open_session


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `cache` is kept for later runs; without it a complete run leaves no reply behind."""

    suite: str
    candidate: str
    baseline: str
    url: str
    judge_url: str
    out: Path
    labels: Path | None
    concurrency: int
    shard: tuple[int, int] | None
    cache: Path | None
    api_key: str | None = field(repr=False)
    signing_key: bytes | None = field(repr=False)


class Real:
    """The machine's own clock and chance."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def now_s(self) -> float:
        return time.monotonic()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def chance(self) -> float:
        return self._random.random()


def launch(options: Options, progress: Progress | None = None) -> Report:
    """The report of a complete run, also written to options.out. Raises EvalError where that cannot be."""
    return asyncio.run(_launch(options, progress))


async def _launch(options: Options, progress: Progress | None) -> Report:
    suite = load_suite(find_suite(options.suite))
    labels = load_labels(options.labels) if options.labels else None
    plan = Plan(suite, suite.setting(options.candidate), suite.setting(options.baseline), options.shard)
    budget = Budget(max_requests=suite.model.budget.max_requests, max_cost_usd=suite.model.budget.max_cost_usd)
    patience = Patience(deadline_s=suite.model.budget.deadline_s)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(options.concurrency))
        journal = Journal.open(options.cache or options.out / "journal.jsonl")
        stack.callback(journal.close)
        target, judges = (
            ChatClient(
                url, session, journal, Real(), key=options.api_key,
                concurrency=options.concurrency, patience=patience, budget=budget,
            )
            for url in (options.url, options.judge_url)
        )  # fmt: skip
        await target.check_reachable()
        report = await EvalRun(target, judges, concurrency=options.concurrency, progress=progress).run(plan, labels)
        report = sign(report, options.signing_key) if options.signing_key else report
        write_report(report, options.out)
        if options.cache is None:
            journal.delete()
    return report


def write_report(report: Report, folder: Path) -> None:
    """report.json, evidence.json (for `compare`), report.md and junit.xml."""
    folder.mkdir(parents=True, exist_ok=True)
    save_report(report, folder / "report.json")
    save_evidence(report.evidence, folder / "evidence.json")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "junit.xml").write_text(to_junit(report), encoding="utf-8")
