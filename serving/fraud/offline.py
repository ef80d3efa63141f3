"""Scoring and replaying without a service: from files, in memory.

Knows nothing of HTTP or Redis.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from serving.fraud.assess import decide
from serving.fraud.build import build_scorer
from serving.fraud.entries import Decided, decode_entry, unpack_features
from serving.fraud.features import feature_names
from serving.fraud.journal import read_journal
from serving.fraud.kept import Kept
from serving.fraud.memory import MemoryStore
from serving.fraud.settings import FraudSettings
from serving.fraud.types import Decision, InvalidTransaction, Transaction, parse_transaction


async def score_lines(lines: bytes, model: Path | None) -> list[Decision]:
    """Decisions for JSON lines, one transaction each, against what came before among them.

    Raises:
        InvalidTransaction: with the number of the line.
    """
    transactions: list[Transaction] = []
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            found = parse_transaction(line)
        except InvalidTransaction as error:
            raise InvalidTransaction(f"line {number}.{error.path}", error.message) from None
        transactions += found if isinstance(found, list) else [found]
    if not transactions:
        return []
    now_s = float(max(one.at_s for one in transactions))
    span_s = int(now_s) - min(one.at_s for one in transactions)
    with tempfile.TemporaryDirectory() as folder:
        settings = FraudSettings(log_directory=Path(folder), log_sync="kernel", oldest_s=span_s, deadline_ms=60_000)
        if model is not None:
            settings = settings.model_copy(update={"model_path": model})
        scorer = await build_scorer(settings, MemoryStore(), lambda: now_s)
        try:
            return [await scorer.score(one) for one in transactions]
        finally:
            await scorer.aclose()


def replay_log(log: Path, given: FraudSettings | None = None) -> dict[str, Any]:
    """Every decision of a log made again from its features by the model and policy that made it: how many were replayed, how many of
    them differ in any bit, and how many could not be, since their model or policy is neither kept beside the log nor `given`."""
    kept = Kept(log, given)
    counts = {"replayed": 0, "differing": 0, "degraded": 0, "not_kept": 0}
    for entry in _decided(log):
        before, again = entry.filed.decision, _again(entry, kept)
        counts["degraded"] += before.degraded
        if again is None:
            counts["not_kept"] += 1
        else:
            counts["replayed"] += 1
            counts["differing"] += msgspec.msgpack.encode(again) != msgspec.msgpack.encode(before)
    kept.close()
    return dict(counts)


def replay_one(log: Path, transaction_id: str, given: FraudSettings | None = None) -> dict[str, Any] | None:
    """One decision as logged and as made again, with its features by name; None if the log does not have it."""
    for entry in _decided(log):
        if entry.filed.decision.transaction_id == transaction_id:
            kept = Kept(log, given)
            again = _again(entry, kept)
            kept.close()
            before = entry.filed.decision
            return {
                "decision": before.to_dict(),
                "again": again.to_dict() if again else None,
                "identical": again is not None and msgspec.msgpack.encode(again) == msgspec.msgpack.encode(before),
                "features": dict(zip(feature_names(), unpack_features(entry.features), strict=False)),
            }
    return None


def _decided(log: Path) -> Iterator[Decided]:
    return (entry for data in read_journal(log) if isinstance(entry := decode_entry(data), Decided))


def _again(entry: Decided, kept: Kept) -> Decision | None:
    """The decision as its own model and policy make it; None if one of them is not there."""
    before = entry.filed.decision
    model, policy = kept.model(before.model), kept.policy(before.policy)
    if model is None or policy is None:
        return None
    if before.degraded:
        return msgspec.structs.replace(before, outcome=policy.degraded_outcome, probability=None, reasons=())
    row = unpack_features(entry.features)
    features = dict(zip(feature_names(), row, strict=True))
    return decide(
        model, policy, policy.policy_digest(), before.transaction_id, entry.cents, features, row, before.decided_s
    )
