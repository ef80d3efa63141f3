"""Is this about the contact centre's business? A logistic head over sentence embeddings.

It knows vectors, not the model that makes them: whoever builds it hands in an embedding function. Short texts and turns that only go on
with a conversation ("yes please") are on topic by definition, since they say nothing by themselves.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

WEIGHTS = Path(__file__).parents[1] / "models" / "topic" / "head.json"
SHORTEST_WORDS = 4
READ_CHARS = 300  # what a turn is about is said early; 300 characters cost 15 ms CPU to embed, 1,000 cost 86 (2026-11)
REMEMBERED = 4096
_TOKEN = re.compile(r"\[[A-Z_]+_\d+\]")


class TopicHead:
    """The shipped head: weights of a logistic regression over 384 dimensions."""

    def __init__(self, weights: NDArray[np.float64], bias: float) -> None:
        self._weights = weights
        self._bias = bias

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> TopicHead:
        """Raises: ValueError when the file does not hold 384 weights and a bias."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        weights = np.asarray(kept["weights"], dtype=np.float64)
        if weights.shape != (384,):
            raise ValueError(f"{path}: expected 384 weights, found {weights.shape}")
        return cls(weights, float(kept["bias"]))

    def off_topic(self, vector: NDArray[np.float32]) -> float:
        """Probability, 0 to 1, that a text is off topic; calibrated on the validation part (see the model card)."""
        logit = float(self._weights @ vector) + self._bias
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


class TopicDetector:
    """Scores the last thing a caller said."""

    def __init__(self, embed: Embed, head: TopicHead) -> None:
        self._embed = embed
        self._head = head
        self._key = secrets.token_bytes(16)
        self._known: OrderedDict[bytes, float] = OrderedDict()  # by keyed digest: no text is kept

    async def score(self, text: str) -> float:
        """Probability that the text is off topic; 0 for texts under four words, which say nothing by themselves."""
        plain = readable(text)[:READ_CHARS]
        if len(plain.split()) < SHORTEST_WORDS:
            return 0.0
        digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()
        if (known := self._known.get(digest)) is not None:
            self._known.move_to_end(digest)
            return known
        score = self._known[digest] = self._head.off_topic((await self._embed([plain]))[0])
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return score


def readable(text: str) -> str:
    """The text with redaction tokens as the plain words they stand for, as the head was trained to see it."""
    return _TOKEN.sub(lambda match: match[0][1:].rsplit("_", 1)[0].replace("_", " ").lower(), text[:2000])
