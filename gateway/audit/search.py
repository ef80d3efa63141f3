"""Looks for many values in much text at once, whatever was done to separators, case, width or encoding.

It tells which values were found, and never shows one.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

SHORTEST = 6
UNMISTAKABLE = 8  # letters and digits; a value of no more is looked for with the words before it
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def squeezed(text: str) -> str:
    """Only letters and digits, in one case and width: what is left of a value however it was written."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def needles_of(value: str, before: str) -> set[str]:
    """What gives a value away: itself, and digests and encodings of it that anybody could undo or guess."""
    bare = squeezed(value)
    needle = bare if len(bare) > UNMISTAKABLE else squeezed(before)[-12:] + bare
    raw = value.encode()
    coded = [base64.b64encode(raw).decode().rstrip("=")[:-1]] if len(raw) > UNMISTAKABLE else []
    coded += [hashlib.new(name, raw, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256")]
    return {needle, *map(squeezed, coded)}


class Search:
    """An index of needles by their first characters, so that a text is read once for all of them."""

    def __init__(self, needles: Iterable[str]) -> None:
        self._by_start: dict[str, list[str]] = {}
        for needle in set(needles):
            if len(needle) < SHORTEST:
                raise ValueError("a needle is too short to be told from chance")
            self._by_start.setdefault(needle[:SHORTEST], []).append(needle)

    def found(self, text: str) -> set[str]:
        """The needles that stand in a text."""
        return {needle for form in _forms(text) for needle in self._in(form)}

    def _in(self, text: str) -> Iterator[str]:
        for start in range(len(text) - SHORTEST + 1):
            if (several := self._by_start.get(text[start : start + SHORTEST])) is not None:
                yield from (needle for needle in several if text.startswith(needle, start))


def _forms(text: str) -> Iterator[str]:
    """A text as it is, and with what was escaped for JSON or an address undone."""
    seen = set()
    for form in (text, _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text), unquote(text)):
        if (bare := squeezed(form)) not in seen:
            seen.add(bare)
            yield bare
