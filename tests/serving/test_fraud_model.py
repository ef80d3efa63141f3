"""The model: exact scores, refused files, calibration, decisions in words, training and its commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving.fraud.cli import app
from serving.fraud.decide import apply_rules, cheapest, explain, story_of
from serving.fraud.evaluate import average_precision, roc_auc
from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.journal import Journal, JournalUnavailable, read_journal
from serving.fraud.model import Calibration, InvalidModel, fit_calibration, load_model
from serving.fraud.settings import SHIPPED_MODEL, Costs, Rule
from serving.fraud.simulate import World, simulate
from serving.fraud.train import Plan, features_of, train


def test_one_row_scores_the_same_bits_as_the_booster() -> None:
    import lightgbm

    values = features_of(simulate(11, World(customers=60, terminals=90, days=50))).values[-2_000:]
    model = load_model(SHIPPED_MODEL, feature_names(), FEATURES_VERSION)
    booster = lightgbm.Booster(model_file=str(SHIPPED_MODEL / "model.txt"))
    ours = np.array([model.margin(row) for row in values.tolist()])
    assert ours.tobytes() == booster.predict(values, raw_score=True, num_threads=1).tobytes()
    parts = np.array([model.contributions(row) for row in values[:50].tolist()])
    assert parts.tobytes() == np.ascontiguousarray(booster.predict(values[:50], pred_contrib=True)[:, :-1]).tobytes()
    model.close()


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED_MODEL, tmp_path / "model"))
    with (folder / "model.txt").open("a") as file:
        file.write(" ")
    with pytest.raises(InvalidModel, match="sha256 differs"):
        load_model(folder, feature_names(), FEATURES_VERSION)
    with pytest.raises(InvalidModel, match="other features"):
        load_model(SHIPPED_MODEL, feature_names()[1:], FEATURES_VERSION)
    with pytest.raises(InvalidModel, match="callgate fraud train"):
        load_model(tmp_path / "nothing", feature_names(), FEATURES_VERSION)


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 1)), min_size=1, max_size=200), st.floats(-20, 20))
def test_a_calibration_never_falls_and_stays_a_probability(rows: list[tuple[float, int]], margin: float) -> None:
    curve = fit_calibration([one for one, _ in rows], [label for _, label in rows], least=5)
    assert 0 < curve.probability(margin) < 1
    assert curve.probability(margin) <= curve.probability(margin + 0.5)


def test_a_calibration_recovers_the_chances_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(-2, 2, 40_000)
    chances = 1 / (1 + np.exp(-margins))
    curve: Calibration = fit_calibration(margins.tolist(), (rng.random(40_000) < chances).astype(int).tolist())
    for margin in (-4.0, -2.0, 0.0, 2.0):
        assert curve.probability(margin) == pytest.approx(1 / (1 + np.exp(-margin)), abs=0.05)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**8))
def test_a_higher_chance_is_never_decided_milder(one: float, other: float, cents: int) -> None:
    order = ["approve", "review", "decline"]
    low, high = sorted((one, other))
    assert order.index(cheapest(low, cents, Costs())) <= order.index(cheapest(high, cents, Costs()))


def test_rules_only_make_stricter_and_missing_features_hold_nothing() -> None:
    rule = Rule(name="many", feature="x", at_least=3, outcome="review", message="Many.")
    assert apply_rules("decline", {"x": 3.0}, [rule])[0] == "decline"
    assert apply_rules("approve", {"x": 3.0}, [rule])[0] == "review"
    assert apply_rules("approve", {"x": float("nan")}, [rule]) == ("approve", [])


def test_every_feature_belongs_to_a_story_and_reasons_are_the_strongest() -> None:
    names = feature_names()
    assert all(story_of(name) for name in names)
    parts = [{"terminal_unexplained_7": 2.0, "hour": 1.0, "customer_count_1": -1.0}.get(name, 0.0) for name in names]
    known = dict.fromkeys(names, 0.0) | {"terminal_fraud_30": 2.0}
    assert [reason.code for reason in explain(known, parts)] == ["terminal_risk", "time"]
    assert [reason.code for reason in explain(dict.fromkeys(names, float("nan")), parts)] == ["time"]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=5, max_size=80))
def test_measures_agree_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    fraud, scores = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    if 0 < fraud.sum() < len(fraud):
        assert roc_auc(fraud, scores) == pytest.approx(roc_auc_score(fraud, scores))
        assert average_precision(fraud, scores) == pytest.approx(average_precision_score(fraud, scores))


def test_training_twice_gives_the_same_file_and_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    table = simulate(5, World(customers=300, terminals=400, days=60))
    plan = Plan(rounds=20)
    card = train(table, plan, tmp_path / "one", "generated")
    assert card.sha256 == train(table, plan, tmp_path / "two", "generated").sha256
    assert card.trained["held_out"]["auc"] > 0.75
    shuffled = np.random.default_rng(1).permutation(table.fraud)
    from serving.fraud.dataset import Transactions

    noise = Transactions(table.transaction, table.customer, table.terminal, table.at_s, table.cents, shuffled)
    assert abs(train(noise, plan, tmp_path / "noise", "generated").trained["held_out"]["auc"] - 0.5) < 0.1


def test_the_commands_score_a_file_and_say_what_is_wrong(tmp_path: Path) -> None:
    line = {"transaction_id": "t", "customer_id": "c", "terminal_id": "m", "amount": 5, "currency": "EUR"}
    file = tmp_path / "payments.jsonl"
    file.write_text(json.dumps({**line, "timestamp": "2026-11-24T10:00:00Z"}) + "\n")
    scored = CliRunner().invoke(app, ["score", str(file)])
    assert scored.exit_code == 0
    assert json.loads(scored.stdout)["decision"] == "approve"
    file.write_text(json.dumps(line) + "\n")
    wrong = CliRunner().invoke(app, ["score", str(file)])
    assert wrong.exit_code == 3
    assert "line 1.timestamp: is required" in wrong.stderr
    empty = CliRunner().invoke(app, ["train", "--data", str(tmp_path), "--out", str(tmp_path / "m")])
    assert (empty.exit_code, "no fraud_tx_*.parquet" in empty.stderr) == (3, True)


async def test_a_torn_journal_keeps_every_whole_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path, sync=True, clock=lambda: 1_790_000_000.0)
    for number in range(5):
        await journal.append(b"entry %d" % number)
    await journal.aclose()
    with pytest.raises(JournalUnavailable):
        await journal.append(b"late")
    _tear(tmp_path)
    assert list(read_journal(tmp_path)) == [b"entry %d" % number for number in range(4)]


def _tear(directory: Path) -> None:
    """Cuts the only segment short, as a crash would."""
    segment = next(directory.glob("*.log"))
    segment.write_bytes(segment.read_bytes()[:-3])
