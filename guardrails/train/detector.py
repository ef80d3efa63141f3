"""What the training of every two-stage detector does, in order: read, score out of fold, choose operating points, fit on everything, write the weights.

It knows neither texts nor what labels mean; the modules that are named after detectors do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.cascade import MODELS
from guardrails.train.cascade import Corpus, Example, Vectors
from guardrails.train.data import sentence_embedder
from guardrails.train.fit import Mask, Scores, Trainer, shipped
from guardrails.train.points import Limits, Points, operating_points


@dataclass(frozen=True, slots=True)
class Aims:
    """``limits``: of each label; ``asked``: kinds of ordinary turns, of each of which the head may be asked about ``share``."""

    limits: list[Limits]
    asked: list[Mask]
    share: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A corpus and what was learnt out of fold: ``points`` hold the logits that figures are made of."""

    trainer: Trainer
    scores: Scores
    points: Points


def weights_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--out", type=Path, default=MODELS / name / "weights.npz", help="where the weights go")
    parser.add_argument("--vectors", type=Path, help="a file that keeps sentence vectors between runs (.npz)")


def train(
    chosen: argparse.Namespace,
    labels: tuple[str, ...],
    examples: Sequence[Example],
    aims: Callable[[Trainer], Aims],
    written: tuple[str, ...] = (),
    epochs: int = 25,
    strength: float = 30.0,
    heads: int = 1,
) -> Trained:
    """Trains and writes the weights. ``written``: beginnings of the sources whose families are left out whole."""
    corpus = Corpus.read(examples)
    made = np.array([example.source.startswith(written) for example in corpus.examples])
    note(f"{len(corpus.examples)} examples, {len(corpus.texts)} pieces")
    trainer = Trainer(corpus, Vectors(sentence_embedder(1), chosen.vectors), made, epochs, strength, heads)
    scores = trainer.out_of_fold(note)
    wanted = aims(trainer)
    points = operating_points(trainer, scores, wanted.limits, wanted.asked, wanted.share)
    shipped(labels, trainer.fit(scores), points.arrays).save(chosen.out)
    return Trained(trainer, scores, points)


def note(said: str) -> None:
    """Progress, for people."""
    print(f"{time.process_time():.0f} s CPU: {said}", file=sys.stderr, flush=True)


def from_sources(trainer: Trainer, *sources: str) -> NDArray[np.bool_]:
    """Which examples come from these sources."""
    return np.array([example.source in sources for example in trainer.corpus.examples])


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
