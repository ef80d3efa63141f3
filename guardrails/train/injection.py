"""Training of the injection and jailbreak cascade: `python -m guardrails.train injection --data DIR`.

Attacks and look-alikes come from the labelled sets (MIT, Apache, CC-BY, ODC-BY) and from the grammars of phrases/, which also make families that no set has.
"""

from __future__ import annotations

import random
from pathlib import Path

from guardrails.train.cascade import Example
from guardrails.train.data import rows
from guardrails.train.grammar import load_grammar

SEED = 7
EACH_FAMILY = 450
TURNS = ("topic_banking77.jsonl", "topic_clinc150.jsonl", "topic_nlupp.jsonl")


def examples(data: Path) -> list[Example]:
    """All examples: label 1 an attack on the model's instructions."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    return [*_labelled(data), *_turns(data, rng), *_general(data, rng), *_written(rng)]


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


def _turns(data: Path, rng: random.Random) -> list[Example]:
    return [
        Example(row["text"], (0.0,), name, row["group"], 1.0, rng.random() < 0.3)
        for name in TURNS
        for row in rows(data / name)
    ]


def _general(data: Path, rng: random.Random) -> list[Example]:
    """Ordinary requests to assistants, remarks of people, sentences of articles."""
    found = [
        (row["prompt"], "judge_hallucination_halueval_general.jsonl")
        for row in rows(data / "judge_hallucination_halueval_general.jsonl")
    ]
    found += [(row["prompt"], "judge_pairwise_llmbar.jsonl") for row in rows(data / "judge_pairwise_llmbar.jsonl")]
    remarks = [row["text"] for row in rows(data / "tone_goemotions.jsonl")]
    found += [(text, "tone_goemotions.jsonl") for text in rng.sample(remarks, min(3000, len(remarks)))]
    articles = [f"{row['title']} {row['body']}" for row in rows(data / "rag_dstc10_kb.jsonl")]
    found += [(text, "rag_dstc10_kb.jsonl") for text in rng.sample(articles, min(1000, len(articles)))]
    return [
        Example(text, (0.0,), source, text.lower()[:60], 1.0, rng.random() < 0.6)
        for text, source in dict(found).items()
    ]


def _written(rng: random.Random) -> list[Example]:
    out = []
    for name, label in (("attacks", 1.0), ("multilingual_attacks", 1.0), ("ordinary", 0.0)):
        grammar = load_grammar(name)
        for family in grammar.families:
            wanted = EACH_FAMILY if name != "ordinary" or family == "documents" else 5 * EACH_FAMILY
            texts = grammar.many(family, wanted if name != "multilingual_attacks" else 150, rng)
            repeats = 1 if len(texts) > 100 else 3
            weight = 0.5 * repeats
            out += [
                Example(_roughened(text, rng), (label,), f"{name}: {family}", f"{name} {family}", weight)
                for text in texts
            ]
    return out


def _roughened(text: str, rng: random.Random) -> str:
    """One in three as people type: without punctuation, in capitals, or with a letter wrong."""
    how = rng.random()
    if how < 0.08:
        return text.upper()
    if how < 0.2:
        return "".join(c for c in text if c not in ".,!?:;'\"")
    if how < 0.33 and len(text) > 12:
        place = rng.randrange(1, len(text) - 2)
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text
