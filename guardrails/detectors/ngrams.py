"""Hashed n-grams of a text, and linear models over them: the first stage of every trained rail, some 40 µs a turn.

Features are words, pairs and near pairs of words, and runs of 3 to 5 bytes; both kinds have unit length by themselves, so that a long text does not
weigh more than a short one. It reads plain texts (see normalise.plain) and knows no label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16  # for words, and as many for bytes
SEGMENT_CHARS = 300
_UNIT = re.compile(r"[^\W_]+(?:'[a-z]+)?|[^\w\s]")
_PAIR, _APART, _TRIPLE = map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_BYTE, _FOUR, _FIVE = map(np.uint64, (8, 1 << 41, 1 << 42))
_SHIFTS = [np.uint64(bits) for bits in (30, 27, 48)]
_FACTORS = [np.uint64(factor) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]
_BORDER = re.compile(r"(?<=[.!?;:\n])\s+|\n")


@dataclass(frozen=True, slots=True)
class Grams:
    """Distinct buckets of one text: ``words`` below BUCKETS, ``chars`` from BUCKETS to twice that."""

    words: NDArray[np.int64]
    chars: NDArray[np.int64]


def grams(plain: str) -> Grams:
    """The features of a plain text of any length; linear in it."""
    return Grams(_word_buckets(plain), _char_buckets(plain))


def segments(plain: str, most_chars: int = SEGMENT_CHARS) -> list[str]:
    """A plain text in pieces of at most ``most_chars`` characters, cut where sentences end if they do; at least one piece."""
    if len(plain) <= most_chars:
        return [plain]
    out: list[str] = []
    held = ""
    for sentence in _BORDER.split(plain):
        rest = sentence
        while len(rest) > most_chars:
            cut = rest.rfind(" ", most_chars // 2, most_chars)
            cut = most_chars if cut < 0 else cut
            out += [held, rest[:cut]] if held else [rest[:cut]]
            held, rest = "", rest[cut:].lstrip()
        if len(held) + len(rest) + 1 > most_chars:
            out.append(held)
            held = rest
        else:
            held = f"{held} {rest}" if held else rest
    return [*out, held] if held or not out else out


class Linear:
    """One or more linear models over n-grams: int16 ``weights`` of shape (2 * BUCKETS, k), with a ``scale`` and ``bias`` each, shape (k,)."""

    def __init__(self, weights: NDArray[np.int16], scale: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        if weights.shape != (2 * BUCKETS, len(bias)):
            raise ValueError(f"expected weights of shape {(2 * BUCKETS, len(bias))}, found {weights.shape}")
        self._weights = np.ascontiguousarray(weights, dtype=np.int16)
        self._scale = scale
        self._bias = bias

    def logits(self, found: Grams) -> NDArray[np.float32]:
        """Shape (k,)."""
        words, chars = len(found.words), len(found.chars)
        share = np.empty(words + chars, dtype=np.float32)
        share[:words] = (words or 1) ** -0.5
        share[words:] = (chars or 1) ** -0.5
        rows = self._weights.take(
            np.concatenate((found.words, found.chars)), axis=0
        )  # a third of rows[...] and its sum
        out: NDArray[np.float32] = share @ rows.astype(np.float32) * self._scale + self._bias
        return out


def _word_buckets(plain: str) -> NDArray[np.int64]:
    units = _UNIT.findall(plain)
    if not units:
        return np.empty(0, dtype=np.int64)
    each = " ".join(units).encode("utf-8", "surrogatepass").split(b" ")  # no unit holds a space
    one = np.fromiter(map(crc32, each), dtype=np.uint64, count=len(each))
    two = one[:-1] * _PAIR + one[1:]
    apart = one[:-2] * _APART + one[2:]
    three = two[:-1] * _TRIPLE + one[2:]
    return _buckets(np.concatenate((one, two, apart, three)))


def _char_buckets(plain: str) -> NDArray[np.int64]:
    codes = np.frombuffer(f" {plain} ".encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.uint64)
    if len(codes) < 5:
        return np.empty(0, dtype=np.int64)
    pairs = (codes[:-1] << _BYTE) | codes[1:]
    three = (pairs[:-1] << _BYTE) | codes[2:]
    four = (three[:-1] << _BYTE) | codes[3:]
    five = (four[:-1] << _BYTE) | codes[4:]
    return _buckets(np.concatenate((three, four + _FOUR, five + _FIVE))) + BUCKETS


def _buckets(mixed: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Distinct buckets of 64-bit values, which it changes (the finisher of splitmix64, then the top 16 bits)."""
    mixed ^= mixed >> _SHIFTS[0]
    mixed *= _FACTORS[0]
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _FACTORS[1]
    found = (mixed >> _SHIFTS[2]).astype(np.uint32)  # sorted in half the time of 64 bits
    found.sort()
    keep = np.empty(len(found), dtype=bool)
    keep[:1] = True
    np.not_equal(found[1:], found[:-1], out=keep[1:])
    return found[keep].astype(np.int64)
