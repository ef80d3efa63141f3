"""Recordings: sealed, bound to what they say beside, sampled but for blocked and canary traffic, and gone when retention says so."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from gateway.recorder import Recorder, Recordings
from gateway.sealing import LostKey, Sealer, SealError
from gateway.sql import Database, DatabaseError
from gateway.types import Record, Recording

DAY = 86_400.0
NOW = 1_800_000_000.0


def key(name: str, byte: int) -> str:
    return f"{name}:{base64.b64encode(bytes([byte]) * 32).decode()}"


def record(number: int, decision: str = "allow", **more: Any) -> Record:
    recording = Recording(0.25, conversation=[{"role": "user", "content": f"my card [CREDIT_CARD_1] {number}"}])
    recording.rulings.append({"stage": "input", "channel": "", "decision": decision, "verdicts": []})
    made = Record(f"r{number}", b"t", b"s", b"", int(NOW * 1e9), "chat", policy="p", policy_digest="d" * 64, **more)
    made.recording = recording
    return made


def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/policies.db")


def recorder(
    store: Database, sealer: Sealer, draws: list[float], now: float = NOW, **more: Any
) -> tuple[Recorder, list[str]]:
    lost: list[str] = []
    numbers = iter(draws)
    settings: dict[str, Any] = {"engine": "e", "retention_s": 30 * DAY, "queue_size": 100, "flush_s": 0.01}
    made = Recorder(
        store,
        sealer,
        draw=lambda: next(numbers),
        dropped=lambda reason, count: lost.extend([reason] * count),
        now=lambda: now,
        **(settings | more),
    )
    return made, lost


async def test_blocked_and_canary_are_always_kept_the_rest_by_share_with_its_weight(tmp_path: Path) -> None:
    store, sealer = database(tmp_path), Sealer([key("k1", 1)])
    made, lost = recorder(store, sealer, [0.1, 0.9])
    made.start()
    for one in (record(1), record(2), record(3, "block"), record(4, arm="canary")):
        made.submit(one)
    await made.aclose()
    kept = Recordings(store, sealer, 30 * DAY, lambda: NOW).of_version("p", "d" * 64, 100)
    assert {(r["request_id"], r["kept_for"], r["weight"]) for r in kept} == {
        ("r1", "sample", 4.0),
        ("r3", "blocked", 1.0),
        ("r4", "canary", 1.0),
    }
    assert lost == []
    written = [path.read_bytes() for path in tmp_path.iterdir()]  # noqa: ASYNC240 (a test may block)
    assert b"CREDIT_CARD" not in b"".join(written)


async def test_a_rotated_key_still_opens_and_a_lost_one_is_named(tmp_path: Path) -> None:
    store = database(tmp_path)
    for number, lines in enumerate([[key("old", 1)], [key("new", 2), key("old", 1)]]):
        made, _ = recorder(store, Sealer(lines), [0.0])
        made.start()
        made.submit(record(number))
        await made.aclose()
    both = Recordings(store, Sealer([key("new", 2), key("old", 1)]), 30 * DAY, lambda: NOW)
    assert len(both.of_version("p", "d" * 64, 10)) == 2
    with pytest.raises(LostKey, match="sealed with key 'old', and the keys given are new"):
        Recordings(store, Sealer([key("new", 2)]), 30 * DAY, lambda: NOW).of_version("p", "d" * 64, 10)


async def test_a_recording_that_was_moved_or_changed_does_not_open(tmp_path: Path) -> None:
    store, sealer = database(tmp_path), Sealer([key("k1", 1)])
    made, _ = recorder(store, sealer, [0.0])
    made.start()
    made.submit(record(1))
    await made.aclose()
    row = store.recording("r1", 0)
    assert row is not None
    store.add_recordings([{name: value for name, value in row.items() if name != "id"} | {"request_id": "r2"}])
    with pytest.raises(SealError, match="was changed"):
        Recordings(store, sealer, 30 * DAY, lambda: NOW).of_request("r2")


async def test_retention_is_enforced_for_readers_at_once_and_in_the_table_by_the_writer(tmp_path: Path) -> None:
    store, sealer = database(tmp_path), Sealer([key("k1", 1)])
    made, _ = recorder(store, sealer, [0.0])
    made.start()
    made.submit(record(1))
    await made.aclose()
    later = NOW + 31 * DAY
    assert Recordings(store, sealer, 30 * DAY, lambda: later).of_request("r1") is None
    made, _ = recorder(store, sealer, [], now=later)
    made.start()
    await made.aclose()
    made._write([])
    assert store.recording("r1", 0) is None


async def test_a_full_queue_and_a_dead_database_are_counted_and_nothing_waits(tmp_path: Path) -> None:
    store, sealer = database(tmp_path), Sealer([key("k1", 1)])
    made, lost = recorder(store, sealer, [0.0, 0.0, 0.0], queue_size=2)
    for number in range(3):
        made.submit(record(number))
    assert lost == ["queue_full"]
    (tmp_path / "policies.db").unlink()
    store.close()
    (tmp_path / "policies.db").mkdir()
    made.start()
    await made.aclose()
    assert lost == ["queue_full", "not_written", "not_written"]
    with pytest.raises(DatabaseError, match="did not answer"):
        store.history("p")


async def test_what_cannot_be_encoded_is_counted_and_the_next_is_kept(tmp_path: Path) -> None:
    store, sealer = database(tmp_path), Sealer([key("k1", 1)])
    made, lost = recorder(store, sealer, [0.0, 0.0])
    broken = record(1)
    assert broken.recording is not None
    broken.recording.conversation.append({"role": "user", "content": "half a character: \ud83d"})
    made.start()
    made.submit(broken)
    async with asyncio.timeout(10):
        while not lost:  # noqa: ASYNC110 (nothing tells that a batch was given up)
            await asyncio.sleep(0)
    made.submit(record(2))
    await made.aclose()
    assert lost == ["not_written"]
    assert [r["request_id"] for r in Recordings(store, sealer, 30 * DAY, lambda: NOW).of_version("p", "d" * 64, 9)] == [
        "r2"
    ]


@pytest.mark.parametrize("lines", [[], ["k1"], ["k1:AAAA"], ["a b:" + "A" * 44], [key("k", 1), key("k", 2)]])
def test_what_is_no_key_is_refused_with_the_way_to_make_one(lines: list[str]) -> None:
    with pytest.raises(SealError, match=r"openssl|each its own id"):
        Sealer(lines)
