"""Ordinary texts of labelled sets that every detector must let pass: what callers and users say, and what people and articles say. It labels nothing but 0."""

from __future__ import annotations

import random
from pathlib import Path

from guardrails.train.cascade import Example
from guardrails.train.data import rows
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
