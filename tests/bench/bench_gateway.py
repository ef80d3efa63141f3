"""`make bench-gateway`: CPU of the gateway by request and by stream event, beside peers in the same run.

Every gateway is a session of processes pinned to the first core; the mock upstream and the load are on the last. CPU is that of the whole session
from /proc; rounds are interleaved and the table shows medians. Peers: nginx when installed; pyraw (uvicorn, raw ASGI, aiohttp, no features);
others by environment, PEER_<NAME>='command' with PEER_<NAME>_URL, which must answer for the model "mock" from 127.0.0.1:$MOCK_PORT (19001).
What is missing is null.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.gateway_capacity import idle_streams, workers_ratio

ROOT = Path(__file__).parents[2]
MOCK_PORT = int(os.environ.get("MOCK_PORT", "19001"))
KEY = "sk-bench-4f1c9a7e2b8d4c63a5e0f7b1d2c3a4b5"
TICKS = os.sysconf("SC_CLK_TCK")
QUICK = bool(os.environ.get("QUICK"))
PEERS = ("nginx", "pyraw", "tensorzero", "portkey", "litellm")
PROMPT = "Summarise the following note for a colleague. " + "All work and no play makes Jack a dull boy. " * 21
EVENTS = 100
# Turns of about 300 characters, none of them sent twice: what a policy remembers of a message cannot help.
SENTENCES = (
    "I was charged twice for the same bill and nobody at the shop could tell me why that happened.",
    "My card was declined again at the supermarket although there should be enough money on the account.",
    "Could you please check whether the transfer that I made last week has arrived by now?",
    "The router keeps losing its connection every evening and the engineer has not called me back.",
    "I would like to move my contract to the new address before the end of the month if that is possible.",
    "Your colleague told me that the fee would be taken off, but it is still on this month's statement.",
    "Please tell me how long it usually takes until a new card arrives after the old one was reported lost.",
    "My name is Maria Gonzalez and I am calling because the direct debit was taken three days too early.",
    "I tried to reset the password twice, and each time the link in the message had already expired.",
    "We are going abroad in summer and I want to know what calls and payments will cost us over there.",
)


@dataclass
class Contestant:
    name: str
    command: list[str]
    url: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        values = self.figures.get(name)
        return round(statistics.median(values), 4) if values else None


def main() -> None:
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    rounds, seconds = (1, 3.0) if QUICK else (3, 8.0)
    with mock(), tempfile.TemporaryDirectory() as folder:
        everyone = list(contestants(Path(folder)))
        upstream = f"http://127.0.0.1:{MOCK_PORT}/v1/chat/completions"
        asyncio.run(first_answer(upstream, 10))
        direct = asyncio.run(latency(upstream, 2.0))
        for number in range(rounds):
            for one in everyone:
                print(f"round {number + 1}/{rounds}: {one.name}", file=sys.stderr, flush=True)
                measure(one, seconds, direct, guarded=one.name == "full")
    size = {"workers.ratio": workers_ratio(KEY, 2.0 if QUICK else 6.0), **idle_streams(KEY, 500 if QUICK else 5_000)}
    show(everyone, size)


def contestants(folder: Path) -> Iterator[Contestant]:
    serve = [sys.executable, "-m", "tests.bench.serve"]
    upstream = ["--upstream", f"http://127.0.0.1:{MOCK_PORT}/v1"]
    ours = "http://127.0.0.1:19130/v1/chat/completions"
    yield Contestant("passthrough", [*serve, "passthrough", *upstream], ours)
    yield Contestant("full", [*serve, "full", *upstream], ours)
    raw = [sys.executable, "-m", "tests.bench.gateway_load", "pyraw", "19140", str(MOCK_PORT)]
    yield Contestant("pyraw", raw, "http://127.0.0.1:19140/v1/chat/completions")
    if nginx := shutil.which("nginx"):
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log /dev/null; events {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; keepalive_requests 100000000; upstream u {{ server 127.0.0.1:{MOCK_PORT}; keepalive 64; keepalive_requests 100000000; }}\n"
            "server { listen 127.0.0.1:19150; location / { proxy_pass http://u; proxy_http_version 1.1;"
            ' proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        yield Contestant("nginx", [nginx, "-c", str(config)], "http://127.0.0.1:19150/v1/chat/completions")
    for name in PEERS:
        if command := os.environ.get(f"PEER_{name.upper()}"):
            yield Contestant(name, shlex.split(command), os.environ[f"PEER_{name.upper()}_URL"])


def measure(one: Contestant, seconds: float, direct_p50_ms: float, *, guarded: bool) -> None:
    begun = time.monotonic()
    process = subprocess.Popen(
        one.command,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),  # noqa: PLW1509 (no threads are running)
    )
    try:
        first_s = asyncio.run(first_answer(one.url, 90)) - begun
        session = process.pid
        asyncio.run(saturate(one.url, 1.0, 32))
        before = cpu_s(session)
        answers = asyncio.run(saturate(one.url, seconds, 32))
        spent = cpu_s(session) - before
        one.add(start_s=first_s, cpu_ms=spent / answers * 1000, rps=answers / seconds, rss_mb=rss_mb(session))
        if guarded:
            before = cpu_s(session)
            answers = asyncio.run(saturate(one.url, seconds, 32, fresh=True))
            one.add(fresh_cpu_ms=(cpu_s(session) - before) / answers * 1000)
            return
        one.add(added_p50_ms=asyncio.run(latency(one.url, 2.0 if QUICK else 6.0)) - direct_p50_ms)
        before = cpu_s(session)
        events = asyncio.run(stream(one.url, 3 if QUICK else 8))
        one.add(stream_us=(cpu_s(session) - before) / events * 1e6)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def session_pids(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    yield int(entry.name)


def cpu_s(session: int) -> float:
    """User and system seconds of all its processes so far."""
    total = 0
    for pid in session_pids(session):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_mb(session: int) -> float:
    pages = 0
    for pid in session_pids(session):
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- load


def request(url: str, *, streamed: bool = False, idle: bool = False, prompt: str = PROMPT) -> tuple[str, int, bytes]:
    """Host, port and the bytes of one request."""
    rest = url.removeprefix("http://")
    place, _, path = rest.partition("/")
    host, _, port = place.partition(":")
    said: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": prompt}], "stream": streamed}
    said |= {"idle": True} if idle else {}
    body = json.dumps(said).encode()
    head = (
        f"POST /{path} HTTP/1.1\r\nhost: {place}\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    )
    return host, int(port), head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def turn(rng: random.Random) -> str:
    """A caller's turn of about 300 characters that was not sent before."""
    return f"{' '.join(rng.sample(SENTENCES, 3))} It was {rng.randrange(10**6)} in {rng.randrange(10**4)}."


async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> int:
    """Asks once and reads the answer to its end: the number of events in it (0 for a whole answer). Raises: RuntimeError."""
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise RuntimeError(head[:200].decode("latin-1"))
    lower = head.lower()
    if b"content-length:" in lower:
        await reader.readexactly(int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        return 0
    events = 0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        events += (await reader.readexactly(size + 2)).count(b"data: ")
    await reader.readexactly(2)
    return events


async def first_answer(url: str, within_s: float) -> float:
    """When the first whole answer had come (monotonic seconds)."""
    host, port, sent = request(url)
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, port)
            await one_answer(reader, writer, sent)
            writer.close()
            return time.monotonic()
        await asyncio.sleep(0.02)
    raise TimeoutError(f"no answer from {url} within {within_s} s")


async def saturate(url: str, seconds: float, connections: int, *, fresh: bool = False) -> int:
    """A closed loop on so many connections: the number of answers. ``fresh``: every turn is a new one."""
    rng = random.Random(7)
    host, port, sent = request(url)
    until, answers = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection(host, port)
        while time.monotonic() < until:
            await one_answer(reader, writer, request(url, prompt=turn(rng))[2] if fresh else sent)
            answers += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return answers


async def latency(url: str, seconds: float, per_s: int = 50) -> float:
    """Median milliseconds at an open loop, from the moment that each request should have been sent."""
    host, port, sent = request(url)
    spare: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    took: list[float] = []

    async def one(due: float) -> None:
        reader, writer = spare.pop() if spare else await asyncio.open_connection(host, port)
        await one_answer(reader, writer, sent)
        took.append((time.monotonic() - due) * 1000)
        spare.append((reader, writer))

    begun = time.monotonic()
    tasks = []
    for number in range(int(seconds * per_s)):
        due = begun + number / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return statistics.median(took)


async def stream(url: str, each: int) -> int:
    """Sixteen connections with so many streams one after another: the number of events."""
    host, port, sent = request(url, streamed=True)

    async def one() -> int:
        reader, writer = await asyncio.open_connection(host, port)
        events = [await one_answer(reader, writer, sent) for _ in range(each)]
        writer.close()
        return sum(events)

    return sum(await asyncio.gather(*(one() for _ in range(16))))


@contextmanager
def mock() -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.gateway_load", "mock", str(MOCK_PORT), str(EVENTS)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def show(everyone: list[Contestant], size: Mapping[str, float | None]) -> None:
    table = Table(
        "gateway",
        "CPU ms a request",
        "of new turns",
        "requests/s",
        "added p50 ms",
        "CPU µs a stream event",
        "start s",
        "RSS MB",
    )
    names = ("cpu_ms", "fresh_cpu_ms", "rps", "added_p50_ms", "stream_us", "start_s", "rss_mb")
    for one in everyone:
        table.add_row(one.name, *("-" if (v := one.median(n)) is None else f"{v:.3g}" for n in names))
    Console().print(table)
    by_name = {one.name: one for one in everyone}
    ours, full = by_name["passthrough"], by_name["full"]
    figures: dict[str, float | None] = {
        "passthrough.cpu_ms": ours.median("cpu_ms"),
        "passthrough.rps": ours.median("rps"),
        "passthrough.added_p50_ms": ours.median("added_p50_ms"),
        "stream.cpu_us_per_event": ours.median("stream_us"),
        "full.cpu_ms": full.median("fresh_cpu_ms"),
        "full.repeated_cpu_ms": full.median("cpu_ms"),
        "start_s": ours.median("start_s"),
        "rss_mb": ours.median("rss_mb"),
    }
    for name in PEERS:
        peer = by_name.get(name)
        figures[f"{name}.cpu_ms"] = peer.median("cpu_ms") if peer else None
        figures[f"{name}.stream_cpu_us_per_event"] = peer.median("stream_us") if peer else None
    for name, value in size.items():
        print(f"{name:20} {value}")
    print(json.dumps({**figures, **size}))


if __name__ == "__main__":
    main()
