"""Ordinary texts of labelled sets that every detector must let pass: what callers and users say, and what people and articles say. It labels nothing but 0."""

from __future__ import annotations

import random
from pathlib import Path

from guardrails.train.cascade import Example
from guardrails.train.data import rows

TURNS = ("topic_banking77.jsonl", "topic_clinc150.jsonl", "topic_nlupp.jsonl")


def turns(data: Path, rng: random.Random) -> list[Example]:
    """What callers of a bank and users of an assistant say."""
    return [
        Example(row["text"], (0.0,), name, row["group"], 1.0, rng.random() < 0.3)
        for name in TURNS
        for row in rows(data / name)
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
