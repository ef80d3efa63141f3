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
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.gateway_capacity import idle_streams, workers_ratio
from tests.bench.gateway_client import KEY, first_answer, latency, saturate, stream
from tests.bench.processes import cpu_s, rss_mb, session

MOCK_PORT = int(os.environ.get("MOCK_PORT", "19001"))
MOCK = [sys.executable, "-m", "tests.bench.gateway_load", "mock", str(MOCK_PORT), "100"]
QUICK = bool(os.environ.get("QUICK"))
PEERS = ("nginx", "pyraw", "tensorzero", "portkey", "litellm")


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
    with session(MOCK), tempfile.TemporaryDirectory() as folder:
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
    with session(one.command, before=lambda: os.sched_setaffinity(0, {0})) as pid:
        first_s = asyncio.run(first_answer(one.url, 90)) - begun
        asyncio.run(saturate(one.url, 1.0, 32))
        before = cpu_s(pid)
        answers = asyncio.run(saturate(one.url, seconds, 32))
        spent = cpu_s(pid) - before
        one.add(start_s=first_s, cpu_ms=spent / answers * 1000, rps=answers / seconds, rss_mb=rss_mb(pid))
        if guarded:
            before = cpu_s(pid)
            answers = asyncio.run(saturate(one.url, seconds, 32, fresh=True))
            one.add(fresh_cpu_ms=(cpu_s(pid) - before) / answers * 1000)
            return
        one.add(added_p50_ms=asyncio.run(latency(one.url, 2.0 if QUICK else 6.0)) - direct_p50_ms)
        before = cpu_s(pid)
        events = asyncio.run(stream(one.url, 3 if QUICK else 8))
        one.add(stream_us=(cpu_s(pid) - before) / events * 1e6)


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
