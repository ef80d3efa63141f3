"""Orders to an assistant inside a passage, an e-mail or the result of a tool: found sentence by sentence, since whole texts hide them.

A sentence is suspicious when it asks something of whoever reads it and has little to do with its neighbours. It knows sentences, not where a text came from.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.cascade import MODELS
from guardrails.detectors.ngrams import Linear, grams
from guardrails.detectors.normalise import hidden, plain
from guardrails.detectors.reading import Reading, Remembered

MOST_SENTENCES = 24  # that vectors are made of; the most suspicious by n-grams
LONGEST_SENTENCE = 240
ARRAYS = ("linear", "scale", "bias", "w1", "b1", "w2", "b2", "slope", "shift")
Floats = NDArray[np.float32]
_END = re.compile(r"(?<=[.!?])\s+|\n+|\s{3,}|\|")


def sentences(text: str) -> list[str]:
    """Plain sentences of a text, each of at most 240 characters, without those that hold no word."""
    out = []
    for one in _END.split(text):
        piece = plain(one or "")
        out += [piece[start : start + LONGEST_SENTENCE] for start in range(0, len(piece), LONGEST_SENTENCE)]
    return [piece for piece in out if sum(c.isalpha() for c in piece) > 3]


def sentence_features(vectors: Floats, logits: Floats) -> Floats:
    """What the head reads of each sentence: its vector, its n-gram logit, and how near the others are. Shapes (n, 384), (n,)."""
    n = len(vectors)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, 0.0)
    mean = alike.sum(axis=1) / max(1, n - 1)
    most = alike.max(axis=1) if n > 1 else np.zeros(n, dtype=np.float32)
    tamed = 2 * np.tanh(logits / 4)
    return np.hstack([vectors * vectors.shape[1] ** 0.5, tamed[:, None], 6 * mean[:, None], 3 * most[:, None]]).astype(
        np.float32
    )


class IndirectDetector:
    """Scores a passage by its most suspicious sentence."""

    def __init__(self, path: Path = MODELS / "indirect" / "weights.npz") -> None:
        with np.load(path, allow_pickle=False) as kept:
            arrays: dict[str, Any] = {name: kept[name] for name in ARRAYS}
        self._linear = Linear(arrays["linear"], arrays["scale"], arrays["bias"])
        self._head = [arrays[name] for name in ("w1", "b1", "w2", "b2")]
        self._slope, self._shift = float(arrays["slope"]), float(arrays["shift"])
        self._known: Remembered[float] = Remembered()

    def at_once(self, reading: Reading) -> float | None:
        """The score of a passage that was read before; else None."""
        return self._known.get(reading.digest)

    async def score(self, reading: Reading) -> float:
        """Probability that the text holds an order to an assistant. Raises: RuntimeError without embeddings."""
        if (known := self._known.get(reading.digest)) is not None:
            return known
        found = sentences(reading.text)
        for secret in hidden(reading.text):
            found += sentences(secret)
        if not found:
            return 0.0
        logits = np.array([self._linear.logits(grams(one))[0] for one in found], dtype=np.float32)
        read = np.sort(np.argsort(-logits, kind="stable")[:MOST_SENTENCES])
        vectors = await reading.embedded([found[place] for place in read])
        logit = float(self.logits(vectors, logits[read]).max())
        score = float(1 / (1 + np.exp(-np.clip(self._slope * logit + self._shift, -30, 30))))
        return self._known.keep(reading.digest, score)

    def logits(self, vectors: Floats, linear: Floats) -> Floats:
        """Of each sentence, shape (n,)."""
        w1, b1, w2, b2 = self._head
        hidden_units = np.maximum(sentence_features(vectors, linear) @ w1 + b1, 0)
        return np.asarray((hidden_units @ w2 + b2)[:, 0] + linear, dtype=np.float32)
