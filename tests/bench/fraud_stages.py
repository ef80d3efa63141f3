"""Where the CPU of one score goes: each stage of the path called alone, over the records that the load has.

Of this process; Redis and the disk are real. What is left of a service's CPU a score is HTTP, the event loop and the kernel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from serving.fraud.assess import decide
from serving.fraud.entries import Decided, Filed, encode, pack_features
from serving.fraud.features import FEATURES_VERSION, ONE_EVENT, derive, feature_names, is_surprising
from serving.fraud.history import aggregate, aggregate_customer, pack_event
from serving.fraud.journal import Journal
from serving.fraud.model import load_model
from serving.fraud.settings import SHIPPED_MODEL, FraudSettings
from serving.fraud.store import open_redis
from serving.fraud.types import Transaction, parse_transaction
from tests.bench.fraud_load import payment

TIMES = 400


def stages(redis_url: str, folder: Path) -> dict[str, float | int | None]:
    return asyncio.run(_stages(redis_url, folder))


async def _stages(redis_url: str, folder: Path) -> dict[str, float | int | None]:
    settings = FraudSettings(log_directory=folder)
    model = load_model(SHIPPED_MODEL, feature_names(), FEATURES_VERSION)
    body = payment("stage", 1, "", 1).partition(b"\r\n\r\n")[2]
    one = parse_transaction(body)
    assert isinstance(one, Transaction)
    cents, at_s = one.cents(1_000_000), one.at_s
    event = pack_event(at_s, cents, one.transaction_id)
    async with open_redis(redis_url, settings) as store:
        seen = await store.observe("stage-0", one.customer_id, one.terminal_id, b"")
        sums = aggregate_customer(seen.customer, at_s), aggregate(seen.terminal, at_s)
        features = derive(ONE_EVENT, at_s, cents, *sums)
        row = list(features.values())
        decision = decide(model, settings, "p", one.transaction_id, cents, features, row, 0.0)
        filed = Filed(transaction=one, decision=decision, surprising=bool(is_surprising(features)))
        entry = encode(Decided(filed=filed, cents=cents, features=pack_features(row)))
        found = {
            "parse": _cpu_us(lambda: parse_transaction(body)),
            "windows": _cpu_us(lambda: (aggregate_customer(seen.customer, at_s), aggregate(seen.terminal, at_s))),
            "features": _cpu_us(lambda: derive(ONE_EVENT, at_s, cents, *sums)),
            "model_decision": _cpu_us(lambda: decide(model, settings, "p", "t", cents, features, row, 0.0)),
            "encode": _cpu_us(lambda: encode(Decided(filed=filed, cents=cents, features=pack_features(row)))),
            "answer": _cpu_us(decision.to_dict),
            "redis": await _cpu_of(lambda: store.observe("stage-0", one.customer_id, one.terminal_id, event)),
        }
    for name, sync in (("log_disk", True), ("log_kernel", False)):
        journal = Journal(folder / name, sync, time.time)
        found[name] = await _cpu_of(lambda journal=journal: journal.append(entry))  # type: ignore[misc]
        await journal.aclose()
    model.close()
    return {f"stage.{name}_us": value for name, value in found.items()}


def _cpu_us(work: Callable[[], object]) -> float:
    before = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - before) / TIMES * 1e6


async def _cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    before = time.process_time()
    for _ in range(TIMES):
        await work()
    return (time.process_time() - before) / TIMES * 1e6
