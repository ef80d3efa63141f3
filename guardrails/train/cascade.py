"""How every two-stage detector is fitted: n-grams first, then a small head over sentence vectors, both scored on texts they were not fitted on.

Texts are read in segments of at most 300 characters, so that length says nothing. Figures come from folds that keep a group (near-duplicates, a grammar's
template) together; the weights that ship are fitted on everything. It knows examples and labels, not where they come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from guardrails.detectors.ngrams import BUCKETS, Grams, grams
from guardrails.detectors.reading import Reading

FOLDS = 4
MOST_SEGMENTS = 16  # of a text while training
READ_SEGMENTS = 3  # that the head reads of a text
HIDDEN = 48
Floats = NDArray[np.float64]
Embedder = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its labels (shape (k,), nan where unknown). ``group``: what must not be split; ``source``: where it comes from."""

    text: str
    labels: tuple[float, ...]
    source: str
    group: str
    weight: float = 1.0
    head: bool = True  # whether the head is fitted on it too


@dataclass(slots=True)
class Corpus:
    """Examples cut into the pieces that guardrails.detectors.reading reads. ``owner``: the example of each; ``hidden``: found by decoding it."""

    examples: list[Example]
    texts: list[str] = field(default_factory=list)
    owner: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    hidden: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    grams: list[Grams] = field(default_factory=list)
    matrix: csr_matrix = field(default_factory=lambda: csr_matrix((0, 2 * BUCKETS)))

    @classmethod
    def read(cls, examples: Sequence[Example]) -> Corpus:
        corpus = cls(list(examples))
        owner: list[int] = []
        hidden: list[bool] = []
        for place, example in enumerate(corpus.examples):
            reading = Reading(example.text, None)
            shown, found = _some(reading.pieces[: reading.shown]), _some(reading.pieces[reading.shown :])
            corpus.texts += shown + found
            owner += [place] * (len(shown) + len(found))
            hidden += [False] * len(shown) + [True] * len(found)
        corpus.owner, corpus.hidden = np.array(owner), np.array(hidden)
        corpus.grams = [grams(text) for text in corpus.texts]
        corpus.matrix = matrix_of(corpus.grams)
        return corpus

    def labels(self) -> Floats:
        return np.array([example.labels for example in self.examples])

    def folds(self) -> NDArray[np.int64]:
        """The fold of each example, by its group."""
        return np.array([fold_of(example.group) for example in self.examples])


def _some(pieces: list[str]) -> list[str]:
    """At most 16 of them, from the first to the last."""
    if len(pieces) <= MOST_SEGMENTS:
        return pieces
    return [pieces[i] for i in np.linspace(0, len(pieces) - 1, MOST_SEGMENTS).astype(int)]


def fold_of(group: str) -> int:
    return hashlib.sha256(group.encode()).digest()[0] % FOLDS


def matrix_of(found: Sequence[Grams]) -> csr_matrix:
    """Rows of hashed features, both kinds of unit length, as guardrails.detectors.ngrams.Linear weighs them."""
    indices = np.concatenate([part for one in found for part in (one.words, one.chars)])
    sizes = np.array([size for one in found for size in (len(one.words), len(one.chars))])
    data = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32)
    pointer = np.r_[0, np.cumsum(sizes.reshape(-1, 2).sum(axis=1))]
    return csr_matrix((data, indices, pointer), shape=(len(found), 2 * BUCKETS), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class FittedLinear:
    """One logistic model over n-grams: weights of shape (2 * BUCKETS,)."""

    weights: Floats
    bias: float

    def logits(self, matrix: csr_matrix) -> Floats:
        out: Floats = matrix @ self.weights + self.bias
        return out


def fit_linear(matrix: csr_matrix, wanted: Floats, weight: Floats, strength: float = 30.0) -> FittedLinear:
    """A logistic regression with the classes balanced to one to two. ``wanted``: 0 or 1, shape (n,)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=120, tol=1e-3)
    model.fit(matrix, wanted > 0.5, sample_weight=balanced(wanted, weight))
    return FittedLinear(model.coef_[0], float(model.intercept_[0]))


def balanced(wanted: Floats, weight: Floats, share: float = 1 / 3) -> Floats:
    """Weights with which the positives make up ``share`` of all."""
    yes = wanted > 0.5
    total = weight.sum()
    out: Floats = np.where(yes, weight * share / weight[yes].sum(), weight * (1 - share) / weight[~yes].sum()) * total
    return out


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A network with one hidden layer (ReLU) over [sentence vector, n-gram logits]; one logit for each label."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats

    def logits(self, features: Floats) -> Floats:
        out: Floats = np.maximum(features @ self.w1 + self.b1, 0) @ self.w2 + self.b2
        return out


def head_features(vectors: NDArray[np.float32], linear: Floats) -> Floats:
    """What the head reads: the vector at unit variance, and the n-gram logits tamed. Shapes (n, 384), (n, k)."""
    return np.hstack([vectors * np.sqrt(vectors.shape[1]), 2 * np.tanh(linear / 4)]).astype(np.float64)


def merged(heads: Sequence[FittedHead]) -> FittedHead:
    """One head that gives the mean of several."""
    n = len(heads)
    w1, b1 = np.hstack([head.w1 for head in heads]), np.hstack([head.b1 for head in heads])
    w2, b2 = np.vstack([head.w2 for head in heads]) / n, np.mean([head.b2 for head in heads], axis=0)
    return FittedHead(w1, b1, w2, b2)


def fit_head(
    features: Floats, wanted: Floats, weight: Floats, seed: int = 0, alpha: float = 3e-3, epochs: int = 25
) -> FittedHead:
    """``wanted``: shape (n, k), nan where unknown. Adam on the log loss of the known labels, weight decay ``alpha``. In single precision."""
    single = np.float32
    rng = np.random.default_rng(seed)
    features = features.astype(single)
    n, width = features.shape
    k = wanted.shape[1]
    weights = np.stack([_balanced_known(wanted[:, j], weight) for j in range(k)], axis=1).astype(single)
    target = np.nan_to_num(wanted).astype(single)
    params = [
        rng.normal(0, np.sqrt(2 / width), (width, HIDDEN)).astype(single),
        np.zeros(HIDDEN, dtype=single),
        rng.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, k)).astype(single),
        np.full(k, -0.7, dtype=single),
    ]
    first = [np.zeros_like(p) for p in params]
    second = [np.zeros_like(p) for p in params]
    batch, step = 128, 0
    total_steps = epochs * (n // batch + 1)
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            x = features[rows] * (rng.random((len(rows), width), dtype=single) > 0.1) / single(0.9)
            hidden = np.maximum(x @ params[0] + params[1], 0)
            mask = (rng.random(hidden.shape, dtype=single) > 0.3) / single(0.7)
            dropped = hidden * mask
            error = (1 / (1 + np.exp(-(dropped @ params[2] + params[3]))) - target[rows]) * weights[rows] / len(rows)
            back = (error @ params[2].T) * mask * (hidden > 0)
            gradients = [x.T @ back, back.sum(0), dropped.T @ error, error.sum(0)]
            step += 1
            rate = single(2e-3 * 0.5 * (1 + np.cos(np.pi * step / total_steps)))
            for i, gradient in enumerate(gradients):
                first[i] = single(0.9) * first[i] + single(0.1) * gradient
                second[i] = single(0.999) * second[i] + single(0.001) * gradient**2
                move = first[i] / single(1 - 0.9**step) / (np.sqrt(second[i] / single(1 - 0.999**step)) + single(1e-8))
                params[i] -= rate * (move + (single(alpha) * params[i] if i in (0, 2) else 0))
    return FittedHead(*(p.astype(np.float64) for p in params))


def _balanced_known(wanted: Floats, weight: Floats) -> Floats:
    known = ~np.isnan(wanted)
    out = np.zeros(len(wanted))
    if known.any() and (wanted[known] > 0.5).any():
        out[known] = balanced(wanted[known], weight[known])
        out[known] /= out[known].mean()
    return out


class Vectors:
    """Sentence vectors, each text embedded once; ``path`` keeps them between runs."""

    def __init__(self, embed: Embedder, path: Path | None = None) -> None:
        self._embed = embed
        self._path = path
        self._known: dict[str, NDArray[np.float32]] = {}
        if path is not None and path.is_file():
            kept = np.load(path)
            self._known = dict(zip(kept["texts"].tolist(), kept["vectors"].astype(np.float32), strict=True))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n, 384)."""
        new = sorted({text for text in texts if _key(text) not in self._known}, key=len)
        for start in range(0, len(new), 512):
            some = new[start : start + 512]
            vectors = self._embed(some).astype(np.float16).astype(np.float32)  # as they are kept, so that runs agree
            self._known |= dict(zip(map(_key, some), vectors, strict=True))
        if new and self._path is not None:
            np.savez(
                self._path, texts=list(self._known), vectors=np.stack(list(self._known.values())).astype(np.float16)
            )
        return np.stack([self._known[_key(text)] for text in texts])


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
