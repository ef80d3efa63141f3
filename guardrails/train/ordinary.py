"""Ordinary texts of labelled sets that every detector must let pass: what callers and users say, and what people and articles say. It labels nothing but 0."""

from __future__ import annotations

import random
from pathlib import Path

from guardrails.train.cascade import Example, fold_of
from guardrails.train.data import is_measured, rows
from guardrails.train.grammar import load_grammar

EVERYDAY = {  # families of the grammar of that name, and how many texts of each
    "tasks": 1600,
    "articles": 700,
    "answers": 800,
    "follow_ups": 1200,
    "complaints": 600,
    "closings": 100,
    "about_others": 300,
}
BEGINNINGS = (
    "",
    "",
    "",
    "",
    "Thanks. ",
    "Alright. ",
    "Perfect, thank you. ",
    "Ok great. ",
    "Yes. ",
    "No. ",
    "Sounds good. ",
    "I see. ",
)
JOINTS = (
    ". ",
    " ",
    "? ",
    " and ",
    " and also ",
    ". Also, ",
    ". And then ",
    ". By the way, ",
    ". One more thing: ",
    ", and after that ",
    ". Then ",
    " - ",
)
CALLS = ("calls", "calls_abroad")
TURNS = ("topic_banking77.jsonl", "topic_clinc150.jsonl", "topic_nlupp.jsonl")


def turns(data: Path, rng: random.Random) -> list[Example]:
    """What callers of a bank and users of an assistant say."""
    return [
        Example(row["text"], (0.0,), name, row["group"], 1.0, rng.random() < 0.3)
        for name in TURNS
        for row in rows(data / name)
    ]


def everyday(rng: random.Random, labels: tuple[float, ...] = (0.0,), weight: float = 0.4) -> list[Example]:
    """Applications' own requests, answers to security questions, short turns, complaints, thanks: written ones."""
    grammar = load_grammar("everyday")
    return [
        Example(text, labels, f"everyday: {family}", f"everyday {family}", weight, rng.random() < 0.5)
        for family, many in EVERYDAY.items()
        for text in grammar.many(family, many, rng)
    ]


def calls(
    rng: random.Random, each: int, labels: tuple[float, ...] = (0.0,), weight: float = 0.5, abroad: bool = True
) -> list[Example]:
    """What callers of many businesses say, in English and in other languages, at most ``each`` of a family; and two or three of a family in a row."""
    out = []
    for name in CALLS if abroad else CALLS[:1]:
        grammar = load_grammar(name)
        for family in grammar.families:
            texts = grammar.many(family, each, rng)
            texts += [" ".join(rng.sample(texts, rng.choice((2, 2, 3)))) for _ in range(min(each // 4, len(texts)))]
            heavier = weight * min(4.0, max(1.0, each / len(texts)))
            out += [Example(text, labels, f"{name}: {family}", f"{name} {family}", heavier) for text in texts]
    return out


def mixed(data: Path, rng: random.Random, many: int) -> list[Example]:
    """Two requests in one turn, as half of an attack often is an honest one; both of one fold."""
    found = [(row["text"], row["group"]) for name in (TURNS[0], TURNS[2]) for row in rows(data / name)]
    found += [(row["text"], row["text"].lower()[:60]) for row in rows(data / "pii_restaurant8k.jsonl")]
    calls = load_grammar("calls")
    found += [(text, f"calls {family}") for family in calls.families for text in calls.many(family, 60, rng)]
    by_fold: dict[int, list[tuple[str, str]]] = {}
    for text, group in found:
        by_fold.setdefault(fold_of(group), []).append((text, group))
    out = []
    for _ in range(many):
        (first, group), (second, _group) = rng.sample(by_fold[rng.choice(sorted(by_fold))], 2)
        text = f"{rng.choice(BEGINNINGS)}{first}{rng.choice(JOINTS)}{second}"
        out.append(Example(text.strip(), (0.0,), "two requests", group, 0.3, rng.random() < 0.6))
    return out


def spoken(data: Path) -> list[Example]:
    """What tourists say on the phone, as a recogniser wrote it: the half of the dialogues that is not measured."""
    return [
        Example(turn["text"], (0.0,), "rag_dstc10_spoken.jsonl", row["id"])
        for row in rows(data / "rag_dstc10_spoken.jsonl")
        if not is_measured(row["id"])
        for turn in row["turns"]
        if turn["speaker"] == "customer"
    ]


def general(data: Path, rng: random.Random) -> list[Example]:
    """Ordinary requests to assistants, remarks of people, sentences of articles."""
    found = [
        (row["prompt"], "judge_hallucination_halueval_general.jsonl")
        for row in rows(data / "judge_hallucination_halueval_general.jsonl")
    ]
    booking = [row["text"] for row in rows(data / "pii_restaurant8k.jsonl")]
    found += [(text, "pii_restaurant8k.jsonl") for text in rng.sample(booking, min(3000, len(booking)))]
    found += [(row["prompt"], "judge_pairwise_llmbar.jsonl") for row in rows(data / "judge_pairwise_llmbar.jsonl")]
    remarks = [row["text"] for row in rows(data / "tone_goemotions.jsonl")]
    found += [(text, "tone_goemotions.jsonl") for text in rng.sample(remarks, min(3000, len(remarks)))]
    articles = [f"{row['title']} {row['body']}" for row in rows(data / "rag_dstc10_kb.jsonl")]
    found += [(text, "rag_dstc10_kb.jsonl") for text in rng.sample(articles, min(1000, len(articles)))]
    return [
        Example(text, (0.0,), source, text.lower()[:60], 1.0, rng.random() < 0.6)
        for text, source in dict(found).items()
    ]
