"""bench-eval: false promotions in simulation, and judged answers a minute beside plain Ragas and DeepEval on the same double of a judge.

Run `python -m tests.bench.bench_eval` from the root; QUICK=1 for a minute of it. CPU is that of this process, the double's is not in it.
`release.*` is a release on real parts (tests/bench/release.py). `cases_per_min` counts answers scored by one yes/no judge, journal, redaction and report included. A library that is not installed is null.
Ends with one line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals.launch import Options, launch
from evals.simulate import simulate
from evals.statistics.agreement import clopper_pearson
from evals.types import Verdict
from tests.bench.release import double, play, repeats, running
from tests.bench.release import write_suite as release_suite

QUICK = bool(os.environ.get("QUICK"))
RELEASES = 2000 if QUICK else 10_000
CASES = 60 if QUICK else 300
MANY = 1000 if QUICK else 10_000
DRAWS, REPEATS = (4, 12) if QUICK else (15, 200)
ALPHA, MARGIN = 0.05, 0.05
CONTEXT = "Roaming in Switzerland costs 4.90 euros a day. The charge starts with the first use."
ANSWER = "Roaming in Switzerland costs 4.90 euros a day. Elephants travel without paying taxes."
Figures = dict[str, float | int | None]


def main() -> int:
    """Exit code: 0 measured."""
    warnings.simplefilter("ignore")
    os.environ.update(RAGAS_DO_NOT_TRACK="true", DEEPEVAL_TELEMETRY_OPT_OUT="1", DEEPEVAL_DISABLE_DOTENV="1")
    figures: Figures = simulated()
    with double() as url, tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures |= judged("", url, place / "ours", "question")
        figures |= many(url, place / "many")
        figures |= released(place / "release")
        for library, plain in (("ragas", plain_ragas), ("deepeval", plain_deepeval)):
            if importlib.util.find_spec(library) is None:
                print(f"  {library}: not installed, not measured")
                figures |= dict.fromkeys(
                    (f"{library}.cases_per_min", f"{library}.cpu_ms", f"ours_{library}.cases_per_min")
                )
                continue
            measure(plain, url, 2)  # its imports are not counted
            figures |= dict(
                zip((f"{library}.cases_per_min", f"{library}.cpu_ms"), measure(plain, url, CASES), strict=True)
            )
            figures |= judged(f"ours_{library}.", url, place / library, f"{library}/faithfulness")
    for name, value in figures.items():
        print(f"  {name:34} {'-' if value is None else f'{value:,.4g}'}")
    print(json.dumps(figures))
    return 0


def simulated() -> Figures:
    started = time.perf_counter()
    tallies = list(simulate(RELEASES, margin=MARGIN, alpha=ALPHA, seed=17))
    figures: Figures = {
        "simulate.alpha": ALPHA,
        "simulate.releases": sum(t.releases for t in tallies if t.method == "ours"),
    }
    for key, method in (("", "ours"), ("_naive", "naive interval"), ("_naive_mean", "naive mean")):
        bad = [t for t in tallies if t.bad and t.method == method]
        promoted, releases = sum(round(t.promoted.estimate * t.releases) for t in bad), sum(t.releases for t in bad)
        bounds = clopper_pearson(promoted, releases, 0.025)
        figures |= {f"simulate.false_promotion{key}": bounds.estimate}
        if not key:
            figures |= {"simulate.false_promotion_lo": bounds.low, "simulate.false_promotion_hi": bounds.high}
            figures["simulate.false_promotion_worst"] = max(t.promoted.estimate for t in bad)
    better = [t for t in tallies if t.difference > 0 and t.method == "ours, sequential"]
    figures["simulate.calls_saved"] = 1 - sum(t.mean_share_used for t in better) / len(better)
    figures["simulate.power"] = min(t.promoted.estimate for t in tallies if t.difference > 0 and t.method == "ours")
    figures["simulate.s"] = time.perf_counter() - started
    return figures


def released(folder: Path) -> Figures:
    """The embedded model through the running gateway against itself, drawn anew: how often luck promotes it, and what does not hang on luck."""
    with running(folder, trackers=False) as parts:
        suite = release_suite(folder / "suite", DRAWS)
        luck = repeats(parts, suite, DRAWS, REPEATS)
        labels = suite / "labels.jsonl"
        degraded = play(parts, suite, "degraded", "good", labels).gate.verdict
        better = play(parts, suite, "good", "degraded", labels).gate.verdict
    return {
        "release.repeats": luck.verdicts.total(),
        "release.judge_calibrated": luck.calibrated,
        "release.promoted_by_luck": luck.promoted.estimate,
        "release.promoted_by_luck_lo": luck.promoted.low,
        "release.promoted_by_luck_hi": luck.promoted.high,
        "release.degraded_rejected": int(degraded is Verdict.REJECT),
        "release.better_promoted": int(better is Verdict.PROMOTE),
    }


def write_suite(folder: Path, cases: int, by: str, *, judged_too: bool = True) -> None:
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"id": f"c{n}", "messages": [{"role": "user", "content": f"{ANSWER} ({n})"}], "expect": {"contexts": [CONTEXT], "max_words": 99}})
        for n in range(cases)
    ]  # fmt: skip
    (folder / "cases.jsonl").write_text("\n".join(lines))
    metrics = [{"name": "judged", "judge": "j", "by": by, "decides": False}] if judged_too else []
    document = {
        "name": "bench", "version": "1", "dataset": "cases.jsonl",
        "targets": {"a": {"model": "m"}, "b": {"model": "n"}},
        "metrics": [*metrics, {"name": "brief", "check": "length"}],
        "judges": {"j": {"model": "m", "version": "1", "question": "Is the reply polite and to the point?"}},
        "limits": {"promote_when": "not_worse"},
    }  # fmt: skip
    (folder / "suite.yaml").write_text(json.dumps(document))


def options(folder: Path, url: str) -> Options:
    return Options(str(folder), "a", "b", url, url, folder / "out", None, 8, None, None, None, None)


def judged(prefix: str, url: str, folder: Path, by: str) -> Figures:
    """The whole run, less the same run without the judge: what judging costs, report and journal included."""
    write_suite(folder / "with", CASES, by)
    write_suite(folder / "without", CASES, by, judged_too=False)
    took: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for number in range(3):  # the first round warms up: imports are not judging
        for name, times in took.items():
            started, cpu = time.perf_counter(), time.process_time()
            launch(replace(options(folder / name, url), out=folder / name / f"out-{number}"))
            times.append((time.perf_counter() - started, time.process_time() - cpu))
    wall, cpu_s = (min(one[i] for one in took["with"][1:]) - min(one[i] for one in took["without"][1:]) for i in (0, 1))
    return {
        f"{prefix}cases_per_min": 2 * CASES / wall * 60 if wall > 0 else None,
        f"{prefix}cpu_ms": cpu_s / (2 * CASES) * 1000 if cpu_s > 0 else None,
    }


def many(url: str, folder: Path) -> Figures:
    """MANY cases, both sides, one check: what a large run takes in memory."""
    write_suite(folder, MANY, "question", judged_too=False)
    started = time.perf_counter()
    launch(options(folder, url))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"large.cases": MANY, "large.s": time.perf_counter() - started, "large.peak_mb": peak}


def measure(plain: Callable[[str, int], Awaitable[None]], url: str, cases: int) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    asyncio.run(plain(url, cases))  # type: ignore[arg-type]
    return cases / (time.perf_counter() - started) * 60, (time.process_time() - cpu) / cases * 1000


async def plain_ragas(url: str, cases: int) -> None:
    """As its documentation shows: AsyncOpenAI, llm_factory, ascore, eight at once."""
    from openai import AsyncOpenAI
    from ragas.llms import llm_factory
    from ragas.metrics.collections import Faithfulness

    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        metric = Faithfulness(llm=llm_factory("m", provider="openai", client=client))
        await _eight(cases, lambda: metric.ascore(user_input="What does roaming cost?", response=ANSWER, retrieved_contexts=[CONTEXT]))  # fmt: skip


async def plain_deepeval(url: str, cases: int) -> None:
    from deepeval.metrics import FaithfulnessMetric
    from deepeval.models import LocalModel
    from deepeval.test_case import LLMTestCase

    async def one() -> None:
        model = LocalModel(model="m", base_url=url, api_key="none")
        metric = FaithfulnessMetric(model=model, include_reason=False)
        case = LLMTestCase(input="What does roaming cost?", actual_output=ANSWER, retrieval_context=[CONTEXT])
        await metric.a_measure(case, _show_indicator=False)

    await _eight(cases, one)


async def _eight(cases: int, work: Callable[[], Awaitable[Any]]) -> None:
    slots = asyncio.Semaphore(8)

    async def one() -> None:
        async with slots:
            await work()

    await asyncio.gather(*(one() for _ in range(cases)))


if __name__ == "__main__":
    sys.exit(main())
