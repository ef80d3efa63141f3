"""A line for every request, whole JSON, with named fields only."""

from __future__ import annotations

import asyncio
import io
import json

from gateway.request_log import FLUSH_S, RequestLog
from gateway.types import RailResult, Record, Usage


def record(number: int) -> Record:
    return Record(
        request_id=f"r{number}",
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"",
        started_ns=1_000_000,
        ended_ns=3_500_000,
        endpoint="chat",
        status=200,
        usage=Usage(3, 4),
        input=[{"role": "user", "content": "words of a caller"}],
        output=["words of a model"],
    )


async def test_lines_wait_for_each_other_and_hold_no_text() -> None:
    out = io.BytesIO()
    log = RequestLog(out)
    for number in range(3):
        log.add(record(number))
    assert out.getvalue() == b""
    log.flush()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1", "r2"]
    assert lines[0]["duration_ms"] == 2.5
    assert lines[0]["timestamp"].startswith("1970-01-01T00:00:00.0035")
    assert "words" not in out.getvalue().decode()


async def test_a_line_is_written_soon_without_anybody_asking() -> None:
    out = io.BytesIO()
    log = RequestLog(out)
    written = asyncio.Event()
    log.add(record(1))
    asyncio.get_running_loop().call_later(FLUSH_S + 0.01, written.set)
    await written.wait()
    assert out.getvalue().count(b"\n") == 1


async def test_a_thousand_lines_do_not_wait() -> None:
    out = io.BytesIO()
    log = RequestLog(out)
    for number in range(1_000):
        log.add(record(number))
    assert out.getvalue().count(b"\n") == 1_000


async def test_a_line_says_which_rail_blocked_and_which_did_not_run() -> None:
    out = io.BytesIO()
    log = RequestLog(out)
    blocked = record(1)
    for rail, outcome, enforced in (
        ("a", "block", False),
        ("b", "block", True),
        ("c", "not_run", True),
        ("d", "pass", True),
    ):
        blocked.rails.append(RailResult(rail, "input", outcome, "", None, None, 0.0, enforced))
    log.add(blocked)
    log.add(record(2))
    log.flush()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (lines[0]["blocked_by"], lines[0]["not_run"]) == ("b", ["c"])
    assert not {"blocked_by", "not_run"} & set(lines[1])
