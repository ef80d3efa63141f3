"""An alarm ends in a new champion, or in reasons why not: drift, training, slices, shadow, promotion, and the service that follows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from serving.fraud.app import FraudApp
from serving.fraud.backfill import backfill
from serving.fraud.build import build_scorer
from serving.fraud.cli import app
from serving.fraud.cycle import REST_S, SHADOW_S, Cycle, read_look
from serving.fraud.dataset import InvalidData, Transactions
from serving.fraud.history import DAY_S
from serving.fraud.keeper import Keeper
from serving.fraud.logged import with_log
from serving.fraud.memory import MemoryStore
from serving.fraud.model import digest_of_folder
from serving.fraud.renew import Limits, Renewal
from serving.fraud.score import FraudScorer
from serving.fraud.settings import SHIPPED_MODEL, FraudSettings
from serving.fraud.simulate import START_S, World, simulate
from serving.fraud.train import Plan, train
from serving.fraud.types import Label, Transaction
from serving.fraud.versions import Versions
from tests.serving.test_fraud_renew import write_parquet

STARTED, TRAINED, CHANGED, LOOKED, END = 62, 62, 64, 94, 106  # days
PLAN = Plan(rounds=30)
LENIENT = Limits(most_loss=0.2, most_slice_loss=1.0, most_false_alarm_ratio=50.0)  # the worlds of these tests are small


@pytest.fixture(scope="module")
def table() -> Transactions:
    """A world in which everybody spends half as much again from day 64 on, and every second payment in the small hours is fraud."""
    world = simulate(5, World(customers=130, terminals=180, days=END, newcomers=0.0))
    after = (world.at_s - START_S) // DAY_S >= CHANGED
    stolen = after & (world.at_s % DAY_S < 6 * 3_600) & (world.transaction % 2 == 0)
    cents = np.where(after & (world.fraud == 0), world.cents * 3 // 2, world.cents)
    fraud = np.where(stolen, 1, world.fraud)
    return Transactions(world.transaction, world.customer, world.terminal, world.at_s, cents, fraud)


def part(table: Transactions, first: int, last: int) -> Transactions:
    day = (table.at_s - START_S) // DAY_S
    rows = (day >= first) & (day < last)
    return Transactions(*(getattr(table, name)[rows] for name in Transactions.__slots__))


@pytest.fixture(scope="module")
def first_model(table: Transactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "model"
    train(part(table, 0, TRAINED), PLAN, folder, "generated")
    return folder


class Life:
    """A service that lives through the table, from a store that knows what was before: each payment at its time, each label seven days after."""

    def __init__(self, table: Transactions, settings: FraudSettings) -> None:
        self.settings, self.store, self.now_s = settings, MemoryStore(), 0.0
        self._rows = zip(*(getattr(table, name).tolist() for name in Transactions.__slots__), strict=True)
        self._labels: list[tuple[float, Label]] = []

    def payments(self, until_day: int) -> Iterator[tuple[Transaction, Label]]:
        for number, customer, terminal, at_s, cents, fraud in self._rows:
            when = datetime.fromtimestamp(at_s, UTC).isoformat()
            body = {"transaction_id": str(number), "customer_id": str(customer), "terminal_id": str(terminal), "amount": str(cents / 100), "currency": "EUR", "timestamp": when}  # fmt: skip
            yield msgspec.convert(body, Transaction), Label(transaction_id=str(number), fraud=bool(fraud))
            if at_s >= START_S + until_day * DAY_S:
                return

    async def open(self) -> FraudScorer:
        return await build_scorer(self.settings, self.store, lambda: self.now_s)

    async def live(self, scorer: FraudScorer, until_day: int) -> None:
        for payment, label in self.payments(until_day):
            self.now_s = payment.at_s + 1.0
            await scorer.score(payment)
            self._labels.append((self.now_s + 7 * DAY_S, label))
            while self._labels[0][0] <= self.now_s:
                await scorer.label(self._labels.pop(0)[1])
        await scorer.settle()


async def begin(table: Transactions, last: int, folder: Path, first_model: Path) -> tuple[Life, FraudScorer]:
    """A service that starts on day 62 with the history before it in its store and in a folder."""
    before = part(table, 0, STARTED)
    write_parquet(before, folder / "history")
    life = Life(part(table, STARTED, last), settings_for(folder, first_model))
    await backfill(before, life.store, lambda done, total: None)
    return life, await life.open()


def settings_for(folder: Path, first_model: Path) -> FraudSettings:
    return FraudSettings(history_path=folder / "history", log_directory=folder / "log", log_sync="kernel", model_path=first_model, models_path=folder / "models", deadline_ms=60_000, drift_every_s=0)  # fmt: skip


async def test_an_alarm_trains_a_challenger_that_is_shadowed_promoted_and_followed(
    table: Transactions, first_model: Path, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, first_model)
    told: list[tuple[str, str]] = []

    def register(folder: Path, found: Renewal, alias: str) -> str:
        assert {"spending", "region"} == {one.name.partition(":")[0] for one in found.slices}
        told.append((folder.name, alias))
        return "registered"

    def promoted() -> str:
        told.append(("", "champion"))
        return "promoted, too"

    cycle = Cycle(settings, PLAN, LENIENT, register, promoted)
    life, scorer = await begin(table, END, tmp_path, first_model)
    keeper = Keeper(settings, scorer)
    await life.live(scorer, LOOKED)
    look = await asyncio.to_thread(cycle.look, life.now_s)
    assert ("covariates" in look.alarms, look.done, look.reasons) == (True, "trained", ("registered",))
    assert (look.champion, look.challenger, told) == ("v0001", "v0002", [("v0002", "challenger")])
    assert await keeper.follow()
    await life.live(scorer, END)
    gauges = {(one.name, *one.labels.values()): one.value for one in keeper.gauges()}
    assert gauges["callgate_fraud_drift_alarm", "covariates"] == 1
    assert gauges[("callgate_fraud_shadow_compared_total",)] > 1_000
    look = await asyncio.to_thread(cycle.look, life.now_s)
    assert (look.done, look.champion, look.challenger) == ("promoted", "v0002", None), look.reasons
    assert (told[-1], look.reasons[-1]) == (("", "champion"), "promoted, too")
    assert await keeper.follow()
    assert not await keeper.follow()
    assert scorer.rivals.champion.digest == digest_of_folder(tmp_path / "models" / "v0002")
    assert scorer.rivals.challenger is None
    assert keeper.failed == 0
    await scorer.aclose()
    again = await build_scorer(settings, MemoryStore(), lambda: life.now_s)  # a new process begins where it ended
    assert again.rivals.champion.digest == scorer.rivals.champion.digest
    await again.aclose()


async def test_a_challenger_that_fails_the_gate_is_refused_and_the_next_waits(
    table: Transactions, first_model: Path, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, first_model)
    life, scorer = await begin(table, LOOKED, tmp_path, first_model)
    await life.live(scorer, LOOKED)
    await scorer.aclose()
    cycle = Cycle(settings, Plan(rounds=2), Limits(least_auc=0.9999), lambda folder, found, alias: alias)
    look = cycle.look(life.now_s)
    assert (look.done, look.champion, look.challenger, look.reasons[-1]) == ("refused", "v0001", None, "refused")
    assert any("AUC" in reason for reason in look.reasons)
    assert cycle.look(life.now_s + REST_S - 1).done == "nothing"
    # one that does pass, but never has enough labels in the shadow, is let go in the end
    trained = Cycle(settings, PLAN, LENIENT).look(life.now_s + REST_S)
    assert trained.done == "trained"
    assert read_look(settings.log_directory) == trained
    assert cycle.look(life.now_s + REST_S + SHADOW_S - 1).done == "waiting"
    assert cycle.look(life.now_s + REST_S + SHADOW_S).done == "let go"
    state = Versions(tmp_path / "models").read()
    assert state is not None
    assert (state.champion, state.challenger) == ("v0001", None)


async def test_a_log_joins_an_older_history_with_each_payment_once(table: Transactions, tmp_path: Path) -> None:
    some = part(table, 0, 12)
    settings = FraudSettings(log_directory=tmp_path / "log", log_sync="kernel", drift_every_s=0, deadline_ms=60_000)
    life = Life(some, settings)
    scorer = await life.open()
    await life.live(scorer, 12)
    await scorer.aclose()
    alone = with_log(None, tmp_path / "log")
    old = alone.at_s < life.now_s - 7 * DAY_S
    assert old.all()
    assert alone.fraud.sum() > 0
    joined = with_log(part(table, 0, 3), tmp_path / "log")
    assert len(joined.at_s) == len(alone.at_s)
    assert joined.digest() == alone.digest()
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidData, match="no payment"):
        with_log(None, tmp_path / "none")


async def test_a_look_is_a_process_beside_the_service_and_its_figures_are_metrics(tmp_path: Path) -> None:
    from contextlib import asynccontextmanager

    from httpx import ASGITransport, AsyncClient

    @asynccontextmanager
    async def open_store():  # type: ignore[no-untyped-def]
        yield MemoryStore()

    settings = FraudSettings(log_directory=tmp_path / "log", log_sync="kernel", models_path=tmp_path / "models")
    service = FraudApp(settings, open_store, lambda: 1_790_000_000.0)
    async with service.running(), AsyncClient(transport=ASGITransport(service), base_url="http://x") as http:
        assert service._keeper is not None
        assert not await service._keeper.look()  # an empty log: too little to see, and no failure
        told = (await http.get("/metrics")).text
    assert 'callgate_fraud_decisions_total{decision="approve"} 0' in told
    assert "# TYPE callgate_fraud_waiting gauge" in told
    assert "callgate_fraud_looks_failed_total 0" in told
    assert digest_of_folder(tmp_path / "models" / "v0001") == digest_of_folder(SHIPPED_MODEL)


def test_the_command_looks_once_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    arguments = ["watch", "--log", str(tmp_path / "log"), "--models", str(tmp_path / "models")]
    looked = CliRunner().invoke(app, arguments)
    assert (looked.exit_code, "500 are needed" in looked.stderr) == (3, True)
