"""Continuous training: a challenger is judged whole and in slices, registered, run in the shadow, and promoted or not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from serving.fraud.build import build_scorer
from serving.fraud.cli import app
from serving.fraud.dataset import Transactions
from serving.fraud.features import feature_names
from serving.fraud.memory import MemoryStore
from serving.fraud.model import digest_of_folder
from serving.fraud.renew import Limits, Renewal, Slice, judged, renew
from serving.fraud.settings import SHIPPED_MODEL, FraudSettings
from serving.fraud.shadow import bucket_of, judge_shadow
from serving.fraud.simulate import World, simulate
from serving.fraud.tracking import CHALLENGER, CHAMPION, MODEL_NAME, Tracking
from serving.fraud.train import Plan
from serving.fraud.types import Label, Transaction
from tests.bench.fraud_http import free_port, running

NOW_S = 1_790_000_000


@pytest.fixture(scope="module")
def table() -> Transactions:
    return simulate(8, World(customers=250, terminals=350, days=60))


@pytest.fixture(scope="module")
def renewal(table: Transactions, tmp_path_factory: pytest.TempPathFactory) -> Renewal:
    return renew(table, SHIPPED_MODEL, tmp_path_factory.mktemp("models") / "next", Plan(rounds=40), "generated")


def write_parquet(table: Transactions, folder: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    columns = {
        "TRANSACTION_ID": table.transaction,
        "TX_DATETIME": table.at_s.astype("datetime64[s]"),
        "CUSTOMER_ID": table.customer,
        "TERMINAL_ID": table.terminal,
        "TX_AMOUNT": table.cents / 100,
        "TX_FRAUD": table.fraud,
    }
    folder.mkdir()
    write_table(pa.table(columns), folder / "fraud_tx_generated.parquet")


def payment(number: int, customer: int, amount: str) -> Transaction:
    fields = {"transaction_id": f"t-{number}", "customer_id": f"c-{customer}", "terminal_id": f"m-{number % 7}", "amount": amount, "currency": "EUR", "timestamp": datetime.fromtimestamp(NOW_S + number, UTC).isoformat()}  # fmt: skip
    return msgspec.convert(fields, Transaction)


def test_a_challenger_is_judged_by_slices_that_cover_everybody(renewal: Renewal) -> None:
    held = renewal.trained["held_out"]["rows"]
    by_kind: dict[str, int] = {}
    for one in renewal.slices:
        by_kind[one.name.partition(":")[0]] = by_kind.get(one.name.partition(":")[0], 0) + one.rows
    assert by_kind == {"spending": held, "region": held}
    assert 0.5 < renewal.ap <= 1.0
    assert renewal.gain_low <= renewal.gain <= renewal.gain_high
    assert not any(np.isnan(value) for value in renewal.metrics().values())


def test_a_challenger_of_shuffled_labels_is_refused_with_reasons(table: Transactions, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(table.fraud)
    half = table.day < int(table.day.max()) - 6  # what it learnt from is noise, what it is judged on is true
    noise = Transactions(table.transaction, table.customer, table.terminal, table.at_s, table.cents, np.where(half, shuffled, table.fraud))  # fmt: skip
    found = renew(noise, SHIPPED_MODEL, tmp_path / "noise", Plan(rounds=20), "generated")
    assert not found.passed
    assert any("champion" in reason for reason in found.reasons)


def test_a_slice_that_suffers_is_a_reason(renewal: Renewal) -> None:
    fair = Slice("region:1", 5_000, 50, 0.8, 0.8, 0.01, 0.7)
    unfair, worse = (
        Slice("spending:low", 5_000, 50, 0.8, 0.8, 0.05, 0.7),
        Slice("region:2", 900, 30, 0.5, 0.8, 0.01, 0.7),
    )
    whole = replace(renewal, false_alarm_rate=0.01, gain_low=0.0, auc=0.9)
    assert judged(replace(whole, slices=(fair,)), Limits()).passed
    reasons = judged(replace(whole, slices=(fair, unfair, worse)), Limits()).reasons
    assert [reason.partition(": ")[0] for reason in reasons] == ["spending:low", "region:2"]
    assert "5.00% false alarms" in reasons[0]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real tracking server with a registry, on SQLite."""
    port, folder = free_port(), tmp_path_factory.mktemp("mlflow")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(command, port, "/health", environment, 200):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_a_real_registry_knows_data_features_metrics_card_and_who_is_champion(
    table: Transactions, renewal: Renewal, tmp_path: Path, mlflow_server: str
) -> None:
    from mlflow import MlflowClient

    write_parquet(table, tmp_path / "data")
    arguments = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "first"), "--rounds", "10", "--tracking", mlflow_server, "--json"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, json.loads(done.stdout)["registry"]) == (0, "mlflow: version 1 is trained")
    tracking = Tracking(mlflow_server)
    told = tracking.tell(Path(renewal.folder), renewal.trained, feature_names(), renewal.metrics(), CHALLENGER)
    assert told == "mlflow: version 2 is challenger"
    assert (tracking.version_of(CHALLENGER), tracking.version_of(CHAMPION)) == ("2", None)
    client: Any = MlflowClient(mlflow_server, mlflow_server)
    for version, trained, ap in (("1", table.digest(), None), ("2", renewal.trained["data_sha256"], renewal.ap)):
        run = client.get_run(client.get_model_version(MODEL_NAME, version).run_id)
        assert run.info.status == "FINISHED"
        assert (run.data.params["data_sha256"], run.data.params["features"]) == (trained, str(len(feature_names())))
        assert run.data.metrics["ap" if ap else "average_precision"] == pytest.approx(ap or json.loads(done.stdout)["held_out"]["average_precision"])  # fmt: skip
        stored = {one.path for one in client.list_artifacts(run.info.run_id, "model")}
        assert {"model/model.txt", "model/model.json", "model/README.md", "model/reference.json"} <= stored
    fetched = Path(client.download_artifacts(run.info.run_id, "model", str(tmp_path)))
    assert digest_of_folder(fetched) == digest_of_folder(Path(renewal.folder))  # what was registered is what is served
    assert tracking.tell_promoted() == "mlflow: version 2 is champion"
    assert (tracking.version_of(CHALLENGER), tracking.version_of(CHAMPION)) == (None, "2")
    assert tracking.tell_promoted() == "mlflow: there is no challenger"


def test_a_registry_that_is_away_costs_a_line_and_no_training(renewal: Renewal) -> None:
    away = Tracking(f"http://127.0.0.1:{free_port()}")
    told = away.tell(Path(renewal.folder), renewal.trained, feature_names(), renewal.metrics(), CHALLENGER)
    assert told == "mlflow: not told (MlflowException); the model folder is complete"


def test_a_customer_keeps_its_model_and_shares_are_kept() -> None:
    buckets = [bucket_of(f"c-{number}") for number in range(20_000)]
    assert bucket_of("c-7") == buckets[7]
    assert sum(bucket < 1_000 for bucket in buckets) / 20_000 == pytest.approx(0.1, abs=0.01)


async def run_shadow(renewal: Renewal, log: Path, share: float) -> list[str]:
    """Two hundred payments, a fifth of them outlandish and labelled fraud; the digests that decided."""
    settings = FraudSettings(
        log_directory=log, log_sync="kernel", challenger_path=Path(renewal.folder), challenger_share=share
    )
    scorer = await build_scorer(settings, MemoryStore(), lambda: NOW_S + 300.0)
    digests = []
    for number in range(200):
        fraud = number % 5 == 4
        digests.append((await scorer.score(payment(number, number % 40, "2400.00" if fraud else "20.00"))).model)
        await scorer.label(Label(transaction_id=f"t-{number}", fraud=fraud))
    await scorer.aclose()
    assert scorer.rivals.compared == 200
    return digests


async def test_the_shadow_is_compared_after_the_answer_and_labels_decide(renewal: Renewal, tmp_path: Path) -> None:
    champion, challenger = digest_of_folder(SHIPPED_MODEL), digest_of_folder(Path(renewal.folder))
    assert set(await run_shadow(renewal, tmp_path / "dark", 0.0)) == {champion}
    verdict = judge_shadow(tmp_path / "dark", champion, challenger, most_disagreement=1.0)
    assert (verdict.rows, verdict.frauds, verdict.promote) == (200, 40, True)
    assert not judge_shadow(tmp_path / "dark", champion, challenger, least_frauds=41).promote
    split = await run_shadow(renewal, tmp_path / "split", 0.5)
    assert {champion, challenger} == set(split)
    by_customer = {number % 40: digest for number, digest in enumerate(split)}
    assert all(by_customer[number % 40] == digest for number, digest in enumerate(split))
    assert judge_shadow(tmp_path / "split", champion, challenger, most_disagreement=1.0).rows == 200


def test_the_commands_renew_and_promote(table: Transactions, renewal: Renewal, tmp_path: Path) -> None:
    write_parquet(table, tmp_path / "data")
    arguments = ["renew", "--data", str(tmp_path / "data"), "--champion", str(SHIPPED_MODEL), "--out", str(tmp_path / "next"), "--rounds", "20"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    told = json.loads(done.stdout)
    assert told["trained"]
    assert done.exit_code == (0 if told["passed"] else 1)
    (tmp_path / "log").mkdir()
    held = CliRunner().invoke(app, ["promote", "--log", str(tmp_path / "log"), "--champion", str(SHIPPED_MODEL), "--challenger", str(tmp_path / "next")])  # fmt: skip
    assert (held.exit_code, json.loads(held.stdout)["promote"]) == (1, False)
