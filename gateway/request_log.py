"""One JSON line on standard error for every request: written together, off the request's path.

A line built by structlog and written at once cost about 13 microseconds a request (by a profile, 2026-11); the lines look the same. Lines wait at most
50 ms and are written when the gateway closes; a killed process loses those that waited. Only the named fields are logged: no text, no key.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec

from gateway.types import Record

FLUSH_S = 0.05
MOST_WAITING = 1_000


class RequestLog:
    """Takes finished records. ``add`` never blocks for longer than standard error does; ``close`` writes what waits."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or sys.stderr.buffer
        self._encode = msgspec.json.Encoder().encode_into
        self._buffer = bytearray()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, record: Record) -> None:
        line = {
            "event": "request",
            "level": "info",
            "timestamp": datetime.fromtimestamp(record.ended_ns / 1e9, UTC),
            "request_id": record.request_id,
            "trace_id": record.trace_id.hex(),
            "endpoint": record.endpoint,
            "key_id": record.key_id,
            "model": record.route,
            "deployment": record.deployment,
            "status": record.status,
            "error": record.error_code or None,
            "attempts": record.attempts,
            "policy": record.policy_digest[:12] or None,
            "input_tokens": record.usage.prompt_tokens,
            "output_tokens": record.usage.completion_tokens,
            **_rails(record),
            "duration_ms": round((record.ended_ns - record.started_ns) / 1e6, 2),
        }
        self._encode(line, self._buffer, -1)
        self._buffer += b"\n"
        self._waiting += 1
        if self._waiting >= MOST_WAITING:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            lines, self._buffer, self._waiting = self._buffer, bytearray(), 0
            self._out.write(lines)
            self._out.flush()


def _rails(record: Record) -> dict[str, Any]:
    """Which rail blocked, and which did not run: what an auditor asks first. Nothing where there is nothing to say."""
    told: dict[str, Any] = {}
    for rail in record.rails:
        if rail.outcome == "block" and rail.enforced:
            told.setdefault("blocked_by", rail.rail)
        elif rail.outcome == "not_run":
            told.setdefault("not_run", []).append(rail.rail)
    return told
