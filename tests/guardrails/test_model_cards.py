"""Model cards say what the last training measured, and every training of the command line exists with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guardrails.detectors.cascade import MODELS, Weights
from guardrails.train.__main__ import DETECTORS, main
from guardrails.train.card import card_of

TRAINED = [name for name in DETECTORS if name != "ner"]  # whose card is written by hand


@pytest.mark.parametrize("detector", TRAINED)
def test_a_card_has_the_figures_of_its_training(detector: str) -> None:
    kept = json.loads((MODELS / detector / "figures.json").read_text())
    assert kept["command"] == f"python -m guardrails.train {detector} --data $CALLGATE_DATA_DIR"
    assert (MODELS / detector / "MODEL_CARD.md").read_text() == card_of(detector, kept["figures"])


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_can_be_trained_from_the_command_line(detector: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([detector])
    assert "--data" in capsys.readouterr().err


def test_weights_are_small_and_load(tmp_path: Path) -> None:
    for detector in TRAINED:
        path = MODELS / detector / "weights.npz"
        assert path.stat().st_size < 4_000_000
        if detector == "indirect":
            continue  # of a shape of its own
        weights = Weights.load(path)
        weights.save(tmp_path / "again.npz")
        assert Weights.load(tmp_path / "again.npz").labels == weights.labels
