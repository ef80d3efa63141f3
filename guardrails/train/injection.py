"""Training of the injection and jailbreak cascade: `python -m guardrails.train injection --data DIR`.

Attacks and look-alikes come from the labelled sets (MIT, Apache, CC-BY, ODC-BY) and from the grammars of phrases/, which also make families that no set has.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from guardrails.train.care import amid, care, long_turns
from guardrails.train.cascade import Example, Floats
from guardrails.train.data import rows
from guardrails.train.detector import Aims, Trained, from_sources, note, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import TURNS, general, turns
from guardrails.train.points import Limits, calibration_error

SEED = 7
DOUBTED_TURNS = 0.04  # of ordinary turns, short and long, that the head is asked about
FLAGGED_TURNS = 0.008  # of ordinary turns, out of fold
FLAGGED_LOOK_ALIKES = 0.07  # of NotInject, out of fold
FLAGGED_LONG = 0.045  # of long ordinary requests
EACH_FAMILY = 450
WANTED = {
    "services": 1500,
    "call_centre": 1200,
    "general": 1600,
    "plain_turns": 800,
    "repeating": 800,
    "compliance": 700,
    "pressed": 900,
    "own_data": 600,
}
WANTED |= dict.fromkeys(("spanish", "french", "german", "portuguese", "italian"), 250)
LONG_TURNS = 4000
AMID, SHORT_CHARS = 2500, 160  # attacks amid an ordinary turn, and how long they are
GRAMMARS = ("attacks", "multilingual_attacks", "ordinary")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "injection")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    grammars = tuple(f"{name}:" for name in GRAMMARS)
    done = train(chosen, ("injection",), examples(chosen.data), _aims, grammars)
    return rounded(measured(done.trainer, done.points.logits[:, 0]) | asked(done) | left_out(done))


def _aims(trainer: Trainer) -> Aims:
    ordinary, look_alikes = from_sources(trainer, *TURNS), from_sources(trainer, "NotInject")
    wild = from_sources(trainer, "WildGuard-benign via InjecGuard")
    long_ordinary = wild | from_sources(trainer, "judge_hallucination_halueval_general.jsonl")
    limits = Limits(
        ((ordinary & trainer.heads, FLAGGED_TURNS), (look_alikes, FLAGGED_LOOK_ALIKES)),
        ((wild, FLAGGED_LONG), (long_ordinary, FLAGGED_LONG)),
    )
    return Aims([limits], [ordinary, long_turns(trainer)], DOUBTED_TURNS)


def asked(done: Trained) -> dict[str, float]:
    """The share of pieces of ordinary turns that the head is asked about."""
    rows = from_sources(done.trainer, *TURNS)[done.trainer.corpus.owner]
    return {"turns.asked": float((done.scores.pieces[rows, 0] > done.points.arrays["doubt"][0]).mean())}


def measured(trainer: Trainer, logits: Floats) -> dict[str, float]:
    """Shares flagged out of fold."""
    flagged = logits > 0
    wanted = trainer.labels[:, 0] > 0.5
    short = np.array([len(example.text) <= 300 for example in trainer.corpus.examples])
    attacks = wanted & ~trainer.written
    figures = {"attacks": flagged[attacks].mean(), "attacks.short": flagged[attacks & short].mean()}
    real = trainer.heads & ~trainer.written
    figures["calibration_error"] = calibration_error(logits[real], trainer.labels[real, 0], trainer.weight[real])
    figures["turns"] = flagged[from_sources(trainer, *TURNS) & trainer.heads].mean()
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        rows = from_sources(trainer, source) & trainer.heads
        figures[source] = flagged[rows].mean()
    return figures


def left_out(done: Trained) -> dict[str, float]:
    """The share caught of each source that was left out of the training, at the same operating point."""
    figures = {}
    trainer, points = done.trainer, done.points.arrays
    attacks = (trainer.labels[:, 0] > 0.5) & ~trainer.written
    for source in sorted({e.source for e, one in zip(trainer.corpus.examples, attacks, strict=True) if one}):
        out = from_sources(trainer, source) & attacks
        logits = trainer.scored(out, done.scores)
        best, features = trainer.combined(logits)
        short = points["slope"][0] * best[out, 0] + points["shift"][0]
        as_text = features[out, 0] @ points["text_weights"][0] + points["text_bias"][0]
        final = np.where(
            trainer.long[out], np.maximum(as_text, short - points["slope"][0] * points["margin"][0]), short
        )
        figures[f"left out: {source}"] = float((final > 0).mean())
        note(f"without {source}: {figures[f'left out: {source}']:.3f}")
    return figures


def examples(data: Path) -> list[Example]:
    """All examples: label 1 an attack on the model's instructions."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    long = care(data, rng, LONG_TURNS)
    return [*_labelled(data), *turns(data, rng), *general(data, rng), *long, *_written(rng)]


def _labelled(data: Path) -> list[Example]:
    attacks = rows(data / "guard_attacks.jsonl")
    return [
        *(Example(row["text"], (1.0,), row["source"], row["group"], 2.0) for row in attacks),
        *(
            Example(row["text"], (0.0,), row["source"], row["group"], _benign_weight(row["source"]))
            for row in rows(data / "guard_benign.jsonl")
        ),
    ]


def _benign_weight(source: str) -> float:
    """The look-alikes that matter most; the 342 requests for programs of one set are much alike."""
    return 3.0 if source.startswith(("NotInject", "WildGuard")) else 0.5 if "mitre" in source else 1.5


def _written(rng: random.Random) -> list[Example]:
    out = []
    for name, label in (("attacks", 1.0), ("multilingual_attacks", 1.0), ("ordinary", 0.0)):
        grammar = load_grammar(name)
        for family in grammar.families:
            wanted = WANTED.get(family, EACH_FAMILY) if name != "multilingual_attacks" else 150
            texts = grammar.many(family, wanted, rng)
            repeats = 1 if len(texts) > 100 else 3
            weight = 0.5 * repeats
            out += [
                Example(_roughened(text, rng), (label,), f"{name}: {family}", f"{name} {family}", weight)
                for text in texts
            ]
    return [*out, *_amid(rng)]


def _amid(rng: random.Random) -> list[Example]:
    """Attacks in the middle of an ordinary turn."""
    grammar = load_grammar("attacks")
    out = []
    for number in range(AMID):
        family = rng.choice(sorted(grammar.families))
        text = grammar.one(family, rng)
        if len(text) <= SHORT_CHARS:
            out.append(
                Example(amid(rng, text), (1.0,), "attacks: amid a turn", f"attacks {family}", 0.5, number % 2 == 0)
            )
    return out


def _roughened(text: str, rng: random.Random) -> str:
    """Four in ten as people type: without punctuation, in capitals, with a letter wrong, or with the letters of words in disorder."""
    how = rng.random()
    if how < 0.08:
        return text.upper()
    if how < 0.2:
        return "".join(c for c in text if c not in ".,!?:;'\"")
    if how < 0.33 and len(text) > 12:
        place = rng.randrange(1, len(text) - 2)
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if how < 0.4:
        return " ".join(_disordered(word, rng) if rng.random() < 0.6 else word for word in text.split(" "))
    return text


def _disordered(word: str, rng: random.Random) -> str:
    """First and last letter where they were, which people read and n-grams do not."""
    if len(word) < 5 or not word.isalpha():
        return word
    inner = list(word[1:-1])
    rng.shuffle(inner)
    return f"{word[0]}{''.join(inner)}{word[-1]}"
