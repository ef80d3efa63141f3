"""A whole detector fitted from a corpus: out-of-fold logits of both stages and of texts as wholes, operating points, and the weights that ship.

Written texts (of a grammar) are always in the training part where real ones are tested, and the other way round families of the grammar are tested whole.
It knows no file names but the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.cascade import READ_PIECES, WHOLE_CHARS, Weights, text_features
from guardrails.detectors.ngrams import grams
from guardrails.detectors.normalise import plain
from guardrails.train.cascade import (
    FOLDS,
    Corpus,
    FittedHead,
    FittedLinear,
    Floats,
    Vectors,
    fit_head,
    fit_linear,
    head_features,
    matrix_of,
    merged,
)

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Fitted:
    """Everything that one training part gives: n-gram models, the head, and n-gram models of whole texts, one for each label."""

    linear: list[FittedLinear]
    head: FittedHead
    whole: list[FittedLinear]


@dataclass(slots=True)
class Scores:
    """Logits of a corpus: ``pieces`` n-grams and ``heads`` (nan where not read), shape (pieces, k); ``whole`` (texts, k)."""

    pieces: Floats
    heads: Floats
    whole: Floats


class Trainer:
    """Fits and scores one corpus. ``written``: which examples come from a grammar. ``heads``: how many networks the head is the mean of."""

    def __init__(
        self,
        corpus: Corpus,
        vectors: Vectors,
        written: Mask,
        epochs: int = 25,
        strength: float = 30.0,
        heads: int = 1,
    ) -> None:
        self.corpus, self.written, self._epochs, self._strength = corpus, written, epochs, strength
        self._heads = heads
        self.labels = corpus.labels()
        self.counts = np.bincount(corpus.owner)
        weight = np.array([example.weight for example in corpus.examples])
        self.weight = weight
        self.heads = np.array([example.head for example in corpus.examples])
        self._piece_weight = weight[corpus.owner] / np.sqrt(self.counts[corpus.owner])
        self.long = np.bincount(corpus.owner, ~corpus.hidden) > 1
        texts = [
            plain(e.text)[:WHOLE_CHARS] if many else "" for e, many in zip(corpus.examples, self.long, strict=True)
        ]
        self._whole = matrix_of([grams(text) for text in texts])
        self._vectors = vectors

    def fit_pieces(self, part: Mask) -> list[FittedLinear]:
        rows = part[self.corpus.owner]
        return [
            self._linear(self.corpus.matrix, self.labels[self.corpus.owner, k], self._piece_weight, rows)
            for k in range(self.labels.shape[1])
        ]

    def fit_whole(self, part: Mask) -> list[FittedLinear]:
        return [
            self._linear(self._whole, self.labels[:, k], self.weight, part & self.long)
            for k in range(self.labels.shape[1])
        ]

    def _linear(self, matrix: object, wanted: Floats, weight: Floats, rows: Mask) -> FittedLinear:
        known = rows & ~np.isnan(wanted)
        if len(set(wanted[known] > 0.5)) < 2:
            return FittedLinear(np.zeros(matrix.shape[1]), 0.0)  # type: ignore[attr-defined]
        return fit_linear(matrix[known], wanted[known], weight[known], self._strength)  # type: ignore[index]

    def ranks(self, pieces: Floats) -> NDArray[np.int64]:
        """Of each piece among those of its text, by its highest logit."""
        best = pieces.max(axis=1)
        order = np.lexsort((-best, self.corpus.owner))
        starts = np.r_[0, np.cumsum(self.counts)[:-1]]
        out = np.empty(len(best), dtype=np.int64)
        out[order] = np.arange(len(best)) - starts[self.corpus.owner[order]]
        return out

    def features(self, rows: NDArray[np.int64], pieces: Floats) -> Floats:
        vectors = self._vectors([self.corpus.texts[i] for i in rows])
        return head_features(vectors, pieces[rows])

    def read(self, pieces: Floats) -> Mask:
        """Which pieces the head reads: the most suspicious three of each text that it is fitted on."""
        read: Mask = (self.ranks(pieces) < READ_PIECES) & self.heads[self.corpus.owner]
        return read

    def fit_head(self, part: Mask, pieces: Floats) -> FittedHead:
        """On pieces of the part; of a long positive text only those that look positive, since not each of them is."""
        wanted = self.labels[self.corpus.owner]
        fits = (np.nan_to_num(wanted) < 0.5).all(axis=1) | (self.ranks(pieces) == 0) | (pieces.max(axis=1) > 0)
        rows = np.flatnonzero(self.read(pieces) & part[self.corpus.owner] & fits)
        features, weight = self.features(rows, pieces), self._piece_weight[rows]
        return merged(
            [
                fit_head(features, wanted[rows], weight, seed, alpha=3e-2, epochs=self._epochs)
                for seed in range(self._heads)
            ]
        )

    def fit(self, scores: Scores) -> Fitted:
        """On everything; the head learns from out-of-fold n-gram logits, which look like those of new texts."""
        all_of_it = np.ones(len(self.labels), dtype=bool)
        return Fitted(self.fit_pieces(all_of_it), self.fit_head(all_of_it, scores.pieces), self.fit_whole(all_of_it))

    def out_of_fold(self, note: Callable[[str], None] = print) -> Scores:
        """Logits that no text was fitted for. Real texts: by fold of their group. Written ones: by fold of their family."""
        k = self.labels.shape[1]
        folds, owner = self.corpus.folds(), self.corpus.owner
        scores = Scores(np.zeros((len(owner), k)), np.full((len(owner), k), np.nan), np.zeros((len(folds), k)))
        parts = [(folds == fold) & (self.written == made) for fold in range(FOLDS) for made in (False, True)]
        parts = [part for part in parts if part.any()]
        for part in parts:
            rows = part[owner]
            scores.pieces[rows] = np.stack([m.logits(self.corpus.matrix[rows]) for m in self.fit_pieces(~part)], axis=1)
            scores.whole[part] = np.stack([m.logits(self._whole[part]) for m in self.fit_whole(~part)], axis=1)
        note("n-grams out of fold")
        read = self.read(scores.pieces)
        for part in parts:
            rows = np.flatnonzero(part[owner] & read)
            scores.heads[rows] = self.fit_head(~part, scores.pieces).logits(self.features(rows, scores.pieces))
        note("heads out of fold")
        return scores

    def scored(self, part: Mask, known: Scores) -> Scores:
        """The part by models of all the rest; ``known``: out-of-fold scores of the rest, which the head is fitted on."""
        scores = Scores(known.pieces.copy(), np.full_like(known.heads, np.nan), known.whole.copy())
        rows = part[self.corpus.owner]
        scores.pieces[rows] = np.stack([m.logits(self.corpus.matrix[rows]) for m in self.fit_pieces(~part)], axis=1)
        scores.whole[part] = np.stack([m.logits(self._whole[part]) for m in self.fit_whole(~part)], axis=1)
        heard = np.flatnonzero(rows & self.read(scores.pieces))
        scores.heads[heard] = self.fit_head(~part, scores.pieces).logits(self.features(heard, scores.pieces))
        return scores

    def worst(self, scores: Scores, margin: Floats) -> Floats:
        """Logits of the most suspicious piece of each text, shape (texts, k); those that a long one shows are less by the ``margin`` (k,)."""
        spared = (self.long[self.corpus.owner] & ~self.corpus.hidden)[:, None] * margin
        both = np.nan_to_num(scores.heads + scores.pieces - spared, nan=-np.inf)
        out = np.full(self.labels.shape, -np.inf)
        np.maximum.at(out, self.corpus.owner, both)
        return out

    def combined(self, scores: Scores) -> tuple[Floats, Floats]:
        """Logits of the most suspicious piece of each text, shape (texts, k), and features of long texts, (texts, k, 6)."""
        n, k = self.labels.shape
        best, features = np.full((n, k), -30.0), np.zeros((n, k, 6))
        both, shown = scores.heads + scores.pieces, ~self.corpus.hidden
        for place in range(n):
            begin = int(np.searchsorted(self.corpus.owner, place))
            rows = slice(begin, begin + int(self.counts[place]))
            heard = ~np.isnan(scores.heads[rows, 0])
            if not heard.any():  # the head was not fitted on it
                continue
            best[place] = both[rows][heard].max(axis=0)
            if self.long[place]:
                parts = (
                    part.astype(np.float32)
                    for part in (scores.heads[rows][heard], scores.pieces[rows][shown[rows]], scores.whole[place])
                )
                features[place] = text_features(*parts)
        return best, features


def shipped(labels: tuple[str, ...], fitted: Fitted, points: dict[str, Floats]) -> Weights:
    """The weights as they ship: n-grams as int16 with a scale for each label, the head as float16.

    ``points``: slope, shift (k,) of a short text's logit; text_weights (k, 6), text_bias (k,) of a long one's; margin (k,), by which a single piece of a
    long text must be worse than a short text.
    """
    linear, scale = quantised(fitted.linear)
    whole, whole_scale = quantised(fitted.whole)
    head = {name: getattr(fitted.head, name).astype(np.float16) for name in ("w1", "b1", "w2", "b2")}
    arrays = {
        "linear": linear,
        "scale": scale,
        "bias": np.array([m.bias for m in fitted.linear], dtype=np.float32),
        "whole": whole,
        "whole_scale": whole_scale,
        "whole_bias": np.array([m.bias for m in fitted.whole], dtype=np.float32),
        **head,
        **{name: np.asarray(value, dtype=np.float32) for name, value in points.items()},
    }
    return Weights(labels, arrays)


def quantised(models: list[FittedLinear]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Weights as int16, shape (2 * BUCKETS, k), and the scale of each label."""
    weights = np.stack([m.weights for m in models], axis=1)
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-9) / 32767
    return np.round(weights / scale).astype(np.int16), scale.astype(np.float32)
