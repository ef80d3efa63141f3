"""A small tagger of names: features of words, four convolutions, and the best valid sequence of tags; numpy only.

A token's embedding does not depend on its neighbours, so it is computed once a word and kept within bounds; then a text of 25 words costs about
0.3 ms, a tenth of a spaCy pipeline. Knows nothing of patterns, threads or requests. Training is in ``guardrails.train``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LABELS = ("PERSON", "STREET_ADDRESS", "LOCATION", "ORGANIZATION")
TAGS = ("O", *(f"{border}-{label}" for label in LABELS for border in "BILU"))
TOKEN = re.compile(r"['\u2019]s\b|[^\W\d_]+(?:['\u2019](?!s\b)[^\W\d_]+)*|\d+|\n|[^\s\w]|_")
TABLES = {"norm": 16_000, "norm2": 16_000, "prefix": 5_000, "suffix": 6_000, "suffix2": 1_500, "shape": 1_000}
CLASSES = 81  # first name (3) x last name (3) x place (3) x common word (3)
CLASS_ROWS = CLASSES + 12
ROWS = sum(TABLES.values()) + CLASS_ROWS
KEPT_WORDS = 20_000  # then they are forgotten; with their vectors about 10 MB
LAYERS = 4
GAP = 1  # rows of zeros between texts of a batch


def tokens(text: str) -> list[tuple[int, int]]:
    """Places of words, runs of digits, line ends and single marks."""
    return [match.span() for match in TOKEN.finditer(text)]


def features(word: str, classes: dict[str, int]) -> list[int]:
    """Rows of the embedding table for one word, always eleven; the last five are its class in the lists of names."""
    lower = word.lower()
    digits = lower[0].isdigit() if lower else False
    norm = f"#{len(lower)}" if digits else lower
    shape = _shape(word)
    rows, base = [], 0
    for (name, size), text in zip(TABLES.items(), (norm, norm, lower[:3], lower[-3:], lower[-2:], shape), strict=True):
        rows.append(base + crc32(f"{name}:{text}".encode("utf-8", "surrogatepass")) % size)
        base += size
    return rows + class_rows(classes.get(lower, 0))


def class_rows(number: int) -> list[int]:
    """Rows of a word's class: the whole, and each of its four parts."""
    base = ROWS - CLASS_ROWS
    parts = (number // 27, number // 9 % 3, number // 3 % 3, number % 3)
    return [base + number, *(base + CLASSES + 3 * place + part for place, part in enumerate(parts))]


def _shape(word: str) -> str:
    if word[0].isdigit():
        return "d" * min(len(word), 6)
    if word == "\n":
        return "\n"
    if not word[0].isalpha():
        return word
    if word.isupper():
        return "X" if len(word) == 1 else "XX"
    if word[0].isupper():
        return "Xx" if word[1:].islower() else "XxX"
    return "x" if len(word) == 1 else "xx" if word.islower() else "xX"


class Tagger:
    """Weights and lists of names as stored; ``tag`` may be called from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises: OSError, ValueError or KeyError when the folder does not hold a tagger.

        From then on this process's linear algebra runs on one thread: a turn is too small to share (0.7 against 2.9 ms CPU).
        """
        threadpoolctl.threadpool_limits(1, user_api="blas")
        with np.load(folder / "weights.npz", allow_pickle=False) as stored:
            self._weights = {name: stored[name].astype(np.float32) for name in stored.files}
        kept = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self._classes = {word: int(number) for number, words in kept.items() for word in words.split()}
        self.limits = np.array(json.loads((folder / "card.json").read_text(encoding="utf-8"))["limits"], np.float32)
        self._known: dict[str, int] = {}
        width = self._weights["embedding"].shape[1]
        # Row 0 stays zero: what stands between texts. Written at once, so that memory does not grow later.
        self._vectors: Floats = np.full((KEPT_WORDS + 1, width), 0, np.float32)

    def tag(self, texts: Sequence[str]) -> list[list[tuple[str, int, int, float]]]:
        """(label, start, end, probability) of each text, by place."""
        places = [tokens(text) for text in texts]
        if len(self._known) + sum(map(len, places)) > KEPT_WORDS:
            self._known.clear()
        rows: list[int] = [0] * GAP
        for text, spans in zip(texts, places, strict=True):
            rows += [self._row(text[start:end]) for start, end in spans]
            rows += [0] * GAP
        states = self._vectors[rows]
        real = (np.array(rows) > 0).astype(np.float32)[:, None]
        logits = forward(self._weights, states, real)
        found, position = [], GAP
        for spans in places:
            found.append(list(self._entities(spans, logits[position : position + len(spans)])))
            position += len(spans) + GAP
        return found

    def _row(self, word: str) -> int:
        row = self._known.get(word)
        if row is None:
            row = self._known[word] = len(self._known) + 1
            self._vectors[row] = embedded(self._weights, np.array([features(word, self._classes)]))[0]
        return row

    def _entities(self, spans: Sequence[tuple[int, int]], logits: Floats) -> Iterator[tuple[str, int, int, float]]:
        if not spans:
            return
        best = logits.argmax(1)
        if not best.any():
            return
        tags = best.tolist() if valid(best.tolist()) else viterbi(logits)
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        sums = shifted.sum(1)
        begun = 0
        for place, tag in enumerate(tags):
            if tag == 0:
                continue
            border, label = (tag - 1) % 4, (tag - 1) // 4
            if border in (0, 3):
                begun = place
            if border in (2, 3):
                outside = shifted[begun : place + 1, 0] / sums[begun : place + 1]
                sure = 1 - float(outside.mean())
                if sure >= self.limits[label]:
                    yield LABELS[label], spans[begun][0], spans[place][1], sure


def embedded(weights: dict[str, Floats], rows: NDArray[np.int64]) -> Floats:
    """Vectors of words out of their feature rows."""
    return normalised(weights["embedding"][rows].sum(1), weights["gain_e"], weights["shift_e"])


def normalised(values: Floats, gain: Floats, shift: Floats) -> Floats:
    """Layer normalisation of rows. Means are products: a third of the time that numpy's reductions take."""
    share = np.full(values.shape[1], 1 / values.shape[1], np.float32)
    result: Floats = values - (values @ share)[:, None]
    spread = np.sqrt((result * result) @ share + np.float32(1e-6))
    result /= spread[:, None]
    result *= gain
    result += shift
    return result


def forward(weights: dict[str, Floats], states: Floats, real: Floats) -> Floats:
    """Logits of each token. ``real``: 1 for tokens, 0 for the rows between texts, which stay zero."""
    count, width = states.shape
    padded = np.zeros((count + 2, width), np.float32)
    inner = padded[1:-1]
    np.multiply(states, real, out=inner)
    for layer in range(LAYERS):
        window = np.concatenate([padded[:-2], inner, padded[2:]], 1)
        pieces = window @ weights[f"mix{layer}"]
        pieces += weights[f"bias{layer}"]
        most = np.maximum(pieces[:, :width], pieces[:, width:])
        change = normalised(most, weights[f"gain{layer}"], weights[f"shift{layer}"])
        change *= real
        inner += change
    logits: Floats = inner @ weights["out"] + weights["out_bias"]
    return logits


def _follows() -> NDArray[np.bool_]:
    """Which tag may follow which."""
    allowed = np.zeros((len(TAGS), len(TAGS)), bool)
    for one, tag in enumerate(TAGS):
        for other, following in enumerate(TAGS):
            opened = tag[0] in "BI"
            continues = following[0] in "IL" and opened and tag[2:] == following[2:]
            allowed[one, other] = continues if opened or following[0] in "IL" else True
    return allowed


FOLLOWS = _follows()
NOT_FIRST = np.array([tag[0] in "IL" for tag in TAGS])
NOT_LAST = np.array([tag[0] in "BI" for tag in TAGS])
_PENALTY = np.where(FOLLOWS, 0.0, -1e6).astype(np.float32)


def valid(tags: Sequence[int]) -> bool:
    """Whether a sequence of tags opens and closes properly."""
    return (
        not NOT_FIRST[tags[0]] and not NOT_LAST[tags[-1]] and all(FOLLOWS[one, other] for one, other in pairwise(tags))
    )


def viterbi(logits: Floats) -> list[int]:
    """The best valid sequence."""
    score = np.where(NOT_FIRST, -1e6, logits[0])
    back = []
    for row in logits[1:]:
        table = score[:, None] + _PENALTY
        came = table.argmax(0)
        back.append(came)
        score = table[came, np.arange(len(TAGS))] + row
    tag = int(np.where(NOT_LAST, -1e6, score).argmax())
    path = [tag]
    for came in reversed(back):
        tag = int(came[tag])
        path.append(tag)
    return path[::-1]
