"""Replies already paid for, one JSON line each, so that a run that died goes on where it stopped.

A key is a digest of everything that was asked (address, version, request, repeat); one changed character is another
key. What is about to be asked is noted before it is, so that a request that was under way when its process died is counted as spent. Holds answers in clear, so the file is readable by its owner only. Not for two processes at once: a shard has its
own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from evals.errors import RecordError


class Journal:
    """Open with `Journal.open`, close with `close`. An append is one small write, well under a millisecond."""

    def __init__(
        self, path: Path, entries: dict[str, dict[str, Any]], descriptor: int, lost_usd: tuple[Decimal, ...] = ()
    ) -> None:
        """`lost_usd`: what each request of an earlier process cost that left no reply; of one that never ended, what it may have cost at most."""
        self.lost_usd = lost_usd
        self._path = path
        self._entries = {key: entry["reply"] for key, entry in entries.items()}
        self._descriptor = descriptor
        self._uncounted = {key: Decimal(entry.get("cost_usd", 0)) for key, entry in entries.items()}

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Reads what is there. A last line that a crash cut short is dropped; it is asked again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        entries: dict[str, dict[str, Any]] = {}
        begun: dict[str, Decimal] = {}
        lost: list[Decimal] = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                before = begun.pop(entry["key"], None)
                if "worst_usd" in entry:
                    lost += [] if before is None else [before]
                    begun[entry["key"]] = Decimal(entry["worst_usd"])
                elif entry["reply"] is not None:
                    entries[entry["key"]] = entry
                elif cost := Decimal(entry.get("cost_usd", 0)):
                    lost.append(cost)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise RecordError(f"{path}:{number}: not a journal line; delete the file to start anew") from error
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return cls(path, entries, descriptor, (*lost, *begun.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self._entries.get(key)

    def count_once(self, key: str) -> Decimal | None:
        """What a reply cost that was here when the journal was opened, the first time: an earlier, dead process paid for it."""
        return self._uncounted.pop(key, None)

    def begin(self, key: str, worst_usd: Decimal) -> None:
        """Before every attempt: what it may cost at most. Ended by `put`, or by `end` where there is no reply to keep."""
        self._write({"key": key, "worst_usd": str(worst_usd)})

    def put(self, key: str, reply: dict[str, Any], cost_usd: Decimal = Decimal(0)) -> None:
        self._entries[key] = reply
        self._write({"key": key, "reply": reply, "cost_usd": str(cost_usd)})

    def end(self, key: str, cost_usd: Decimal) -> None:
        self._write({"key": key, "reply": None, "cost_usd": str(cost_usd)})

    def _write(self, entry: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)

    def delete(self) -> None:
        """Forget all of it: a finished run is not quietly answered from the past when it is run again."""
        self._path.unlink(missing_ok=True)
