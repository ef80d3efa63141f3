"""A detector in two stages: n-grams over every piece of a text, and where they leave doubt, a small head over sentence vectors.

It knows weights and readings (guardrails/detectors/reading.py), not what its labels mean. Scores are probabilities, calibrated on texts that the weights
were not fitted on (see the model cards). The first stage alone decides only that a text is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.ngrams import Linear
from guardrails.detectors.reading import Reading, Remembered

MODELS = Path(__file__).parents[1] / "models"
READ_PIECES = 3
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """All arrays of one detector, as its file keeps them.

    ``linear`` int8 (2 * BUCKETS, k) with ``scale`` and ``bias`` (k,); the head ``w1`` (384 + k, h), ``b1``, ``w2`` (h, k), ``b2``; ``doubt`` (k,): the
    n-gram logit from which the head is asked; ``slope`` and ``shift`` (k,): from logits to probabilities; ``labels``: k names.
    """

    labels: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Raises: ValueError for a file that is none of ours."""
        wanted = {"linear", "scale", "bias", "w1", "b1", "w2", "b2", "doubt", "slope", "shift", "labels"}
        with np.load(path, allow_pickle=False) as kept:
            if missing := wanted - set(kept.files):
                raise ValueError(f"{path}: lacks {', '.join(sorted(missing))}")
            arrays = {name: kept[name] for name in wanted}
        return cls(tuple(json.loads(str(arrays.pop("labels")))), arrays)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, labels=np.array(json.dumps(self.labels)), **dict(self.arrays))  # type: ignore[arg-type]


class Cascade:
    """Scores readings under some weights, and remembers scores."""

    def __init__(self, weights: Weights) -> None:
        kept = weights.arrays
        self.labels = weights.labels
        self._linear = Linear(
            kept["linear"].astype(np.float32) * kept["scale"].astype(np.float32), kept["bias"].astype(np.float32)
        )
        self._head = [kept[name].astype(np.float32) for name in ("w1", "b1", "w2", "b2")]
        self._doubt = kept["doubt"].astype(np.float32)
        self._slope, self._shift = kept["slope"].astype(np.float32), kept["shift"].astype(np.float32)
        self._known: Remembered[Vector] = Remembered()
        self.asked = 0  # how often the head was asked

    async def scores(self, reading: Reading) -> Vector:
        """Probability of each label, shape (k,). Raises: RuntimeError in doubt without embeddings."""
        if (known := self._known.get(reading.digest)) is not None:
            return known
        logits = np.stack([self._linear.logits(found) for found in reading.grams])
        places = self.doubtful(logits)
        if len(places):
            self.asked += 1
            vectors = await reading.vectors(places.tolist())
            best = self.head(vectors, logits[places]).max(axis=0)
        else:
            best = (
                np.minimum(logits.max(axis=0) - self._doubt, 0) - 6
            )  # below every head's logit that a threshold could be at
        scores: Vector = 1 / (1 + np.exp(-(self._slope * best + self._shift)))
        return self._known.keep(reading.digest, scores)

    def doubtful(self, logits: Vector) -> NDArray[np.int64]:
        """The pieces that the head must read: none, or the most suspicious, at most three."""
        excess = (logits - self._doubt).max(axis=1)
        if excess.max() < 0:
            return np.empty(0, dtype=np.int64)
        order: NDArray[np.int64] = np.argsort(-excess, kind="stable")[:READ_PIECES]
        return order

    def head(self, vectors: Vector, logits: Vector) -> Vector:
        """Logits of the head for pieces, shape (n, k)."""
        w1, b1, w2, b2 = self._head
        features = np.hstack([vectors * np.float32(vectors.shape[1] ** 0.5), 2 * np.tanh(logits / 4)])
        out: Vector = np.maximum(features @ w1 + b1, 0) @ w2 + b2
        return out
