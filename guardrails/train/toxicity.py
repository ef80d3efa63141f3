"""Training of the toxicity cascade: `python -m guardrails.train toxicity --data DIR`.

Eight labels, since a caller who swears about a bill is not one who threatens: any (of the moderation set), hate, harassment, threat, sexual, self_harm,
profanity, slur (hate among tweets). Moderation and Davidson (both MIT), turns, remarks of GoEmotions that carry no anger, and a grammar of angry callers.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.toxicity import LABELS, speech_of
from guardrails.train.care import care, long_turns
from guardrails.train.cascade import Example, Floats
from guardrails.train.data import rows
from guardrails.train.detector import Aims, from_sources, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import TURNS, everyday, turns
from guardrails.train.points import Limits, calibration_error

SEED = 13
WRITTEN = 400
LONG_TURNS = 3000
FLAGGED_TURNS = 0.002
FLAGGED_HATE = 0.035  # of tweets without hate: as many as have it, about
DOUBTED_TURNS = 0.03
MODERATION, TWEETS = "tox_openai_moderation.jsonl", "tox_davidson_tweets.jsonl"
UNKNOWN = float("nan")
CALM = {"neutral", "admiration", "approval", "caring", "curiosity", "gratitude", "joy", "optimism", "realization"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "toxicity")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    done = train(
        chosen, LABELS, examples(chosen.data), _aims, ("abuse: ", "everyday: "), epochs=10, strength=10.0, heads=3
    )
    return rounded(measured(done.trainer, done.points.logits))


def _aims(trainer: Trainer) -> Aims:
    ordinary, angry = from_sources(trainer, *TURNS), from_sources(trainer, "abuse: harmless")
    limits = [_limits(trainer, k, ordinary & trainer.heads, angry) for k in range(len(LABELS))]
    return Aims(limits, [ordinary, long_turns(trainer)], DOUBTED_TURNS)


def _limits(trainer: Trainer, k: int, ordinary: NDArray[np.bool_], angry: NDArray[np.bool_]) -> Limits:
    """Few ordinary turns, few angry ones, and one in twenty of the texts that moderators passed."""
    passed = from_sources(trainer, MODERATION) & (trainer.labels[:, k] < 0.5)
    if LABELS[k] in ("profanity", "slur"):
        passed = from_sources(trainer, TWEETS) & (trainer.labels[:, k] < 0.5)
        return Limits(((ordinary, FLAGGED_TURNS), (passed, 0.08 if LABELS[k] == "profanity" else FLAGGED_HATE)), ())
    return Limits(((ordinary, FLAGGED_TURNS), (angry, 0.05), (passed, 0.05)), ((passed, 0.05),))


def measured(trainer: Trainer, logits: Floats) -> dict[str, float]:
    """Out of fold: average precision of `any` on the moderation set, macro-F1 on tweets, shares flagged of each label."""
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    moderation, tweets = from_sources(trainer, MODERATION), from_sources(trainer, TWEETS)
    wanted = trainer.labels
    figures = {
        "moderation.auprc": float(average_precision_score(wanted[moderation, 0], logits[moderation, 0])),
        "moderation.positive": float(wanted[moderation, 0].mean()),
    }
    for k, label in enumerate(LABELS):
        known = moderation & ~np.isnan(wanted[:, k])
        if known.any():
            error = calibration_error(logits[known, k], wanted[known, k], trainer.weight[known])
            figures[f"moderation.{label}.calibration_error"] = error
            figures[f"moderation.{label}.auroc"] = float(roc_auc_score(wanted[known, k], logits[known, k]))
            figures[f"moderation.{label}.caught"] = float((logits[known & (wanted[:, k] > 0.5), k] > 0).mean())
    gold = np.where(
        wanted[:, LABELS.index("slur")] > 0.5,
        "hate",
        np.where(wanted[:, LABELS.index("profanity")] > 0.5, "offensive", "neither"),
    )
    said = [speech_of(row) for row in logits[tweets]]
    figures["davidson.macro_f1"] = float(f1_score(gold[tweets], said, average="macro"))
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        of = from_sources(trainer, source) & trainer.heads
        for k, label in enumerate(LABELS):
            if source.startswith("abuse") or (source in TURNS and of.any()):
                figures[f"{source}.{label}"] = float((logits[of, k] > 0).mean())
    return figures


def examples(data: Path) -> list[Example]:
    """All examples, with nan for labels that nobody gave."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    calm = [row["text"] for row in rows(data / "tone_goemotions.jsonl") if set(row["emotions"]) <= CALM]
    clean = tuple(0.0 for _ in LABELS)
    return [
        *(Example(row["text"], moderated(row), MODERATION, row["group"], 3.0) for row in rows(data / MODERATION)),
        *(Example(row["text"], tweeted(row["label"]), TWEETS, row["group"], 1.0) for row in rows(data / TWEETS)),
        *(Example(e.text, clean, e.source, e.group, 0.3, e.head and rng.random() < 0.5) for e in turns(data, rng)),
        *(replace(e, labels=clean) for e in care(data, rng, LONG_TURNS, weight=0.3)),
        *(Example(text, clean, "tone_goemotions.jsonl", text, 0.3) for text in rng.sample(calm, min(3000, len(calm)))),
        *everyday(rng, clean),
        *_written(rng),
    ]


def moderated(row: dict[str, Any]) -> tuple[float, ...]:
    """Labels of a row of the moderation set; a category that it does not mention is unknown."""
    given = row["labels"]
    return (
        float(row["any"]),
        _highest(given, "hate", "hate_threatening"),
        _highest(given, "harassment"),
        _highest(given, "violence", "hate_threatening"),
        _highest(given, "sexual"),
        _highest(given, "self_harm"),
        UNKNOWN,
        UNKNOWN,
    )


def _highest(given: dict[str, int], *names: str) -> float:
    known = [float(given[name]) for name in names if name in given]
    return max(known) if known else UNKNOWN


def tweeted(label: str) -> tuple[float, ...]:
    """Labels of a tweet; only profanity and slurs are known of it."""
    offensive = float(label != "neither")
    clean = 0.0 if label == "neither" else UNKNOWN
    return (clean, clean, clean, UNKNOWN, UNKNOWN, UNKNOWN, offensive, float(label == "hate"))


_FAMILIES = {  # any, hate, harassment, threat, sexual, self_harm, profanity, slur
    "profanity": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "harassment": (1.0, UNKNOWN, 1.0, 0.0, 0.0, UNKNOWN, UNKNOWN, UNKNOWN),
    "threat": (1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, UNKNOWN),
    "hate": (1.0, 1.0, UNKNOWN, UNKNOWN, 0.0, 0.0, UNKNOWN, 1.0),
    "harmless": (0.0,) * 8,
}


def _written(rng: random.Random) -> list[Example]:
    grammar = load_grammar("abuse")
    return [
        Example(text, _FAMILIES[family], f"abuse: {family}", f"abuse {text[:18]}", 0.4)
        for family in grammar.families
        for text in grammar.many(family, WRITTEN, rng)
    ]
