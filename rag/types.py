"""The values of retrieval. They know no store and no model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Article:
    """A document of the knowledge base. ``source`` is its file name."""

    id: str
    title: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of an article, small enough to be shown to a model. ``score``: higher is better; only comparable within one answer."""

    id: str
    title: str
    text: str
    source: str
    score: float = 0.0
