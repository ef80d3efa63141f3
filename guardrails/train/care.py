"""Ordinary turns of several sentences, as callers of a contact centre say them: put together from labelled turns and from the grammar of care.txt.

The public sets hold one sentence a turn; a detector that never saw more doubts every long turn, and doubt costs a sentence vector. It labels nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.train.cascade import Example, fold_of
from guardrails.train.data import rows
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar

JOINED, WRITTEN = "joined turns", "care"  # sources: of labelled turns; of the grammar (with its industry after a colon)
INDUSTRIES = ("bank", "telecom", "shop", "home", "cover")
BUSINESS = {"banking", "credit_cards"}
SHORTEST, LONGEST = 60, 420  # characters
TALK = 0.4  # of the sentences
HEARD = 0.4  # of the texts: those that the head is fitted on too


def care(
    data: Path, rng: random.Random, many: int, industries: Sequence[str] = INDUSTRIES, weight: float = 1.0
) -> list[Example]:
    """Examples of label 0, half of them of each kind."""
    return [
        Example(text, (0.0,), source, group, weight, rng.random() < HEARD)
        for text, source, group in (*joined(data, rng, many // 2), *written(rng, many // 2, industries))
    ]


def amid(rng: random.Random, text: str, industries: Sequence[str] = INDUSTRIES) -> str:
    """A text with a sentence or two of an ordinary turn before it, and sometimes one behind it."""
    grammar = load_grammar("care")
    before = [grammar.one(rng.choice((rng.choice(industries), "talk")), rng) for _ in range(rng.randrange(1, 3))]
    behind = [grammar.one("talk", rng)] if rng.random() < 0.4 else []
    return " ".join(map(_sentence, [*before, text, *behind]))


def joined(data: Path, rng: random.Random, many: int) -> list[tuple[str, str, str]]:
    """Text, source and group: labelled turns about a bank and small talk between them; all of a text from one fold."""
    by_fold: dict[int, list[dict[str, Any]]] = {}
    for name in ("topic_banking77.jsonl", "topic_clinc150.jsonl", "topic_nlupp.jsonl"):
        for row in rows(data / name):
            if row.get("domain", "banking") in BUSINESS:
                by_fold.setdefault(fold_of(row["group"]), []).append(row)
    talk = load_grammar("care")
    out = []
    for _ in range(many):
        some = by_fold[rng.choice(sorted(by_fold))]
        first = rng.choice(some)
        texts = [first["text"], *(row["text"] for row in rng.sample(some, 5))]
        out.append((_turn(texts, [talk.one("talk", rng) for _ in range(4)], rng), JOINED, first["group"]))
    return out


def written(rng: random.Random, many: int, industries: Sequence[str]) -> list[tuple[str, str, str]]:
    """Text, source and group: sentences of one industry of the grammar, and small talk between them."""
    grammar = load_grammar("care")
    out = []
    for _ in range(many):
        industry = rng.choice(industries)
        texts = [grammar.one(industry, rng) for _ in range(6)]
        talk = [grammar.one("talk", rng) for _ in range(4)]
        out.append((_turn(texts, talk, rng), f"{WRITTEN}: {industry}", f"{WRITTEN} {texts[-1]}"))
    return out


def _turn(texts: Sequence[str], talk: Sequence[str], rng: random.Random) -> str:
    """Sentences one after another up to a length that is drawn, as people type or as a recogniser writes."""
    wanted = rng.randrange(SHORTEST, LONGEST)
    left, small = list(texts), list(talk)
    said = ""
    while left and len(said) < wanted:
        sentence = (small if small and said and rng.random() < TALK else left).pop()
        if _sentence(sentence) not in said:
            said = f"{said} {_sentence(sentence)}".strip()
    if rng.random() < 0.2:
        said = "".join(c for c in said.lower() if c not in ".,!?")
    return said


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else ".")


def long_turns(trainer: Trainer) -> NDArray[np.bool_]:
    """Which examples are labelled turns in a row: those that say how often a new long turn is doubted."""
    return np.array([example.source == JOINED for example in trainer.corpus.examples])
