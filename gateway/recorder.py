"""Recordings of requests for replay: sampled, sealed, kept for as long as retention says, written off the request's path.

Blocked and canary traffic is always kept; the rest with the route's share, and its weight says for how many requests it stands. Fails open:
the queue is bounded, what does not fit or cannot be written is dropped and counted, and no request waits. It sees redacted text only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from gateway.sealing import Sealer, SealError
from gateway.sql import Database, DatabaseError
from gateway.types import Record

EMPTY: Mapping[str, Any] = {
    "redacted": {},
    "redacted_answer": {},
    "refused_redaction": "",
    "cache": "",
    "grounded": [],
    "passages": [],
    "channels": {},
    "ended": [],
    "calls": [],
    "answered": {},
    "risk": None,
    "rulings": [],
}
"""What a recording holds where nothing happened, and where it was written before there was such a field."""
BATCH = 256
SWEEP_S = 60.0


class Recorder:
    """A bounded queue of records and the task that seals and writes them. ``submit`` never blocks and never raises.

    ``draw`` gives numbers from 0 to 1; ``dropped`` hears how many were lost and why. ``now`` is UNIX time in seconds.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        engine: str,
        retention_s: float,
        queue_size: int,
        flush_s: float,
        draw: Callable[[], float],
        dropped: Callable[[str, int], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._engine = engine
        self._retention_s = retention_s
        self._queue: deque[tuple[Record, str, float]] = deque()
        self._queue_size = queue_size
        self._flush_s = flush_s
        self._draw = draw
        self._dropped = dropped
        self._now = now
        self._swept = float("-inf")
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("recorder")

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def submit(self, record: Record) -> None:
        """Takes a finished request, if it is to be kept."""
        recording = record.recording
        if recording is None or not (recording.rulings or recording.refused_redaction):
            return
        kept_for, weight = why_kept(record)
        if not kept_for:
            if self._draw() >= recording.share:
                return
            kept_for, weight = "sample", 1 / recording.share
        if len(self._queue) >= self._queue_size:
            self._dropped("queue_full", 1)
            return
        self._queue.append((record, kept_for, weight))
        if len(self._queue) >= BATCH:
            self._wake.set()

    async def aclose(self) -> None:
        """Writes what is queued."""
        if self._task is not None:
            self._closing = True
            self._wake.set()
            await self._task

    async def _run(self) -> None:
        while not (self._closing and not self._queue):
            if len(self._queue) < BATCH and not self._closing:
                try:
                    await asyncio.wait_for(self._wake.wait(), self._flush_s)
                except TimeoutError:
                    pass
            self._wake.clear()
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                await asyncio.to_thread(self._write, batch)
            except (DatabaseError, ValueError, TypeError) as error:  # the latter: what cannot be encoded
                reason = str(error) if isinstance(error, DatabaseError) else type(error).__name__
                self._dropped("not_written", len(batch))
                self._log.error("recordings_not_written", reason=reason, lost=len(batch))

    def _write(self, batch: list[tuple[Record, str, float]]) -> None:
        now = self._now()
        if now - self._swept >= SWEEP_S:
            self._swept = now
            self._database.delete_recordings(now - self._retention_s)
        if batch:
            self._database.add_recordings([self._row(*one) for one in batch])

    def _row(self, record: Record, kept_for: str, weight: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "request_id": record.request_id,
            "at": record.started_ns / 1e9,
            "policy": record.policy,
            "digest": record.policy_digest,
            "route": record.route,
            "kept_for": kept_for,
            "weight": weight,
            "key_id": self._sealer.current,
        }
        content = msgspec.json.encode(content_of(record, self._engine))
        return {**row, "sealed": self._sealer.seal(content, bound_to(row))}


def why_kept(record: Record) -> tuple[str, float]:
    """Why a request is kept whatever the share: blocked (also withheld in part), or canary. Empty: it may be sampled."""
    recording = record.recording
    if recording is None:
        return "", 0.0
    by_a_stage = recording.refused_redaction or any(ruling["decision"] == "block" for ruling in recording.rulings)
    if by_a_stage or any(rail.enforced and rail.outcome == "block" for rail in record.rails):
        return "blocked", 1.0
    if "canary" in record.arm:
        return "canary", 1.0
    return "", 0.0


def content_of(record: Record, engine: str) -> dict[str, Any]:
    """What is sealed of a request. Every text in it is redacted."""
    recording = record.recording
    if recording is None:
        raise ValueError("this request was not recorded")
    return {
        "engine": engine,
        "endpoint": record.endpoint,
        "stream": record.stream,
        "key_id": record.key_id,
        "intent": record.intent,
        "arm": record.arm,
        "deployment": record.deployment,
        "status": record.status,
        "error": record.error_code,
        "tokens": [record.usage.prompt_tokens, record.usage.completion_tokens],
        "redacted": dict(record.redacted),
        "redacted_answer": dict(record.redacted_answer),
        "refused_redaction": recording.refused_redaction,
        "conversation": recording.conversation,
        "grounded": recording.grounded if recording.grounded != recording.conversation else [],
        "cache": record.cache,
        "passages": recording.passages,
        "channels": recording.channels,
        "ended": sorted(recording.ended),
        "calls": recording.calls,
        "answered": recording.answered,
        "risk": recording.risk,
        "rulings": recording.rulings,
    }


def bound_to(row: Any) -> bytes:
    """What a seal is bound to: a row moved to another request, time, policy or weight does not open."""
    return msgspec.json.encode(
        [row[name] for name in ("request_id", "at", "policy", "digest", "route", "kept_for", "weight")]
    )


class Recordings:
    """Recordings, opened for replay. Blocking."""

    def __init__(
        self, database: Database, sealer: Sealer, retention_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._retention_s = retention_s
        self._now = now

    def _oldest(self) -> float:
        return self._now() - self._retention_s

    def of_version(self, policy: str, digest: str, most: int) -> list[dict[str, Any]]:
        """The newest recordings of a version. Raises: SealError, DatabaseError."""
        return [self._opened(row) for row in self._database.recordings(policy, digest, self._oldest(), most)]

    def of_request(self, request_id: str) -> dict[str, Any] | None:
        """Raises: SealError, DatabaseError."""
        row = self._database.recording(request_id, self._oldest())
        return self._opened(row) if row is not None else None

    def counts(self, policy: str) -> dict[str, int]:
        return self._database.count_recordings(policy, self._oldest())

    def _opened(self, row: Any) -> dict[str, Any]:
        try:
            opened = self._sealer.open(row["key_id"], row["sealed"], bound_to(row))
        except SealError as error:
            error.args = (f"the recording of request '{row['request_id']}': {error}",)
            raise
        content: dict[str, Any] = msgspec.json.decode(opened)
        beside = {name: row[name] for name in ("request_id", "at", "policy", "digest", "route", "kept_for", "weight")}
        return {**EMPTY, **content, **beside}
