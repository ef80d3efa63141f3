"""A detector in two stages: n-grams over every piece of a text, and where they leave doubt, a small head over sentence vectors.

It knows weights and readings (guardrails/detectors/reading.py), not what its labels mean. Scores are probabilities, calibrated on texts that the weights
were not fitted on (see the model cards). The first stage alone decides only that a text is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.ngrams import Linear, grams
from guardrails.detectors.reading import Reading, Remembered

MODELS = Path(__file__).parents[1] / "models"
READ_PIECES = 3
WHOLE_CHARS = 6000
HARMLESS = -8.0
ARRAYS = (
    *("linear", "scale", "bias", "whole", "whole_scale", "whole_bias", "w1", "b1", "w2", "b2"),
    *("doubt", "slope", "shift", "text_weights", "text_bias", "margin"),
)
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """All arrays of one detector, as its file keeps them.

    ``linear`` int16 (2 * BUCKETS, k) with ``scale`` and ``bias`` (k,), for pieces, and ``whole``... for texts of several pieces; the head ``w1`` (384 + k, h),
    ``b1``, ``w2`` (h, k), ``b2``; ``doubt`` (k,): the n-gram logit from which the head is asked; ``slope`` and ``shift`` (k,): from a piece's logit
    to that of a short text; ``text_weights`` (k, 6), ``text_bias`` (k,): of a long one; ``margin`` (k,): by which one piece of a long text must be worse.
    """

    labels: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Raises: ValueError for a file that is none of ours."""
        wanted = {*ARRAYS, "labels"}
        with np.load(path, allow_pickle=False) as kept:
            if missing := wanted - set(kept.files):
                raise ValueError(f"{path}: lacks {', '.join(sorted(missing))}")
            arrays = {name: kept[name] for name in wanted}
        return cls(tuple(json.loads(str(arrays.pop("labels")))), arrays)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, labels=np.array(json.dumps(self.labels)), **dict(self.arrays))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Glance:
    """What n-grams say of a text, for each label of a first stage: ``pieces`` (n, k), ``over`` doubt (k,), and ``passed`` (k,), the
    probability where nothing is over."""

    pieces: Vector
    over: Vector
    passed: Vector


class FirstStage:
    """The n-gram models of some detectors side by side, so that a text is read once for all of them."""

    def __init__(self, weights: Sequence[Weights]) -> None:
        kept = {name: [one.arrays[name] for one in weights] for name in ("linear", "scale", "bias", "doubt")}
        scale, bias, self._doubt = (
            np.concatenate(kept[name]).astype(np.float32) for name in ("scale", "bias", "doubt")
        )
        self._linear = Linear(np.hstack(kept["linear"]), scale, bias)

    def glance(self, reading: Reading) -> Glance:
        known: Glance | None = reading.glances.get(self)
        if known is None:
            pieces = np.array([self._linear.logits(found) for found in reading.grams])
            over = pieces.max(axis=0) - self._doubt
            known = reading.glances[self] = Glance(pieces, over, _probabilities(harmless(over)))
        return known


def cascades(weights: Mapping[str, Weights]) -> dict[str, Cascade]:
    """Detectors by name that share their first stage."""
    first = FirstStage(list(weights.values()))
    built: dict[str, Cascade] = {}
    start = 0
    for name, one in weights.items():
        built[name] = Cascade(one, first, start)
        start += len(one.labels)
    return built


class Cascade:
    """Scores readings under some weights, and remembers scores. Its labels stand at ``start`` in ``first``."""

    def __init__(self, weights: Weights, first: FirstStage | None = None, start: int = 0) -> None:
        kept = {name: array.astype(np.float32) for name, array in weights.arrays.items() if name != "linear"}
        self.labels = weights.labels
        self._first = first or FirstStage([weights])
        self._mine = slice(start, start + len(weights.labels))
        self._whole = Linear(weights.arrays["whole"], kept["whole_scale"], kept["whole_bias"])
        self._head = [kept[name] for name in ("w1", "b1", "w2", "b2")]
        self._slope, self._shift = kept["slope"], kept["shift"]
        self._text_weights, self._text_bias, self._margin = kept["text_weights"], kept["text_bias"], kept["margin"]
        self._known: Remembered[Vector] = Remembered()
        self.asked = 0  # how often the head was asked

    def at_once(self, reading: Reading) -> Vector | None:
        """Probability of each label, shape (k,), if it is remembered or n-grams alone find the text harmless; else None."""
        if (known := self._known.get(reading.digest)) is not None:
            return known
        glance = self._first.glance(reading)
        if glance.over[self._mine].max() >= 0:
            return None
        return self._known.keep(reading.digest, glance.passed[self._mine])

    def glimpse(self, reading: Reading) -> Vector:
        """What n-grams alone say of each label, shape (k,): probabilities that are not calibrated."""
        return _probabilities(self._first.glance(reading).pieces[:, self._mine].max(axis=0))

    async def scores(self, reading: Reading) -> Vector:
        """Probability of each label, shape (k,). Raises: RuntimeError in doubt without embeddings."""
        if (known := self._known.get(reading.digest)) is not None:
            return known
        return self._known.keep(reading.digest, _probabilities(await self.logits(reading)))

    async def logits(self, reading: Reading) -> Vector:
        """Of each label, shape (k,); 0 is where a text of the kind that it was fitted on starts to be flagged."""
        glance = self._first.glance(reading)
        over = glance.over[self._mine]
        if over.max() < 0:
            return harmless(over).astype(np.float32)
        pieces = glance.pieces[:, self._mine]
        self.asked += 1
        places = np.argsort(-pieces.max(axis=1), kind="stable")[:READ_PIECES]
        heads = self.head(await reading.vectors(places.tolist()), pieces[places])
        each = heads + pieces[places]
        if reading.shown == 1:
            return np.asarray(self._slope * each.max(axis=0) + self._shift, dtype=np.float32)
        whole = self._whole.logits(grams(reading.plain[:WHOLE_CHARS]))
        features = text_features(heads, pieces[: reading.shown], whole)
        as_text = (self._text_weights * features).sum(axis=1) + self._text_bias
        worst = (each - self._margin * (places < reading.shown)[:, None]).max(axis=0)  # what was hidden stands alone
        return np.asarray(np.maximum(as_text, self._slope * worst + self._shift), dtype=np.float32)

    def head(self, vectors: Vector, logits: Vector) -> Vector:
        """Logits of the head for pieces, shape (n, k)."""
        w1, b1, w2, b2 = self._head
        features = np.hstack([vectors * np.float32(vectors.shape[1] ** 0.5), 2 * np.tanh(logits / 4)])
        out: Vector = np.maximum(features @ w1 + b1, 0) @ w2 + b2
        return out


def harmless(over: NDArray[Any]) -> NDArray[Any]:
    """Logits of texts that n-grams alone find harmless, in the order of what they are short of doubt (``over``, below 0)."""
    return np.asarray(HARMLESS + np.maximum(over, -10) / 5)


def _probabilities(logits: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)


def text_features(heads: Vector, pieces: Vector, whole: Vector) -> Vector:
    """What a long text is judged by, for each label: shape (k, 6). ``heads`` (read, k), ``pieces`` (all, k), ``whole`` (k,)."""
    top = -np.sort(-pieces, axis=0)[:READ_PIECES]
    rows = [heads.max(axis=0), heads.mean(axis=0), top[0], top.mean(axis=0), pieces.mean(axis=0), whole]
    return np.asarray(np.stack(rows, axis=1) / 4, dtype=np.float32)
