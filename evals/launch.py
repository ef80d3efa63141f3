"""Puts a run on its feet: opens session and journals, gives the run real time and chance, writes what it found.

The only file that opens anything for a run, so it also closes it. Decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from evals.attack import Flips, load_attacks, measure_flips
from evals.calibrate import Labels, answer_digest, load_labels, require_known
from evals.drift import AnchorScores, save_lock
from evals.errors import SuiteError
from evals.evidence import Evidence, out_of_budget, save_evidence
from evals.html import to_html
from evals.journal import Journal
from evals.judges.build import build_judges, build_pairwise
from evals.judges.personal_data import redact, without_secrets
from evals.online import JUDGE_CALL, OnlineJudge
from evals.phoenix import Phoenix, choose, needed
from evals.progress import Progress
from evals.render import to_junit, to_markdown
from evals.report import Report, build_report, save_report, sign
from evals.run import EvalRun, Plan, require_answers
from evals.suite import Suite, find_suite, load_suite, lock_path
from evals.target import Budget, ChatClient, Patience, open_session
from evals.tracking import Trackers
from evals.tracking import record as tell
from evals.types import Verdict


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
    sequential: bool = False
    judge_key: str | None = field(default=None, repr=False)

    def key_for_judges(self) -> str | None:
        """The key of the targets goes to the judges only where they are the same server: it is no business of anybody else's."""
        same = urlsplit(self.url)[:2] == urlsplit(self.judge_url)[:2]
        return self.judge_key or (self.api_key if same else None)


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
    write_report(report, options.out, _questions(options.suite))
    return report


def decide_now(evidence: Evidence, labels: Labels | None) -> Verdict:
    return build_report(evidence, labels).gate.verdict


async def _launch(options: Options, progress: Progress | None) -> Report:
    labels = load_labels(options.labels) if options.labels else None  # a fault is named before anything is paid for
    async with _opened(options, progress) as (run, plan, journal):
        require_known(labels or {}, [metric.name for metric in plan.suite.model.metrics])
        found = await run.gather(plan, lambda so_far: decide_now(so_far, labels) is not Verdict.INCONCLUSIVE)
        report = conclude(found, options)
        if options.cache is None and not out_of_budget(found):
            journal.delete()
    return report


@asynccontextmanager
async def _opened(options: Options, progress: Progress | None) -> AsyncIterator[tuple[EvalRun, Plan, Journal]]:
    suite = load_suite(find_suite(options.suite))
    suite = suite.looked_at_early() if options.sequential else suite
    plan = Plan(suite, suite.setting(options.candidate), suite.setting(options.baseline), options.shard)
    budget = Budget(max_requests=suite.model.budget.max_requests, max_cost_usd=suite.model.budget.max_cost_usd)
    budget = budget.share(options.shard[1]) if options.shard else budget
    patience = Patience(deadline_s=suite.model.budget.deadline_s)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(options.concurrency))
        journal = Journal.open(options.cache or options.out / "journal.jsonl")
        stack.callback(journal.close)
        for worst_usd in () if options.cache else journal.lost_usd:
            budget.count(worst_usd)
        target, judges = (
            ChatClient(
                url, session, journal, Real(), key=key,
                concurrency=options.concurrency, patience=patience, budget=budget,
                kept_for_later_runs=options.cache is not None, calls=calls,
            )
            for url, key, calls in (
                (options.url, options.api_key, None), (options.judge_url, options.key_for_judges(), JUDGE_CALL)
            )
        )  # fmt: skip
        await target.check_reachable()
        if suite.model.judges and options.judge_url != options.url:
            await judges.check_reachable("CALLGATE_JUDGE_KEY", "--judge-url")
        fresh = Journal.open(options.out / "anchors-journal.jsonl")
        stack.callback(fresh.close)
        stack.callback(fresh.delete)
        anchors = ChatClient(
            options.judge_url, session, fresh, Real(), key=options.key_for_judges(),
            concurrency=options.concurrency, patience=patience, budget=budget, calls=JUDGE_CALL,
        )  # fmt: skip
        run = EvalRun(target, judges, concurrency=options.concurrency, progress=progress, anchor_client=anchors)
        yield run, plan, journal


def lock(
    suite: str, judge_url: str, out: Path, api_key: str | None, progress: Progress | None = None
) -> tuple[AnchorScores, ...]:
    """Score the anchors of a suite and write its lock. Raises EvalError, also for a suite without anchors."""
    return asyncio.run(_lock(suite, judge_url, out, api_key, progress))


async def _lock(
    name: str, judge_url: str, out: Path, api_key: str | None, progress: Progress | None
) -> tuple[AnchorScores, ...]:
    folder = find_suite(name)
    suite = load_suite(folder)
    if suite.model.anchors is None:
        raise SuiteError(f"{folder}: the suite names no anchors: a JSONL file of answers that people have labelled")
    async with _judges_at(judge_url, suite, out / "anchors-journal.jsonl", api_key) as client:
        scores = await EvalRun(client, client, concurrency=4, progress=progress).score_anchors(suite)
    save_lock(scores, lock_path(folder, suite.model.anchors))
    return scores


def attack(
    suite: str, judge_url: str, out: Path, api_key: str | None, progress: Progress | None = None
) -> tuple[Flips, ...]:
    """What the attack set does to the judges of a suite. Raises EvalError, also for a suite in which no model judges."""
    return asyncio.run(_attack(load_suite(find_suite(suite)), judge_url, out, api_key, progress))


async def _attack(
    suite: Suite, judge_url: str, out: Path, api_key: str | None, progress: Progress | None
) -> tuple[Flips, ...]:
    async with _judges_at(judge_url, suite, out / "attack-journal.jsonl", api_key) as client:
        exact = {metric.name for metric in suite.model.metrics if metric.check is not None}
        judges = {name: one for name, one in build_judges(suite.model, client).items() if name not in exact}
        pairwise = build_pairwise(suite.model, client)
        if not judges and not pairwise:
            raise SuiteError(f"{suite.model.name}: no metric of the suite has a judge that could be talked over")
        return await measure_flips(judges, pairwise, load_attacks(), progress)


@dataclass(frozen=True, slots=True)
class Watching:
    """What of the live traffic is judged, and where. The budget of the suite is that of an hour; `passes` None: until it is stopped."""

    suite: str
    judge_url: str
    phoenix_url: str
    project: str
    share: float
    every_s: float
    since: timedelta
    passes: int | None
    out: Path
    api_key: str | None = field(repr=False)
    arm_shares: Mapping[str, float] = field(default_factory=dict)


def watch(watching: Watching, say: Callable[[str], None]) -> None:
    """Judge sampled live calls pass by pass, `say`ing a line each. A Phoenix that is away costs a line, never the watch."""
    asyncio.run(_watch(watching, say))


async def _watch(watching: Watching, say: Callable[[str], None]) -> None:
    suite, around, passes = load_suite(find_suite(watching.suite)), Real(), 0
    exact = {metric.name for metric in suite.model.metrics if metric.check is not None}
    since = datetime.now(UTC) - watching.since
    while watching.passes is None or passes < watching.passes:
        async with _judges_at(
            watching.judge_url, suite, watching.out / "online-journal.jsonl", watching.api_key
        ) as client:
            online = OnlineJudge(
                Phoenix(watching.phoenix_url), build_judges(suite.model, client), exact,
                project=watching.project, share=watching.share, arm_shares=watching.arm_shares,
            )  # fmt: skip
            end_s = around.now_s() + 3600  # then a new client, and with it a new budget
            while around.now_s() < end_s and (watching.passes is None or passes < watching.passes):
                if passes:
                    await around.pause(watching.every_s)
                passes, looked = passes + 1, datetime.now(UTC)
                try:
                    say(str(await online.look(since)))
                    since = looked
                except Exception as error:  # noqa: BLE001 - telemetry fails open, whatever a vendor raises
                    say(f"phoenix: not read ({type(error).__name__}); tried again in {watching.every_s:g} s")


@asynccontextmanager
async def _judges_at(url: str, suite: Suite, journal_at: Path, key: str | None) -> AsyncIterator[ChatClient]:
    """A client of the judges alone, under the budget of the suite; what they said is forgotten when all went well."""
    limits = suite.model.budget
    budget = Budget(max_requests=limits.max_requests, max_cost_usd=limits.max_cost_usd)
    patience = Patience(deadline_s=limits.deadline_s)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(4))
        journal = Journal.open(journal_at)
        stack.callback(journal.close)
        client = ChatClient(url, session, journal, Real(), key=key, patience=patience, budget=budget, calls=JUDGE_CALL)
        await client.check_reachable("CALLGATE_JUDGE_KEY or CALLGATE_API_KEY", "--judge-url")
        yield client
        journal.delete()


def record(report: Report, suite: str, out: Path, trackers: Trackers, phoenix_url: str | None) -> Iterator[str]:
    """One line a tracker. Never raises for a tracker's fault."""
    yield from tell(report, out, trackers)
    if phoenix_url is not None:
        try:
            shown, questions = _shareable(report, suite)
            yield f"phoenix: {Phoenix(phoenix_url).record(shown, questions, datetime.now(UTC))}"
        except Exception as error:  # noqa: BLE001 - telemetry fails open, whatever a vendor raises
            yield f"phoenix: not recorded ({type(error).__name__}); the report itself is complete"


def ask_for_labels(report: Report, suite: str, phoenix_url: str) -> Iterator[str]:
    """Queue what would decide, a line a metric."""
    phoenix, asked = Phoenix(phoenix_url), dict(needed(report))
    meant = _meant(suite)
    shown, questions = _shareable(report, suite)
    for metric, labels in asked.items():
        wanted = choose(report, metric, labels)
        queued = phoenix.queue(shown, wanted, questions, meant, datetime.now(UTC))
        yield f"{metric}: {queued}; label them pass or fail by: {meant.get(metric, metric)}"
    if not asked:
        yield "no label is needed: no judge of this report waits for one"


def write_queue(report: Report, suite: str, path: Path) -> Iterator[str]:
    """The same answers, as a file for people who have no Phoenix: `human` of each line is theirs to set, what is null counts as not labelled."""
    given = {(a.sample_id, a.setting, a.repeat): a for a in report.evidence.answers}
    safe, questions = _shareable(report, suite)
    answers = {(a.sample_id, a.setting, a.repeat): a for a in safe.evidence.answers}
    meant, rows = _meant(suite), []
    for metric, labels in needed(report):
        for one in choose(report, metric, labels):
            key = one.sample_id, one.setting, one.repeat
            answer = answers[key]
            shown = "(blocked by policy)" if answer.blocked else redact(answer.error or answer.text)
            rows.append(
                {
                    "question": redact(questions.get(one.sample_id, "")), "reply": shown, "asked": meant.get(metric, metric), "human": None, "metric": metric,
                    "sample_id": one.sample_id, "setting": one.setting, "repeat": one.repeat, "answer": answer_digest(given[key]),
                }
            )  # fmt: skip
    if not rows:
        yield "no label is needed: no judge of this report waits for one"
        return
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    yield f"{len(rows)} answers in {path}: set human to true or false in each line, then give the file to --labels"


def read_labels(report: Report, phoenix_url: str, path: Path) -> Iterator[str]:
    """The labels that people gave to the queued answers, as a file for --labels."""
    phoenix, lines = Phoenix(phoenix_url), []
    texts = {(a.sample_id, a.setting, a.repeat): answer_digest(a) for a in report.evidence.answers}
    for metric, labels in needed(report):
        for (name, sample, setting, repeat), human in phoenix.labels(report, choose(report, metric, labels)).items():
            row = {"metric": name, "sample_id": sample, "setting": setting, "repeat": repeat, "human": human}
            row["answer"] = texts[sample, setting, repeat]
            lines.append(json.dumps(row))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    yield f"{len(lines)} labels in {path}"


def _shareable(report: Report, suite: str) -> tuple[Report, dict[str, str]]:
    """The report and the questions for others to see: without what the cases call secret, names among it, which no pattern tells."""
    samples = {sample.id: sample for sample in load_suite(find_suite(suite)).dataset.samples}
    answers = tuple(
        replace(answer, text=without_secrets(answer.text, samples[answer.sample_id].expect.secrets))
        if answer.sample_id in samples
        else answer
        for answer in report.evidence.answers
    )
    return replace(report, evidence=replace(report.evidence, answers=answers)), _questions(suite)


def _questions(suite: str) -> dict[str, str]:
    samples = load_suite(find_suite(suite)).dataset.samples
    return {sample.id: without_secrets(sample.caller_text, sample.expect.secrets) for sample in samples}


def _meant(suite: str) -> dict[str, str]:
    """What a person is to say of a reply for each metric: the question of its judge, or the name that a library has for it."""
    model, found = load_suite(find_suite(suite)).model, {}
    for metric in model.metrics:
        judge = metric.judge or (metric.panel[0] if metric.panel else None)
        question = model.judges[judge].question if judge and metric.by in ("question", "pairwise") else None
        found[metric.name] = question or metric.local or metric.by
        if metric.by == "pairwise":
            found[metric.name] += " (of the two replies to one question the better one passes, the other fails)"
    return found


def write_report(report: Report, folder: Path, questions: Mapping[str, str] = MappingProxyType({})) -> None:
    """report.json, evidence.json (for `compare`), report.html (with the `questions` of the cases it shows), report.md and junit.xml."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (
        "report.json",
        "evidence.json",
        "report.html",
    ):  # they hold answers: for their owner, as the journal is
        (folder / file).touch(mode=0o600)
    save_report(report, folder / "report.json")
    save_evidence(report.evidence, folder / "evidence.json")
    (folder / "report.html").write_text(to_html(report, questions), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "junit.xml").write_text(to_junit(report), encoding="utf-8")
