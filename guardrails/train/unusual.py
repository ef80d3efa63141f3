"""Training of the second opinion on flags: `python -m guardrails.train unusual --data DIR`.

Is a text unlike everything that callers of contact centres say and their applications ask? What a rail flags and this finds usual passes. Unusual are attacks,
harmful requests, and what people ask general assistants: what is neither known as an attack nor as a call is unusual too.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from guardrails.train.applications import Said, requests
from guardrails.train.care import amid, care
from guardrails.train.cascade import Corpus, Example, Floats, Vectors
from guardrails.train.data import rows, sentence_embedder
from guardrails.train.detector import from_sources, note, rounded, weights_arguments
from guardrails.train.fit import Mask, Scores, Trainer, shipped
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import calls, everyday, general, spoken, turns
from guardrails.train.points import fit_slope

SEED = 23
LOST = 0.01  # of attacks, out of fold, that may be found usual
LOST_WRITTEN = 0.025  # of the attacks of a grammar whose family was left out
LEFT_OUT = ("CyberSecEval", "InjecGuard", "garak", "inthewild_jailbreak")
ALWAYS_LESS = -100.0  # than any logit
CALLS, REQUESTS, LONG_TURNS, AMID, INSIDE = 80, 2400, 1500, 1400, 1600
TURNS_READ = 0.4
WORDS = {"services": 500, "call_centre": 500, "plain_turns": 300, "own_data": 350, "pressed": 450, "documents": 250}
WORDS |= dict.fromkeys(("spanish", "french", "german", "portuguese", "italian"), 70)
ATTACKS, ABROAD = 110, 150  # of each family
REQUESTED = 150  # of each family of requests.txt and requests_spanish.txt
CLINC_USUAL = {"banking", "credit_cards", "travel", "meta", "small_talk"}
WRITTEN = (
    "calls",
    "everyday: ",
    "applications: ",
    "ordinary: ",
    "requests",
    "attacks: ",
    "multilingual_attacks: ",
    "harm: ",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "unusual")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    corpus = Corpus.read(examples(chosen.data))
    made = np.array([e.source.startswith(WRITTEN) for e in corpus.examples])
    note(f"{len(corpus.examples)} examples, {len(corpus.texts)} pieces")
    trainer = Trainer(corpus, Vectors(sentence_embedder(1), chosen.vectors), made, heads=1, epochs=15)
    scores = trainer.out_of_fold(note)
    limit = ship(trainer, scores, chosen.out)
    figures = measured(trainer, trainer.worst(scores, np.zeros(1))[:, 0] > limit)
    return rounded(figures | left_out(trainer, scores, limit))


def ship(trainer: Trainer, scores: Scores, out: Path) -> float:
    """Writes the weights; the logit above which a text is unusual. A text is as unusual as its most unusual piece, and the head is always asked."""
    worst = trainer.worst(scores, np.zeros(1))[:, 0]
    limit = limit_of(trainer, worst)
    heard = trainer.heads & np.isfinite(worst)
    slope = fit_slope(worst[heard], trainer.labels[heard, 0], trainer.weight[heard])
    points = {
        "slope": np.array([slope]),
        "shift": np.array([-slope * limit]),
        "text_weights": np.zeros((1, 6)),
        "text_bias": np.array([ALWAYS_LESS]),
        "margin": np.zeros(1),
        "doubt": np.array([ALWAYS_LESS]),
    }
    shipped(("unusual",), trainer.fit(scores), points).save(out)
    return limit


def groups(trainer: Trainer) -> dict[str, tuple[Mask, float]]:
    """What may be found usual by mistake, and how often."""
    return {
        "attacks": (beginning(trainer, "attack: "), LOST),
        "written attacks": (beginning(trainer, "attacks: ", "multilingual_attacks: "), LOST_WRITTEN),
    }


def limit_of(trainer: Trainer, worst: Floats) -> float:
    """The logit above which a text is unusual: as high as no group loses more than it may."""
    heard = trainer.heads & np.isfinite(worst)
    return min(float(np.quantile(worst[heard & mask], lost)) for mask, lost in groups(trainer).values())


def beginning(trainer: Trainer, *sources: str) -> Mask:
    """Which examples come from sources that begin so."""
    return np.array([example.source.startswith(sources) for example in trainer.corpus.examples])


def measured(trainer: Trainer, unusual: Mask) -> dict[str, float]:
    """Shares found unusual out of fold."""
    figures = {name: unusual[mask & trainer.heads].mean() for name, (mask, _) in groups(trainer).items()}
    usual = trainer.written & (trainer.labels[:, 0] < 0.5) & trainer.heads
    spanish = np.array([": es_" in e.source or e.source == "ordinary: spanish" for e in trainer.corpus.examples])
    other = beginning(trainer, "calls_abroad", "ordinary: ") & ~spanish
    figures |= {
        "calls.english": unusual[usual & ~spanish & ~other].mean(),
        "calls.spanish": unusual[usual & spanish].mean(),
    }
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        figures[source] = unusual[from_sources(trainer, source) & trainer.heads].mean()
    return {name: float(value) for name, value in figures.items()}


def left_out(trainer: Trainer, scores: Scores, limit: float) -> dict[str, float]:
    """The share found unusual of each source of attacks that was left out of the training, at the same limit."""
    figures = {}
    for source in LEFT_OUT:
        out = beginning(trainer, f"attack: {source}")
        worst = trainer.worst(trainer.scored(out, scores), np.zeros(1))[out, 0]
        figures[f"left out: {source}"] = float((worst > limit).mean())
        note(f"without {source}: {figures[f'left out: {source}']:.3f}")
    return figures


def examples(data: Path) -> list[Example]:
    """Label 1: neither a call nor what an application asks around one."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    return [*_usual(data, rng), *_strange(data, rng)]


def _usual(data: Path, rng: random.Random) -> list[Example]:
    found = [e for e in turns(data, rng) if e.source != "topic_clinc150.jsonl" and rng.random() < 0.6]
    found += [
        Example(row["text"], (0.0,), "topic_clinc150.jsonl", row["group"], 1.0, rng.random() < TURNS_READ)
        for row in rows(data / "topic_clinc150.jsonl")
        if row["domain"] in CLINC_USUAL
    ]
    found += [e for e in general(data, rng) if e.source in ("pii_restaurant8k.jsonl", "rag_dstc10_kb.jsonl")]
    found += [
        *spoken(data),
        *care(data, rng, LONG_TURNS),
        *(e for e in everyday(rng) if rng.random() < 0.5),
        *calls(rng, CALLS),
    ]
    found += requests(Said.of_business(data, rng), REQUESTS, rng)
    for name in ("requests", "requests_spanish"):
        grammar = load_grammar(name)
        found += [
            Example(text, (0.0,), f"{name}: {family}", f"{name} {family}", 0.5)
            for family in grammar.families
            for text in grammar.many(family, REQUESTED, rng)
        ]
    grammar = load_grammar("ordinary")
    found += [
        Example(text, (0.0,), f"ordinary: {family}", f"ordinary {family}", 0.4, rng.random() < 0.6)
        for family, many in WORDS.items()
        for text in grammar.many(family, many, rng)
    ]
    return found


def _strange(data: Path, rng: random.Random) -> list[Example]:
    found = [
        Example(row["text"], (1.0,), f"{kind}: {row['source']}", row["group"], weight)
        for kind, file, weight in (
            ("attack", "guard_attacks", 3.0),
            ("harmful", "guard_harmful_requests", 0.3),
            ("look-alike", "guard_benign", 0.1),
        )
        for row in rows(data / f"{file}.jsonl")
    ]
    found += [
        replace(e, labels=(1.0,), weight=0.15)
        for e in general(data, rng)
        if e.source.startswith("judge_") and rng.random() < 0.4
    ]
    harm = load_grammar("harm")
    found += [
        Example(text, (1.0,), "harm: harmful", f"harm {text[:24]}", 0.4) for text in harm.many("harmful", 500, rng)
    ]
    grammar = load_grammar("attacks")
    found += [
        Example(text, (1.0,), f"attacks: {family}", f"attacks {family}", 0.6)
        for family in grammar.families
        for text in grammar.many(family, ATTACKS, rng)
    ]
    return [*found, *_abroad(rng), *_amid(rng)]


def _abroad(rng: random.Random) -> list[Example]:
    """Attacks in other languages, alone and behind what callers say in Spanish; left out by how they begin, since a language is one family."""
    grammar, callers = load_grammar("multilingual_attacks"), load_grammar("requests_spanish")
    out = []
    for family in grammar.families:
        for text in grammar.many(family, ABROAD, rng):
            group = f"abroad {family} {text[:12]}"
            out.append(Example(text, (1.0,), f"multilingual_attacks: {family}", group, 0.8))
            if family == "spanish":
                said = callers.one(rng.choice(sorted(callers.families)), rng)
                out.append(Example(f"{said} {text}", (1.0,), "multilingual_attacks: amid a turn", group, 0.8))
    return out


def _amid(rng: random.Random) -> list[Example]:
    """Attacks in the middle of an ordinary turn, and inside what an application asks about."""
    grammar = load_grammar("attacks")
    out = []
    for number in range(AMID):
        family = rng.choice(sorted(grammar.families))
        if len(text := grammar.one(family, rng)) <= 160:
            out.append(
                Example(amid(rng, text), (1.0,), "attacks: amid a turn", f"attacks {family}", 0.4, number % 2 == 0)
            )
    for family in grammar.families:
        said = [text for text in grammar.many(family, 60, rng) if len(text) <= 200]
        said += [amid(rng, text) for text in said[:20]]
        out += [
            replace(e, source="attacks: inside a request", group=f"attacks {family}")
            for e in requests(Said(said), INSIDE // len(grammar.families), rng, (1.0,))
        ]
    return out
