"""Markdown articles in, passages out. It reads files; it knows no store.

An article begins with a level-one heading, its title. It is cut at headings and, where a section is long, at paragraphs, so that a passage
says one thing and fits the embedding model's 256 tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rag.types import Article, Passage

LONGEST_CHARS = 900
_HEADING = re.compile(r"^#{2,6}\s+(.*)$", re.MULTILINE)


def read_articles(folder: Path) -> list[Article]:
    """Every .md file of a folder, by name. Raises: ValueError for a folder without any, or an article without a title."""
    articles = []
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title, _, body = text.partition("\n")
        if not title.startswith("# "):
            raise ValueError(f"{path}:1: an article begins with its title, '# Title'")
        articles.append(Article(path.stem, title[2:].strip(), body.strip(), path.name))
    if not articles:
        raise ValueError(f"{folder} holds no articles; it needs .md files that begin with '# Title'")
    return articles


def passages_of(articles: Iterable[Article]) -> list[Passage]:
    """The passages of all articles, in order; ids are ``article#n``."""
    out = []
    for article in articles:
        for place, text in enumerate(_pieces(article.text)):
            out.append(Passage(f"{article.id}#{place}", article.title, text, article.source))
    return out


def digest(passages: Sequence[Passage]) -> str:
    """A name for the content of an index: equal content, equal digest."""
    total = hashlib.sha256()
    for passage in passages:
        total.update("\0".join((passage.id, passage.title, passage.text)).encode() + b"\1")
    return total.hexdigest()


def _pieces(text: str) -> Iterator[str]:
    parts = _HEADING.split(text)
    sections = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    for heading, body in sections:
        piece = heading.strip()
        for paragraph in re.split(r"\n\s*\n", body.strip()):
            if piece and len(piece) + len(paragraph) > LONGEST_CHARS:
                yield piece
                piece = heading.strip()
            piece = f"{piece}\n{paragraph.strip()}".strip()
        if piece and piece != heading.strip():
            yield piece
