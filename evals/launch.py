"""Puts a run on its feet: opens session and journals, gives the run real time and chance, writes what it found.

The only file that opens anything for a run, so it also closes it. Decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from evals.calibrate import load_labels
from evals.drift import AnchorScores, save_lock
from evals.errors import SuiteError
from evals.evidence import Evidence, save_evidence
from evals.html import to_html
from evals.journal import Journal
from evals.phoenix import Phoenix, choose, needed
from evals.render import to_junit, to_markdown
from evals.report import Report, build_report, save_report, sign
from evals.run import EvalRun, Plan, Progress, require_answers
from evals.suite import find_suite, load_suite, lock_path
from evals.target import Budget, ChatClient, Patience, open_session
from evals.tracking import Trackers
from evals.tracking import record as tell


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


def gather(options: Options, progress: Progress | None = None) -> Evidence:
    """What a run or its shard found, undecided; its replies are kept, so that it can be asked for again unpaid."""

    async def run() -> Evidence:
        async with _opened(options, progress) as (run, plan, _):
            return await run.gather(plan)

    return asyncio.run(run())


def conclude(evidence: Evidence, options: Options) -> Report:
    """The report of gathered evidence, signed where there is a key and written to options.out."""
    for setting in (evidence.candidate, evidence.baseline):
        require_answers(evidence.answers, setting.name)
    report = build_report(evidence, load_labels(options.labels) if options.labels else None)
    report = sign(report, options.signing_key) if options.signing_key else report
    write_report(report, options.out)
    return report


async def _launch(options: Options, progress: Progress | None) -> Report:
    if options.labels:
        load_labels(options.labels)  # a fault in them is named before anything is paid for
    async with _opened(options, progress) as (run, plan, journal):
        report = conclude(await run.gather(plan), options)
        if options.cache is None:
            journal.delete()
    return report


@asynccontextmanager
async def _opened(options: Options, progress: Progress | None) -> AsyncIterator[tuple[EvalRun, Plan, Journal]]:
    suite = load_suite(find_suite(options.suite))
    plan = Plan(suite, suite.setting(options.candidate), suite.setting(options.baseline), options.shard)
    budget = Budget(max_requests=suite.model.budget.max_requests, max_cost_usd=suite.model.budget.max_cost_usd)
    budget = budget.share(options.shard[1]) if options.shard else budget
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
        fresh = Journal.open(options.out / "anchors-journal.jsonl")
        stack.callback(fresh.close)
        stack.callback(fresh.delete)
        anchors = ChatClient(
            options.judge_url, session, fresh, Real(), key=options.api_key,
            concurrency=options.concurrency, patience=patience, budget=budget,
        )  # fmt: skip
        run = EvalRun(target, judges, concurrency=options.concurrency, progress=progress, anchor_client=anchors)
        yield run, plan, journal


def lock(suite: str, judge_url: str, out: Path, api_key: str | None) -> tuple[AnchorScores, ...]:
    """Score the anchors of a suite and write its lock. Raises EvalError, also for a suite without anchors."""
    return asyncio.run(_lock(suite, judge_url, out, api_key))


async def _lock(name: str, judge_url: str, out: Path, api_key: str | None) -> tuple[AnchorScores, ...]:
    folder = find_suite(name)
    suite = load_suite(folder)
    if suite.model.anchors is None:
        raise SuiteError(f"{folder}: the suite names no anchors: a JSONL file of answers that people have labelled")
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(4))
        journal = Journal.open(out / "anchors-journal.jsonl")
        stack.callback(journal.close)
        stack.callback(journal.delete)
        client = ChatClient(judge_url, session, journal, Real(), key=api_key)
        await client.check_reachable()
        scores = await EvalRun(client, client, concurrency=4).score_anchors(suite)
    save_lock(scores, lock_path(folder, suite.model.anchors))
    return scores


def record(report: Report, suite: str, out: Path, trackers: Trackers, phoenix_url: str | None) -> Iterator[str]:
    """One line a tracker. Never raises for a tracker's fault."""
    yield from tell(report, out, trackers)
    if phoenix_url is not None:
        try:
            yield f"phoenix: {Phoenix(phoenix_url).record(report, _questions(suite), datetime.now(UTC))}"
        except Exception as error:  # noqa: BLE001 - telemetry fails open, whatever a vendor raises
            yield f"phoenix: not recorded ({type(error).__name__}); the report itself is complete"


def ask_for_labels(report: Report, suite: str, phoenix_url: str) -> Iterator[str]:
    """Queue what would decide, a line a metric."""
    phoenix, asked = Phoenix(phoenix_url), dict(needed(report))
    for metric, labels in asked.items():
        wanted = choose(report, metric, labels)
        yield f"{metric}: {phoenix.queue(report, wanted, _questions(suite), datetime.now(UTC))}; label them pass or fail"
    if not asked:
        yield "no label is needed: no judge of this report waits for one"


def read_labels(report: Report, phoenix_url: str, path: Path) -> Iterator[str]:
    """The labels that people gave to the queued answers, as a file for --labels."""
    phoenix, lines = Phoenix(phoenix_url), []
    for metric, labels in needed(report):
        for (name, sample, setting, repeat), human in phoenix.labels(report, choose(report, metric, labels)).items():
            row = {"metric": name, "sample_id": sample, "setting": setting, "repeat": repeat, "human": human}
            lines.append(json.dumps(row))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    yield f"{len(lines)} labels in {path}"


def _questions(suite: str) -> dict[str, str]:
    return {sample.id: sample.caller_text for sample in load_suite(find_suite(suite)).dataset.samples}


def write_report(report: Report, folder: Path) -> None:
    """report.json, evidence.json (for `compare`), report.html, report.md and junit.xml."""
    folder.mkdir(parents=True, exist_ok=True)
    save_report(report, folder / "report.json")
    save_evidence(report.evidence, folder / "evidence.json")
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "junit.xml").write_text(to_junit(report), encoding="utf-8")
