"""The fraud service under load while its Redis is killed and restored, labels flood in, and it is killed itself.

What is counted: decisions answered but not on record (lost), on record twice (duplicates), and scores that missed the store's deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serving.fraud.entries import Decided, decode_entry
from serving.fraud.journal import read_journal
from tests.bench.fraud_http import free_port
from tests.bench.fraud_load import Load, payment
from tests.conftest import redis_at

ROOT = Path(__file__).parents[2]


@contextmanager
def service_at(port: int, redis_port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "serving.fraud.app", "--redis", f"redis://127.0.0.1:{redis_port}/0", "--port", str(port), "--log", str(log)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


async def ready(port: int, waiting: int | None = None) -> None:
    """Until the service is up, and until no event waits for the store if `waiting` is 0."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health/ready") as answer:
                    state = await answer.json()
                    if answer.status == 200 and (waiting is None or state["waiting"] == waiting):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


def on_record(log: Path) -> Counter[str]:
    entries = (decode_entry(data) for data in read_journal(log))
    return Counter(one.filed.transaction.transaction_id for one in entries if isinstance(one, Decided))


async def flood(port: int, answered: dict[str, bytes]) -> int:
    """Labels of everything answered so far, a thousand a request; how many were taken."""
    taken = 0
    names = list(answered)
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(names), 1_000):
            labels = [{"transaction_id": name, "fraud": False} for name in names[start : start + 1_000]]
            async with session.post(f"http://127.0.0.1:{port}/v1/fraud/labels", json={"labels": labels}) as answer:
                assert answer.status == 200, await answer.text()
                taken += (await answer.json())["accepted"]
    return taken


async def stored(redis_port: int, kind: str, name: str) -> int:
    from redis.asyncio import Redis

    client: Any = Redis(port=redis_port)
    length = int(await client.strlen(f"fraud:{kind}:{name}"))
    await client.aclose()
    return length // 20


@pytest.mark.timeout(180)
async def test_nothing_answered_is_lost_or_decided_twice_whatever_is_killed(tmp_path: Path) -> None:
    log, redis_port, port = tmp_path / "log", free_port(), free_port()
    with service_at(port, redis_port, log) as first:
        await ready(port)
        load = Load(port, "", "chaos", keep_answers=True)
        with redis_at(redis_port, tmp_path):
            await load.at_rate(100, 1.0)
        # Redis is dead: every score is answered, degraded and set aside.
        before = load.result.degraded
        await load.at_rate(100, 1.0, first=1_000)
        assert load.result.degraded - before == 100
        with redis_at(redis_port, tmp_path):
            await ready(port, waiting=0)
            assert await stored(redis_port, "c", f"c{1_000 * 7_919 % 1_000}") == 1
            both = await asyncio.gather(load.at_rate(100, 1.0, first=2_000), flood(port, dict(load.result.answered)))
            assert both[1] >= 200
            # The service is killed in the middle of its work, and comes back.
            half = asyncio.create_task(load.at_rate(100, 1.0, first=3_000))
            while len(load.result.answered) < 320:  # noqa: ASYNC110 (a count, watched from beside)
                await asyncio.sleep(0.005)
            first.send_signal(signal.SIGKILL)
            await half
            with service_at(port, redis_port, log):
                await ready(port)
                recorded = on_record(log)
                lost = load.result.answered.keys() - recorded.keys()
                twice = {name for name, times in recorded.items() if times > 1}
                assert (lost, twice) == (set(), set())
                assert load.result.failed == 0
                assert load.result.lost > 0  # those that were under way: their callers know that they have no answer
                # who asks again about an answered payment hears the same decision, though Redis and service both died meanwhile
                async with aiohttp.ClientSession() as session:
                    for name in ("chaos-0", "chaos-1000", "chaos-2050"):
                        async with session.get(f"http://127.0.0.1:{port}/v1/fraud/decisions/{name}") as answer:
                            assert await answer.json() == json.loads(load.result.answered[name])
        load.close()


@pytest.mark.timeout(60)
async def test_clocks_ahead_within_the_tolerance_are_scored_and_beyond_it_refused(tmp_path: Path) -> None:
    redis_port, port = free_port(), free_port()
    with redis_at(redis_port, tmp_path), service_at(port, redis_port, tmp_path / "log"):
        await ready(port)
        async with aiohttp.ClientSession() as session:
            for ahead_s, status in ((30, 200), (120, 400)):
                body = json.loads(payment(f"skew{ahead_s}", 1, "", port).partition(b"\r\n\r\n")[2])
                body["timestamp"] = (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()
                async with session.post(f"http://127.0.0.1:{port}/v1/fraud/score", json=body) as answer:
                    assert answer.status == status
                    told = await answer.json()
            assert told["error"]["param"] == "timestamp"
    assert set(on_record(tmp_path / "log")) == {"skew30-1"}
