"""Training of the injection and jailbreak cascade: `python -m guardrails.train injection --data DIR`.

Attacks and look-alikes come from the labelled sets (MIT, Apache, CC-BY, ODC-BY) and from the grammars of phrases/, which also make families that no set has.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

import numpy as np
import yaml

from guardrails.train.care import amid, care, long_turns
from guardrails.train.cascade import Example, Floats, fold_of
from guardrails.train.data import rows
from guardrails.train.detector import Aims, Trained, from_sources, note, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import EVERYDAY, TURNS, general, turns
from guardrails.train.points import Limits, calibration_error, final_logits

POLICY = Path(__file__).parents[1] / "policies" / "call-centre"
SEED = 7
DOUBTED_TURNS = 0.1  # of ordinary turns, short and long, that the head is asked about
FLAGGED_TURNS = 0.008  # of ordinary turns, out of fold
FLAGGED_LOOK_ALIKES = 0.0795  # of NotInject, out of fold
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
WANTED |= EVERYDAY
WANTED |= dict.fromkeys(("spanish", "french", "german", "portuguese", "italian"), 250)
LONG_TURNS = 4000
AMID, SHORT_CHARS = 2500, 160  # attacks amid an ordinary turn, and how long they are
QUESTIONS, IN_A_ROW = "judge_hallucination_halueval_general.jsonl", 1500
GRAMMARS = ("attacks", "multilingual_attacks", "ordinary", "everyday")
REMARKS, TWEETS = 12_000, 4_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "injection")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    grammars = tuple(f"{name}:" for name in GRAMMARS)
    done = train(chosen, ("injection",), examples(chosen.data), _aims, grammars, heads=3)
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
    matched = with_patterns(trainer)
    figures |= {
        "with patterns: attacks": (flagged | matched)[attacks].mean(),
        "with patterns: attacks.short": (flagged | matched)[attacks & short].mean(),
        "with patterns: NotInject": (flagged | matched)[from_sources(trainer, "NotInject")].mean(),
    }
    figures["turns"] = flagged[from_sources(trainer, *TURNS) & trainer.heads].mean()
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        rows = from_sources(trainer, source) & trainer.heads
        figures[source] = flagged[rows].mean()
    return figures


def with_patterns(trainer: Trainer) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which texts the patterns of the shipped policy match, which stand before the cascade there."""
    config = yaml.safe_load((POLICY / "config.yml").read_text(encoding="utf-8"))
    patterns = [
        re.compile(one, re.IGNORECASE) for one in config["rails"]["config"]["regex_detection"]["input"]["patterns"]
    ]
    return np.array([any(one.search(e.text) for one in patterns) for e in trainer.corpus.examples])


def left_out(done: Trained) -> dict[str, float]:
    """The share caught of each source that was left out of the training, at the same operating point."""
    figures = {}
    trainer, points = done.trainer, done.points.arrays
    attacks = (trainer.labels[:, 0] > 0.5) & ~trainer.written
    for source in sorted({e.source for e, one in zip(trainer.corpus.examples, attacks, strict=True) if one}):
        out = from_sources(trainer, source) & attacks
        final = final_logits(trainer, trainer.scored(out, done.scores), points)[out]
        figures[f"left out: {source}"] = float((final > 0).mean())
        note(f"without {source}: {figures[f'left out: {source}']:.3f}")
    return figures


def examples(data: Path) -> list[Example]:
    """All examples: label 1 an attack on the model's instructions."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    long = care(data, rng, LONG_TURNS)
    return [
        *_labelled(data),
        *turns(data, rng),
        *general(data, rng),
        *_remarks(data, rng),
        *long,
        *_written(rng),
        *_after_questions(data, rng),
    ]


def _labelled(data: Path) -> list[Example]:
    attacks = rows(data / "guard_attacks.jsonl")
    return [
        *(Example(row["text"], (1.0,), row["source"], row["group"], 2.0) for row in attacks),
        *(
            Example(row["text"], (0.0,), row["source"], row["group"], _benign_weight(row["source"]))
            for row in rows(data / "guard_benign.jsonl")
        ),
    ]


def _remarks(data: Path, rng: random.Random) -> list[Example]:
    """What people say to each other, in one sentence or two and often out of the blue: rude or not, no attack on a model."""
    out = []
    for name, most in (("tone_goemotions.jsonl", REMARKS), ("tox_davidson_tweets.jsonl", TWEETS)):
        for row in rng.sample(found := rows(data / name), min(most, len(found))):
            out.append(
                Example(row["text"], (0.0,), f"remarks: {name}", row["text"].lower()[:60], 1.0, rng.random() < 0.3)
            )
    return out


def _benign_weight(source: str) -> float:
    """The look-alikes that matter most; the 342 requests for programs of one set are much alike."""
    return 3.0 if source.startswith(("NotInject", "WildGuard")) else 0.5 if "mitre" in source else 1.5


def _written(rng: random.Random) -> list[Example]:
    out = []
    for name, label in (("attacks", 1.0), ("multilingual_attacks", 1.0), ("ordinary", 0.0), ("everyday", 0.0)):
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


def _after_questions(data: Path, rng: random.Random) -> list[Example]:
    """Ordinary questions to an assistant in a row, half of them with a short attack behind; those of one text from one fold."""
    by_fold: dict[int, list[str]] = {}
    for row in rows(data / QUESTIONS):
        if len(text := row["prompt"]) <= SHORT_CHARS:
            by_fold.setdefault(fold_of(text.lower()[:60]), []).append(text)
    grammar = load_grammar("attacks")
    out = []
    for number in range(2 * IN_A_ROW):
        some = rng.sample(by_fold[rng.choice(sorted(by_fold))], rng.randrange(2, 4))
        family = rng.choice(sorted(grammar.families))
        attack = grammar.one(family, rng)
        if number % 2:
            source, text = "questions in a row", " ".join(some)
            out.append(Example(text, (0.0,), source, some[0].lower()[:60], 0.7, number % 4 == 1))
        elif len(attack) <= SHORT_CHARS:
            text = " ".join([*some[:-1], attack])
            out.append(Example(text, (1.0,), "attacks: after questions", f"attacks {family}", 0.5, number % 4 == 0))
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
