"""Training of the harmful-request cascade: `python -m guardrails.train harm --data DIR`.

Harmful requests of six sets against requests that share their words (XSTest's safe half, NotInject, WildGuard-benign, FRR prompts, and pairs of a grammar).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from guardrails.train.care import amid, care, long_turns
from guardrails.train.cascade import Example, Floats
from guardrails.train.data import rows
from guardrails.train.detector import Aims, from_sources, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import TURNS, general, turns
from guardrails.train.points import Limits, calibration_error

SEED = 11
WRITTEN = 2500  # of each family
LONG_TURNS = 3000
AMID = 800  # written ones amid an ordinary turn
FLAGGED_SAFE = 0.07  # of XSTest's safe half, out of fold
FLAGGED_TURNS = 0.002
DOUBTED_TURNS = 0.12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "harm")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    done = train(chosen, ("harm",), examples(chosen.data), _aims, ("harm: ",), heads=5)
    return rounded(measured(done.trainer, done.points.logits[:, 0]))


def _aims(trainer: Trainer) -> Aims:
    ordinary, safe = from_sources(trainer, *TURNS), safe_half(trainer)
    wild = from_sources(trainer, "WildGuard-benign via InjecGuard")
    limits = Limits(((safe, FLAGGED_SAFE), (ordinary & trainer.heads, FLAGGED_TURNS)), ((wild, FLAGGED_SAFE),))
    return Aims([limits], [ordinary, long_turns(trainer)], DOUBTED_TURNS)


def safe_half(trainer: Trainer) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which texts are of XSTest's safe half."""
    return from_sources(trainer, "XSTest") & (trainer.labels[:, 0] < 0.5)


def measured(trainer: Trainer, logits: Floats) -> dict[str, float]:
    """Shares flagged out of fold, and the AUROC against XSTest's safe half."""
    from sklearn.metrics import roc_auc_score

    harmful = (trainer.labels[:, 0] > 0.5) & ~trainer.written
    safe = safe_half(trainer)
    rows = harmful | safe
    real = trainer.heads & ~trainer.written
    figures = {
        "harmful": float((logits[harmful] > 0).mean()),
        "xstest.safe": float((logits[safe] > 0).mean()),
        "auroc.xstest_safe": float(roc_auc_score(harmful[rows], logits[rows])),
        "calibration_error": calibration_error(logits[real], trainer.labels[real, 0], trainer.weight[real]),
    }
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        for label, name in ((1, "harmful"), (0, "harmless")):
            of = from_sources(trainer, source) & trainer.heads & (trainer.labels[:, 0] == label)
            if of.any():
                figures[f"{source} ({name})"] = float((logits[of] > 0).mean())
    return figures


def examples(data: Path) -> list[Example]:
    """Label 1: a request that a careful person would not help with."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    grammar = load_grammar("harm")
    written = [
        Example(text, (float(family == "harmful"),), f"harm: {family}", f"harm {text[:24]}", 0.4)
        for family in grammar.families
        for text in grammar.many(family, WRITTEN, rng)
    ]
    written += [
        Example(amid(rng, e.text), e.labels, f"{e.source} amid a turn", e.group, 0.4) for e in rng.sample(written, AMID)
    ]
    harmful = rows(data / "guard_harmful_requests.jsonl")
    benign = [row for row in rows(data / "guard_benign.jsonl") if row["source"] != "InjecGuard valid"]
    weights = {"XSTest": 4.0, "NotInject": 1.5}
    return [
        *(Example(row["text"], (1.0,), row["source"], row["group"], 1.0) for row in harmful),
        *(Example(row["text"], (0.0,), row["source"], row["group"], weights.get(row["source"], 0.7)) for row in benign),
        *(_lighter(example) for example in (*turns(data, rng), *general(data, rng), *care(data, rng, LONG_TURNS))),
        *written,
    ]


def _lighter(example: Example) -> Example:
    return Example(example.text, example.labels, example.source, example.group, 0.3, example.head)
