"""The passages that answer a question: by meaning and by words, fused.

It knows a store, an index of words and an embedding function that is handed in; not who asks, nor what becomes of the passages.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.ingest import digest, passages_of, read_articles
from rag.stores.chroma import ChromaStore
from rag.types import Passage

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

CANDIDATES = 20
# Passages embedded in one call: a large knowledge base must neither overflow a bounded embedder nor keep it from others for long.
EMBEDDED_AT_ONCE = 64
# Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009: k = 60.
RRF_K = 60
_WORD = re.compile(r"[a-z0-9]+")
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "for",
        "from",
        "have",
        "how",
        "i",
        "in",
        "is",
        "it",
        "me",
        "my",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "was",
        "what",
        "when",
        "where",
        "will",
        "with",
        "you",
        "your",
    ]
)


class Knowledge:
    """A knowledge base. ``start`` ingests (only if the content changed); ``retrieve`` answers."""

    def __init__(self, embed: Embed, directory: Path | None = None) -> None:
        self._embed = embed
        self._directory = directory
        self._passages: dict[str, Passage] = {}
        self._store: ChromaStore | None = None
        self._words: WordIndex | None = None

    def __len__(self) -> int:
        """Passages that can be found."""
        return len(self._passages)

    async def start(self, articles: Path) -> None:
        """Reads the articles of a folder and indexes what is new. Raises: ValueError for a folder that cannot be used."""
        passages = passages_of(await asyncio.to_thread(read_articles, articles))
        self._passages = {passage.id: passage for passage in passages}
        self._store = await asyncio.to_thread(ChromaStore, "passages", self._directory)
        self._words = await asyncio.to_thread(WordIndex, passages)
        wanted = digest(passages)
        if self._store.digest != wanted:
            texts = [f"{passage.title}. {passage.text}" for passage in passages]
            parts = [await self._embed(texts[n : n + EMBEDDED_AT_ONCE]) for n in range(0, len(texts), EMBEDDED_AT_ONCE)]
            await asyncio.to_thread(self._store.replace, list(self._passages), np.concatenate(parts), wanted)

    async def retrieve(self, question: str, limit: int = 4) -> list[Passage]:
        """The best passages, best first; none for an empty question. ``score`` is the fused reciprocal rank."""
        if self._store is None or self._words is None:
            raise RuntimeError("the knowledge base has not been started")
        if not question.strip():
            return []
        vector = (await self._embed([question]))[0]
        most = min(CANDIDATES, len(self._passages))
        near, worded = await asyncio.gather(
            asyncio.to_thread(self._store.nearest, vector, most), asyncio.to_thread(self._words.best, question, most)
        )
        fused = fuse([near, worded])[:limit]
        return [_scored(self._passages[name], score) for name, score in fused]

    async def aclose(self) -> None:
        """Lets the store go. May be called twice, and before a start."""
        store, self._store = self._store, None
        if store is not None:
            await asyncio.to_thread(store.close)


class WordIndex:
    """BM25 over the passages' words: the only place that knows bm25s."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        self._ids = [passage.id for passage in passages]
        self._index: Any = bm25s.BM25()
        self._index.index([words(f"{passage.title} {passage.text}") for passage in passages], show_progress=False)

    def best(self, question: str, limit: int) -> list[str]:
        """Ids of passages that share words with the question, best first."""
        asked = words(question)
        if not asked:
            return []
        found, scores = self._index.retrieve([asked], k=limit, show_progress=False)
        return [self._ids[place] for place, score in zip(found[0], scores[0], strict=True) if score > 0]


def words(text: str) -> list[str]:
    """The words of a text that say something, lower-case, plurals cut."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in _WORD.findall(text.lower()) if w not in _STOP]


def fuse(rankings: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
    """Reciprocal rank fusion: each ranking gives an id 1 / (60 + rank); best first, ties by id."""
    total: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            total[name] = total.get(name, 0.0) + 1 / (RRF_K + rank)
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


def _scored(passage: Passage, score: float) -> Passage:
    return Passage(passage.id, passage.title, passage.text, passage.source, score)
