"""Names, addresses, places and organisations: trains the small spaCy model that the name finder runs.

Rows of the fixed validation fifth are never seen. Values are swapped between training rows and half of the examples are lower-cased without
punctuation, as speech recognition writes them. It knows nothing of patterns, and learns English alone.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from guardrails.train.data import is_validation, rows

LABELS = {"PERSON": "PERSON", "STREET_ADDRESS": "STREET_ADDRESS", "GPE": "GPE", "ORGANIZATION": "ORG"}
NEGATIVES = ("topic_banking77.jsonl", "topic_clinc150.jsonl")
OUTPUT = Path(__file__).parents[1] / "models" / "ner"
Spans = list[tuple[int, int, str]]
Example = tuple[str, Spans]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it goes, and how long it may take."""
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--cpu-seconds", type=float, default=480.0, help="CPU time after which training stops")
    parser.add_argument("--seed", type=int, default=7)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, store, and measure on the held-out fifth."""
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    labelled = labelled_rows(arguments.data)
    training = [example for example in labelled if not is_validation(example[0])]
    held_out = [example for example in labelled if is_validation(example[0])]
    negatives = negative_rows(arguments.data, training)
    nlp, spent_s, steps = _train(training, negatives, rng, arguments.cpu_seconds, arguments.seed)
    nlp.to_disk(arguments.output)
    figures: dict[str, Any] = {"cpu_s": round(spent_s), "steps": steps, "training_rows": len(training)}
    figures["validation"] = score(nlp, held_out)
    figures["validation_lower"] = score(nlp, [(text.lower(), spans) for text, spans in held_out])
    return figures


def labelled_rows(folder: Path) -> list[Example]:
    """Rows of both sets with the kinds that the model learns."""
    found: list[Example] = []
    for name in ("pii_presidio_synth.jsonl", "pii_restaurant8k.jsonl"):
        for row in rows(folder / name):
            spans = [(s["start"], s["end"], LABELS[s["type"]]) for s in row["spans"] if s["type"] in LABELS]
            if spans or "synth" in name or _one_in_four(row["text"]):
                found.append((row["text"], spans))
    return found


def _one_in_four(text: str) -> bool:
    """One in four rows without a name: they would drown the others."""
    return sum(text.encode()) % 4 == 0


def negative_rows(folder: Path, training: list[Example]) -> list[Example]:
    """Ordinary turns without anything personal: no word of theirs is in a training value of three letters or more."""
    words = {
        word.lower()
        for text, spans in training
        for start, end, label in spans
        if label in {"PERSON", "GPE"}
        for word in text[start:end].split()
        if len(word) > 2
    }
    ordinary = {"will", "may", "new", "can", "the", "and", "how", "for", "way", "not", "are", "has"}
    return [
        (row["text"], [])
        for name in NEGATIVES
        for row in rows(folder / name)
        if not is_validation(row["text"]) and not (words - ordinary).intersection(row["text"].lower().split())
    ]


def varied(example: Example, pools: dict[str, list[str]], rng: random.Random) -> Example:
    """The row with other values of the same kind (two in three), and as speech recognition writes it (one in two)."""
    text, spans = example
    swap, spoken = rng.random() < 0.66, rng.random() < 0.5
    pieces: list[str] = []
    changed: Spans = []
    position = length = 0
    for start, end, label in sorted(spans):
        value = rng.choice(pools[label]) if swap else text[start:end]
        before = text[position:start]
        pieces += [before, value]
        changed.append((length + len(before), length + len(before) + len(value), label))
        length += len(before) + len(value)
        position = end
    whole = "".join([*pieces, text[position:]])
    if spoken:
        lowered = whole.lower()
        if len(lowered) == len(whole):
            whole = "".join(" " if c in ",.?!" else c for c in lowered) if rng.random() < 0.5 else lowered
    return whole, changed


def score(nlp: Any, examples: list[Example]) -> dict[str, float]:
    """Recall a label and precision over all, by overlap and same label."""
    hits: dict[str, int] = defaultdict(int)
    gold: dict[str, int] = defaultdict(int)
    found = right = 0
    for doc, (_, spans) in zip(nlp.pipe(text for text, _ in examples), examples, strict=True):
        entities = [(e.start_char, e.end_char, e.label_) for e in doc.ents]
        for start, end, label in spans:
            gold[label] += 1
            hits[label] += any(kind == label and a < end and b > start for a, b, kind in entities)
        found += len(entities)
        right += sum(
            any(kind == label and start < b and end > a for a, b, label in spans) for start, end, kind in entities
        )
    return {f"recall.{label}": hits[label] / gold[label] for label in sorted(gold)} | {
        "precision": right / max(1, found)
    }


def _train(
    training: list[Example], negatives: list[Example], rng: random.Random, cpu_s: float, seed: int
) -> tuple[Any, float, int]:
    import spacy
    from spacy.training import Example as Pair
    from spacy.util import fix_random_seed

    fix_random_seed(seed)
    nlp = spacy.blank("en")
    tok2vec = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "width": 96,
        "depth": 4,
        "embed_size": 2000,
        "window_size": 1,
        "maxout_pieces": 3,
        "subword_features": True,
        "pretrained_vectors": None,
    }
    model = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
        "tok2vec": tok2vec,
    }
    nlp.add_pipe("ner", config={"model": model})
    pools: dict[str, list[str]] = defaultdict(list)
    for text, spans in training:
        for start, end, label in spans:
            pools[label].append(text[start:end])

    def pair(example: Example) -> Any:
        doc = nlp.make_doc(example[0])
        entities = [doc.char_span(*span, alignment_mode="expand") for span in example[1]]
        return Pair.from_dict(doc, {"entities": [(e.start_char, e.end_char, e.label_) for e in entities if e]})

    nlp.initialize(lambda: [pair(e) for e in training[:2000]])
    begun, steps = time.process_time(), 0
    optimizer = nlp.create_optimizer()
    positives = [e for e in training if e[1]]
    while time.process_time() - begun < cpu_s:
        chosen = [varied(rng.choice(positives), pools, rng) for _ in range(40)] + [
            varied(rng.choice(training), pools, rng) for _ in range(8)
        ]
        chosen += rng.sample(negatives, 16)
        optimizer.learn_rate = 0.001 * max(0.1, 1 - (time.process_time() - begun) / cpu_s)
        nlp.update([pair(e) for e in chosen], drop=0.2, sgd=optimizer)
        steps += 1
    return nlp, time.process_time() - begun, steps
