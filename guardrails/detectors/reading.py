"""One text as the trained rails read it, made once for all of them: its segments, what was hidden in it, n-grams, and sentence vectors when asked.

It judges nothing and keeps no text: a Reading lives as long as the check that it was made for, and scores are remembered by keyed digest alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.ngrams import Grams, grams, segments
from guardrails.detectors.normalise import hidden, plain, unleeted
from guardrails.tools import ToolCall

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
REMEMBERED = 4096
_KEY = secrets.token_bytes(16)
Score = TypeVar("Score")


class Reading:
    """A text and what is derived from it, each derived once. Without ``embed`` there are no vectors. ``call``: the tool call it
    stands for; ``context``: the conversation before it.
    """

    def __init__(
        self,
        text: str,
        embed: Embed | None,
        call: ToolCall | None = None,
        context: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.text = text
        self.call = call
        self.context = context
        self._embed = embed
        self.glances: dict[object, Any] = {}  # by the first stage that looked (guardrails/detectors/cascade.py)
        self._runs: dict[
            int, tuple[asyncio.Future[NDArray[np.float32]], int]
        ] = {}  # of pieces: a run and the row in it

    @cached_property
    def plain(self) -> str:
        return plain(self.text)

    @cached_property
    def digest(self) -> bytes:
        """Of the text as it came, under a key of this process (plain texts are alike where what they hide is not)."""
        return hashlib.blake2b(self.text.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=16).digest()

    @cached_property
    def shown(self) -> int:
        """How many of the pieces are the text itself; the rest was hidden in it."""
        return len(segments(self.plain))

    @cached_property
    def pieces(self) -> list[str]:
        """Segments of the text, then those of what was hidden in it; all plain, each of at most 300 characters."""
        out = segments(self.plain)
        letters = unleeted(self.text)
        for other in ([letters] if letters is not self.text else []) + hidden(self.text):
            out += segments(plain(other))
        return out

    @cached_property
    def grams(self) -> list[Grams]:
        """Of each piece."""
        return [grams(piece) for piece in self.pieces]

    async def vectors(self, places: Sequence[int]) -> NDArray[np.float32]:
        """Unit vectors of some pieces, shape (n, 384); rails that want the same piece share one run.

        Raises: RuntimeError without embeddings, and whatever the model raises.
        """
        if self._embed is None:
            raise RuntimeError("this rail needs embeddings; set embedding.enabled")
        new = [place for place in places if place not in self._runs]
        if new:
            run = asyncio.ensure_future(self._embed([self.pieces[place] for place in new]))
            self._runs |= {place: (run, row) for row, place in enumerate(new)}
        found = [self._runs[place] for place in places]
        return np.stack([(await asyncio.shield(run))[row] for run, row in found])

    async def embedded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of other plain texts made from this one. Raises: as ``vectors``."""
        if self._embed is None:
            raise RuntimeError("this rail needs embeddings; set embedding.enabled")
        return await self._embed(texts)


class Remembered(Generic[Score]):
    """The last 4,096 scores by digest of their text; no text is kept."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Score] = OrderedDict()

    def get(self, digest: bytes) -> Score | None:
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
        return known

    def keep(self, digest: bytes, score: Score) -> Score:
        self._known[digest] = score
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return score
