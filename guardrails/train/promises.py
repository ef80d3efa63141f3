"""Training of the off-brand promises cascade: `python -m guardrails.train promises --data DIR`.

What an assistant must not say by itself: money or success promised, legal advice or liability admitted, medical advice. No labelled set has it, so positives are a grammar of our own, and so
are the hardest negatives; the others are what assistants, articles and guidelines say. Figures are of templates that were left out.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from guardrails.detectors.promises import LABELS
from guardrails.train.care import amid
from guardrails.train.cascade import Example, Floats
from guardrails.train.data import rows
from guardrails.train.detector import Aims, from_sources, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.points import Limits

SEED = 19
EACH_TEMPLATE = 30
AMID = 8  # of those behind a calm sentence, and as many amid what callers say
FLAGGED_ANSWERS, FLAGGED_LOOK_ALIKES = 0.002, 0.03
DOUBTED = 0.04  # of what assistants and articles say
ANSWERS = ("judge_hallucination_halueval_general.jsonl", "rag_dstc10_kb.jsonl", "rag_abcd_guidelines_kb.jsonl")
LOOK_ALIKES = "promises: harmless"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "promises")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the figures of templates and answers that were left out."""
    done = train(
        chosen, LABELS, examples(chosen.data), _aims
    )  # the grammar is folded by template, as real texts by group
    return rounded(measured(done.trainer, done.points.logits))


def _aims(trainer: Trainer) -> Aims:
    answers, alike = from_sources(trainer, *ANSWERS), from_sources(trainer, LOOK_ALIKES)
    short = ((answers & trainer.heads, FLAGGED_ANSWERS), (alike, FLAGGED_LOOK_ALIKES))
    return Aims([Limits(short, ((answers, FLAGGED_ANSWERS),))] * len(LABELS), [answers], DOUBTED)


def measured(trainer: Trainer, logits: Floats) -> dict[str, float]:
    """Shares flagged: of each kind by its own label, of answers and look-alikes by any."""
    flagged = logits > 0
    figures = {}
    for k, label in enumerate(LABELS):
        of = from_sources(trainer, f"promises: {label}")
        figures[label] = float(flagged[of, k].mean())
        figures[f"{label}.amid"] = float(flagged[from_sources(trainer, f"promises: {label} amid others"), k].mean())
    for source in (*ANSWERS, LOOK_ALIKES):
        figures[source] = float(flagged[from_sources(trainer, source) & trainer.heads].any(axis=1).mean())
    return figures


def examples(data: Path) -> list[Example]:
    """All examples, one label for each kind."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    return [*_said(data, rng), *_written(rng)]


def _said(data: Path, rng: random.Random) -> list[Example]:
    """What assistants, articles and guidelines say."""
    found = [(row["response"], ANSWERS[0]) for row in rows(data / ANSWERS[0])]
    found += [(row["body"], ANSWERS[1]) for row in rng.sample(rows(data / ANSWERS[1]), 4000)]
    found += [(row["body"], ANSWERS[2]) for row in rows(data / ANSWERS[2])]
    none = tuple(0.0 for _ in LABELS)
    return [Example(text, none, source, text[:40], 1.0, rng.random() < 0.6) for text, source in dict(found).items()]


def _written(rng: random.Random) -> list[Example]:
    grammar = load_grammar("promises")
    calm = grammar.families["harmless"]
    out = []
    for family, templates in grammar.families.items():
        labels = tuple(float(family == label) for label in LABELS)
        for template in templates:
            texts = list(dict.fromkeys(grammar.fill(template, rng) for _ in range(EACH_TEMPLATE)))
            out += [Example(_begun(text), labels, f"promises: {family}", template, 0.7) for text in texts]
            among = [" ".join([_begun(grammar.fill(rng.choice(calm), rng)), _begun(text)]) for text in texts[:AMID]]
            among += [amid(rng, text) for text in texts[-AMID:]]
            out += [Example(text, labels, f"promises: {family} amid others", template, 0.7) for text in among]
    return out


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]
