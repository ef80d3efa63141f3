"""Scoring and replaying without a service: from files, in memory.

Knows nothing of HTTP or Redis.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from serving.fraud.assess import decide
from serving.fraud.build import build_scorer
from serving.fraud.entries import Decided, decode_entry, unpack_features
from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.journal import read_journal
from serving.fraud.memory import MemoryStore
from serving.fraud.model import load_model
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


def replay_log(log: Path, settings: FraudSettings) -> dict[str, Any]:
    """Every decision of a log made again: how many were replayed, differ, or belong to another model or policy."""
    names = feature_names()
    model = load_model(settings.model_path, names, FEATURES_VERSION)
    policy, counts = settings.policy_digest(), {"replayed": 0, "differing": 0, "degraded": 0, "other_version": 0}
    for data in read_journal(log):
        entry = decode_entry(data)
        if not isinstance(entry, Decided):
            continue
        before = entry.filed.decision
        if before.degraded:
            counts["degraded"] += 1
        elif (before.model, before.policy) != (model.digest, policy):
            counts["other_version"] += 1
        else:
            row = unpack_features(entry.features)
            features = dict(zip(names, row, strict=True))
            again = decide(model, settings, policy, before.transaction_id, entry.cents, features, row, before.decided_s)
            counts["replayed"] += 1
            counts["differing"] += msgspec.msgpack.encode(again) != msgspec.msgpack.encode(before)
    model.close()
    return {"model": model.digest, "policy": policy, **counts}
