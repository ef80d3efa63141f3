"""Where the time of a request goes: `python -m tests.bench.gateway_profile passthrough|stream|full`, a table of microseconds by step.

The CPU of each thread is read from /proc under load. What the main thread did with its own is told by a sampling profiler (py-spy) under the
same load: each sample counts for the innermost function that belongs to a step of the table below. Other threads have one step each.
stream: the pass-through profile, by event of streams of 100. --against FOLDER: this version beside the one in that folder instead, both running,
loaded in turn for four seconds each with the same turns, so that other work on the machine meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from tests.bench.bench_gateway import MOCK, MOCK_PORT
from tests.bench.gateway_client import first_answer, saturate, stream
from tests.bench.processes import ROOT, TICKS, session

URL = "http://127.0.0.1:19130/v1/chat/completions"
CONNECTIONS = 8
LOOP, PERSONAL = "event loop and system calls", "finding personal data but names"
STEPS = {
    "HTTP towards callers": ("gateway/http_server.py", "uvicorn/"),
    "keys and limits": ("gateway/auth.py", "gateway/limits.py", "gateway/stores.py", "redis/"),
    "reading and checking the body": ("gateway/wire/parse.py", "gateway/wire/schemas.py"),
    "choosing a backend, its breaker": ("gateway/routing.py", "gateway/balance.py", "gateway/breaker.py", "gateway/fleet.py"),
    "HTTP towards backends": ("gateway/http_client.py", "gateway/upstream.py", "gateway/wire/sse.py"),
    "the answer's shape": ("gateway/wire/replies.py", "gateway/wire/texts.py"),
    PERSONAL: ("guardrails/redaction.py", "guardrails/changing.py", "guardrails/tokens.py", "phonenumbers/",
               *(f"guardrails/detectors/{name}" for name in ("names", "view", "spoken", "pattern", "checks", "merge", "numbers", "contacts", "asked"))),
    "what a model adds, and restoring": ("guardrails/added.py", "guardrails/restore.py", "gateway/steps/added.py", "gateway/steps/reply.py"),
    "rails": ("guardrails/", "gateway/steps/", "serving/embedding/"),
    "metrics": ("gateway/metrics.py", "gateway/tally.py", "prometheus_client/"),
    "traces": ("gateway/telemetry.py", "gateway/otlp.py"),
    "log lines": ("gateway/request_log.py", "structlog/"),
    "the road itself": ("gateway/pipeline.py", "gateway/asgi.py", "gateway/exchange.py", "gateway/app.py", "gateway/types.py"),
    LOOP: ("asyncio/", "uvloop/"),
}  # fmt: skip
MAIN = "MainThread"
THREADS = {
    "names": "finding names",
    "embedding": "sentence encoder",
}  # by how their names begin; the others are the event loop's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=["passthrough", "stream", "full"])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--against", type=Path, help="the folder of another version")
    parser.add_argument("--rounds", type=int, default=12, help="of a comparison")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    if chosen.against is not None:
        compare(chosen.profile, chosen.against.resolve(), chosen.rounds)
        return
    with session(MOCK):
        asyncio.run(first_answer(f"http://127.0.0.1:{MOCK_PORT}/v1/chat/completions", 10))
        command = [sys.executable, "-m", "tests.bench.serve", "full" if chosen.profile == "full" else "passthrough"]
        with session(command, before=lambda: os.sched_setaffinity(0, {0})) as pid:
            asyncio.run(first_answer(URL, 90))
            load(chosen.profile, 2, seed=1)
            cpu_us = by_thread(pid, chosen.profile, chosen.seconds)
            stacks = sampled(pid, chosen.profile, chosen.seconds)
    show(chosen.profile, by_step(cpu_us, stacks))


def compare(profile: str, other: Path, rounds: int) -> None:
    folders = {URL: ROOT, URL.replace(":19130", ":19230"): other}
    served = "full" if profile == "full" else "passthrough"
    with session(MOCK), ExitStack() as stack:
        asyncio.run(first_answer(f"http://127.0.0.1:{MOCK_PORT}/v1/chat/completions", 20))
        pids = {}
        for url, folder in folders.items():
            command = [sys.executable, "-m", "tests.bench.serve", served, "--port", str(urlsplit(url).port)]
            path = {"PYTHONPATH": str(folder)}
            pids[url] = stack.enter_context(session(command, path, lambda: os.sched_setaffinity(0, {0}), folder))
        for url in folders:
            asyncio.run(first_answer(url, 150))
            load(profile, 2, 1, url)
        spent: dict[str, list[float]] = {url: [] for url in folders}
        for turn in range(rounds):
            for url in list(folders)[:: 1 if turn % 2 else -1]:  # neither is always the first
                spent[url].append(sum(by_thread(pids[url], profile, 4, 100 + turn, url).values()))
    ours, theirs = spent.values()
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{profile}: {statistics.median(ours):,.0f} µs here, {statistics.median(theirs):,.0f} there; {ratio:.2f} times, median of {rounds} pairs"
    )


def load(profile: str, seconds: int, seed: int, url: str = URL) -> int:
    """How many answers, or events of streams, there were."""
    if profile == "stream":
        return asyncio.run(stream(url, seconds))  # one stream takes about a second
    return asyncio.run(saturate(url, seconds, CONNECTIONS, fresh=profile == "full", seed=seed))


def by_thread(pid: int, profile: str, seconds: int, seed: int = 2, url: str = URL) -> dict[int, float]:
    """Microseconds of CPU a request or event, by the system's number of the thread."""
    before = thread_cpu_s(pid)
    count = load(profile, seconds, seed, url)
    return {thread: (spent - before.get(thread, 0.0)) / count * 1e6 for thread, spent in thread_cpu_s(pid).items()}


def thread_cpu_s(pid: int) -> dict[int, float]:
    """User and system seconds of each thread of a process so far."""
    spent: dict[int, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        spent[int(task.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def sampled(pid: int, profile: str, seconds: int) -> list[str]:
    """What py-spy saw under load: lines such as ``thread (77): name;outer (path:line);inner (path:line) 12``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--duration", str(seconds)]
        spy += ["--rate", "250", "--threads", "--format", "raw", "--full-filenames", "--output", str(out)]
        sampling = subprocess.Popen(spy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        load(profile, seconds + 1, seed=3)
        if sampling.wait(60):
            sys.exit("py-spy could not look at the gateway: it needs the right to trace (root, or ptrace_scope 0)")
        return out.read_text().splitlines()


def by_step(cpu_us: Mapping[int, float], stacks: Iterable[str]) -> dict[str, float]:
    """Microseconds by step."""
    names: dict[int, str] = {}
    samples: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        number, _, name = thread.removeprefix("thread (").partition("): ")
        names[int(number)] = name
        if name == MAIN:
            samples[step_of(frames)] += int(count)
    told: dict[str, float] = dict.fromkeys(samples, 0.0)
    for thread_number, spent_us in cpu_us.items():
        name = names.get(thread_number, "")
        if name == MAIN:
            shares = {step: count / samples.total() for step, count in samples.items()}
        else:
            shares = {next((step for start, step in THREADS.items() if name.startswith(start)), LOOP): 1.0}
        for step, share in shares.items():
            told[step] = told.get(step, 0.0) + share * spent_us
    return told


def step_of(frames: list[str]) -> str:
    for frame in reversed(frames):
        for step, places in STEPS.items():
            if any(place in frame for place in places):
                return step
    return "everything else"


def show(profile: str, told: Mapping[str, float]) -> None:
    total = sum(told.values())
    what = "an event" if profile == "stream" else "a request"
    table = Table("step", f"µs {what}", "share", title=f"{profile}: {total:,.0f} µs of CPU {what}")
    for step, spent_us in sorted(told.items(), key=lambda each: -each[1]):
        table.add_row(step, f"{spent_us:,.0f}", f"{spent_us / total:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
