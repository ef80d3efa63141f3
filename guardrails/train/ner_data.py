"""Labelled sets and word lists for the name model, read into one shape.

presidio-research's synthetic set (MIT), Restaurant8K, Banking77, CLINC150, NLU++ (CC-BY), GoEmotions and the DSTC10 knowledge base (Apache-2.0). Rows of
the validation part are returned only where asked for. Makes no sentences itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from guardrails.train.data import is_validation, rows
from guardrails.train.ner_names import Example, Lists, Spans, joined

HERE = Path(__file__).parent
LABELS = {
    "PERSON": "PERSON",
    "STREET_ADDRESS": "STREET_ADDRESS",
    "GPE": "LOCATION",
    "ORGANIZATION": "ORGANIZATION",
    "ZIP_CODE": "ZIP",
}
# Written prose (Apache, MIT, CC-BY) from which only counts of lower-case words are taken.
WRITTEN = {
    "topic_banking77": ("text",),
    "tone_goemotions": ("text",),
    "judge_hallucination_halueval_general": ("prompt", "response"),
    "judge_pairwise_llmbar": ("prompt", "output_1", "output_2"),
    "rag_dstc10_kb": ("title", "body"),
    "guard_benign": ("text",),
    "guard_attacks": ("text",),
    "guard_harmful_requests": ("text",),
    "rag_abcd_guidelines_kb": ("text",),
}


def synthetic_rows(folder: Path, held_out: bool) -> list[Example]:
    """Rows of presidio-research's set; held out by template, so that a template is on one side only."""
    return [
        (
            row["text"],
            joined(
                row["text"], [(s["start"], s["end"], LABELS[s["type"]]) for s in row["spans"] if s["type"] in LABELS]
            ),
        )
        for row in rows(folder / "pii_presidio_synth.jsonl")
        if is_validation(f"template {row['template_id']}") == held_out
    ]


def restaurant_rows(folder: Path, held_out: bool) -> list[Example]:
    """Rows of Restaurant8K."""
    return [
        (
            row["text"],
            joined(row["text"], [(s["start"], s["end"], "PERSON") for s in row["spans"] if s["type"] == "PERSON"]),
        )
        for row in rows(folder / "pii_restaurant8k.jsonl")
        if is_validation(row["text"]) == held_out
    ]


def ordinary_rows(folder: Path, held_out: bool) -> list[Example]:
    """Turns of Banking77, CLINC150 and NLU++ with the names that are truly there: annotated, or checked by hand (``true_names``)."""
    checked = true_names()
    out = []
    for name in ("topic_banking77", "topic_clinc150", "topic_nlupp"):
        for row in rows(folder / f"{name}.jsonl"):
            text = row["text"]
            if is_validation(text) == held_out:
                named = [(s["start"], s["end"]) for s in row.get("spans", ()) if s["type"] == "person_name"]
                spans = [(start, end, "PERSON") for start, end in [*named, *checked.get(text_digest(text), ())]]
                out.append((text, joined(text, sorted(set(spans)))))
    return out


def true_names() -> dict[str, list[tuple[int, int]]]:
    """Places of names in ordinary turns, checked by hand, by digest of the text."""
    kept: dict[str, list[list[int]]] = json.loads((HERE / "true_names.json").read_text(encoding="utf-8"))
    return {key: [(start, end) for start, end in spans] for key, spans in kept.items()}


def text_digest(text: str) -> str:
    """The name of a text in a list that shows no text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lower_case_words(folder: Path) -> Counter[str]:
    """How often a word is written in lower case where sentences have capitals: names hardly ever are."""
    counts: Counter[str] = Counter()
    for name, fields in WRITTEN.items():
        for row in rows(folder / f"{name}.jsonl"):
            for field in fields:
                counts.update(re.findall(r"(?<![^\W\d_'\u2019-])[a-z]+(?![^\W\d_])", str(row.get(field) or "")))
    return counts


def known_places(text: str, places: set[str]) -> Spans:
    """Large towns and countries in a turn without labels."""
    words = [match.span() for match in re.finditer(r"[^\W\d_]+", text)]
    spans: Spans = []
    position = 0
    while position < len(words):
        for size in (3, 2, 1):
            last = position + size
            if last <= len(words) and text[words[position][0] : words[last - 1][1]].lower() in places:
                spans.append((words[position][0], words[last - 1][1], "LOCATION"))
                position = last - 1
                break
        position += 1
    return spans


def masked_texts(folder: Path) -> list[str]:
    """Texts of GoEmotions; people are [NAME] there."""
    return [row["text"] for row in rows(folder / "tone_goemotions.jsonl")]


def venue_rows(folder: Path) -> Iterator[Example]:
    """Questions and answers about hotels and restaurants: organisations and towns, no people."""
    for row in rows(folder / "rag_dstc10_kb.jsonl"):
        for text in (row["title"], row["body"]):
            spans: Spans = []
            for value, label in ((row.get("entity"), "ORGANIZATION"), (row.get("city"), "LOCATION")):
                for match in re.finditer(rf"\b{re.escape(value)}\b", text) if value and value != "*" else ():
                    if not any(a < match.end() and match.start() < b for a, b, _ in spans):
                        spans.append((match.start(), match.end(), label))
            yield text, sorted(spans)


def word_classes(lists: Lists, common: Counter[str]) -> dict[str, int]:
    """The class of each lower-case word: how common it is as first name, last name, part of a place, and in lower-case text."""
    first: Counter[str] = Counter({name.lower(): 1 for group in lists.first for name in group})
    first.update({name.lower(): 2 for name in lists.census_first[:600] + lists.census_first[4275:4900]})
    last: Counter[str] = Counter({name.lower(): 1 for group in [*lists.last, lists.census_last] for name in group})
    last.update({name.lower(): 2 for name in lists.census_last[:5000]})
    place: Counter[str] = Counter()
    for name, people in lists.towns:
        if people >= 15_000:
            place.update({word: 1 for word in re.findall(r"[^\W\d_]{3,}", name.lower()) if not place[word]})
    whole = [name for name, people in lists.towns if people >= 300_000] + lists.countries + [n for n, _ in lists.states]
    place.update({name.lower(): 2 for name in whole if " " not in name})
    classes = {}
    for word in {*common, *first, *last, *place}:
        seen = 2 if common[word] >= 60 else int(common[word] >= 3)
        number = 27 * min(2, first[word]) + 9 * min(2, last[word]) + 3 * min(2, place[word]) + seen
        if number and re.fullmatch(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?", word):
            classes[word] = number
    return classes
