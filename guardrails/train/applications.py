"""What a contact centre's own applications ask of a model: summaries, labels, translations, replies, around real messages, calls and articles.

Labelled sets hold what people ask; what an application asks is an instruction with somebody else's text behind it, which is also the shape of an indirect
attack. Such requests with an attack inside were tried and left out: they made the shape itself suspicious. It labels nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrails.train.cascade import Example
from guardrails.train.data import rows
from guardrails.train.grammar import Grammar, load_grammar

SOURCE = "applications"
SPEAKERS = (("Caller", "Agent"), ("Customer", "Agent"), ("Customer", "Advisor"), ("C", "A"), ("CALLER", "AGENT"))
BEFORE_MESSAGE = ("", "", "Message: ", "The customer writes: ", "Text: ", "Customer: ", "E-mail: ")
BEFORE_CALL = ("", "", "Transcript:\n", "The call:\n", "Chat:\n")
BEFORE_ARTICLE = ("Article: ", "Context: ", "Passage: ", "From the handbook: ", "Text: ", "Guideline: ")
BETWEEN = ("\n\n", "\n", " ", "\n---\n")
BEHIND = 0.3  # of the requests have their instruction behind the text
SHORTEST_ARTICLE, LONGEST_ARTICLE = 60, 500  # characters
MOST_EXCHANGES = 3
KINDS = ("over_call", "over_message", "over_article")


@dataclass(frozen=True, slots=True)
class Said:
    """What requests are put around: things that callers say, and articles with a question that each answers (or none)."""

    turns: Sequence[str]
    articles: Sequence[tuple[str, str]] = ()

    @classmethod
    def of_business(cls, data: Path, rng: random.Random) -> Said:
        """Bank customers' messages, written calls of every business, articles of handbooks of shops and other services."""
        articles = [(row["title"], row["body"]) for row in rows(data / "rag_dstc10_kb.jsonl")]
        for row in rows(data / "rag_abcd_guidelines_kb.jsonl"):
            articles += [(row["title"], part) for part in row["body"].split("\n") if len(part) > SHORTEST_ARTICLE]
        return cls([*bank_messages(data), *written_calls(rng)], articles)


def bank_messages(data: Path) -> list[str]:
    """What customers of a bank write and say."""
    spoken = [row["text"] for row in rows(data / "topic_nlupp.jsonl") if row["domain"] == "banking"]
    return [*(row["text"] for row in rows(data / "topic_banking77.jsonl")), *spoken]


def written_calls(rng: random.Random, without: Sequence[str] = ()) -> list[str]:
    """Texts of calls.txt, but for some families."""
    grammar = load_grammar("calls")
    return [text for family in grammar.families if family not in without for text in grammar.many(family, 100, rng)]


def requests(said: Said, many: int, rng: random.Random, labels: tuple[float, ...] = (0.0,)) -> list[Example]:
    """Ordinary ones; those with one instruction are of one group."""
    grammar = load_grammar("applications")
    return [
        Example(text, labels, f"{SOURCE}: {kind}", f"{SOURCE} {lead}", 0.3, rng.random() < 0.6)
        for kind, lead, text in (_request(said, grammar, rng) for _ in range(many))
    ]


def _request(said: Said, grammar: Grammar, rng: random.Random) -> tuple[str, str, str]:
    """Its kind, the template of its instruction, and the text."""
    kind = rng.choice(KINDS if said.articles else KINDS[:2])
    lead = rng.choice(grammar.families[kind])
    instruction = " ".join(
        [grammar.fill(lead, rng), *(grammar.one("limit", rng) for _ in range(rng.choice((0, 1, 1, 2))))]
    )
    agent = [grammar.one("agent", rng) for _ in range(MOST_EXCHANGES)]
    text = (
        _call(said, agent, rng)
        if kind == "over_call"
        else (_message if kind == "over_message" else _article)(said, rng)
    )
    parts = [text, instruction] if rng.random() < BEHIND else [instruction, text]
    return kind, lead, rng.choice(BETWEEN).join(parts)


def _call(said: Said, answers: Sequence[str], rng: random.Random) -> str:
    caller, agent = rng.choice(SPEAKERS)
    lines = []
    for answer in answers[: rng.randrange(1, MOST_EXCHANGES + 1)]:
        lines += [f"{caller}: {rng.choice(said.turns)}", f"{agent}: {answer}"]
    return rng.choice(BEFORE_CALL) + rng.choice(("\n", " ")).join(lines)


def _message(said: Said, rng: random.Random) -> str:
    text = " ".join(rng.sample(said.turns, rng.choice((1, 1, 2))))
    return rng.choice(BEFORE_MESSAGE) + (f'"{text}"' if rng.random() < 0.5 else text)


def _article(said: Said, rng: random.Random) -> str:
    question, body = rng.choice(said.articles)
    asked = rng.choice((f"Question: {question}", question, f"The customer asks: {question}"))
    return f"{rng.choice(BEFORE_ARTICLE)}{body[:LONGEST_ARTICLE]}{rng.choice(BETWEEN[:3])}{asked}"
