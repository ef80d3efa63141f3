"""The text that finders read, with the way back to the original's offsets.

A view folds what would hide a value from a pattern (full-width or Arabic digits, odd spaces and dashes, zero-width and
bidirectional controls, lone surrogates) and lays a JSON document out as "key: value" lines. It finds nothing itself.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

FOLDED = re.compile(r"[^\x00-\x7f\u00c0-\u024f]")  # accented Latin letters need no folding
HIDDEN = frozenset(
    "\u00ad\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
JSON_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+\-]*', re.DOTALL)
JSON_UNIT = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
SHAPE_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
SHAPE_MARKS = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\uff20": "@", "\ufe6b": "@", "\uff0e": "."}


@dataclass(frozen=True, slots=True, repr=False)
class View:
    """Text to analyse. ``starts``/``ends`` give each character's place in the original; None where they are the same.

    ``joints`` are positions that a finding must not cross (borders between the strings of a JSON document), ``bare``
    the original's offsets where a JSON number begins (what replaces it needs quotes).
    """

    text: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None
    joints: Sequence[int] = ()
    bare: frozenset[int] = frozenset()

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the original of a span of the view; a span must not be empty."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def plain_view(text: str) -> View:
    """A text as patterns should see it. ASCII costs nothing."""
    if text.isascii() or not FOLDED.search(text):
        return View(text)
    folded = FOLDED.sub(lambda match: _fold(match[0]), text)
    if len(folded) == len(text):
        return View(folded)
    places = [place for place, character in enumerate(text) if character not in HIDDEN]
    return View(folded, places, [place + 1 for place in places])


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """One character for one, or none for a hidden one, so that offsets stay simple."""
    if character in HIDDEN:
        return ""
    known = SHAPE_DASHES.get(character) or SHAPE_MARKS.get(character)
    if known is not None:
        return known
    digit = unicodedata.decimal(character, -1)
    if digit >= 0:
        return str(int(digit))
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category == "Cs":
        return "\ufffd"
    wide = unicodedata.normalize("NFKC", character)
    return wide if len(wide) == 1 and wide.isascii() else character


def json_view(source: str) -> View | None:
    """The strings and numbers of a JSON document as lines of "key: value"; None if it is not valid JSON."""
    try:
        msgspec.json.decode(source)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    text: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    joints: list[int] = []
    bare = set()
    for match in JSON_SCALAR.finditer(source):
        if match[0][0] != '"':
            bare.add(match.start())
        _lay_out(match, text, starts, ends)
        is_key = re.compile(r"\s*:").match(source, match.end()) is not None
        for character in ": " if is_key else "\n":
            text.append(character)
            starts.append(match.end())
            ends.append(match.end())
        joints.append(len(text) - 1)
    return _folded(text, starts, ends, joints, frozenset(bare))


def decoded_view(source: str) -> View:
    """A piece of a JSON document as its strings read, escapes decoded in place; what is no escape stays as it stands."""
    if "\\" not in source:
        return plain_view(source)
    text: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for match in JSON_UNIT.finditer(source):
        try:
            read = match[0] if len(match[0]) == 1 else json.loads(f'"{match[0]}"')
        except ValueError:
            read = match[0]
        whole = len(read) == 1
        for offset, character in enumerate(read):
            text.append(character)
            starts.append(match.start() + (0 if whole else offset))
            ends.append(match.end() if whole else match.start() + offset + 1)
    return _folded(text, starts, ends, [], frozenset())


def _folded(text: list[str], starts: list[int], ends: list[int], joints: list[int], bare: frozenset[int]) -> View:
    folded = plain_view("".join(text))
    if folded.starts is None:
        return View(folded.text, starts, ends, joints, bare)
    kept = folded.starts
    back = {place: index for index, place in enumerate(kept)}
    return View(
        folded.text,
        [starts[place] for place in kept],
        [ends[place] for place in kept],
        [back[place] for place in joints if place in back],
        bare,
    )


def _lay_out(match: re.Match[str], text: list[str], starts: list[int], ends: list[int]) -> None:
    if match[0][0] != '"':  # a number: replaced as a whole, so every character maps to its span
        for character in match[0]:
            text.append(character)
            starts.append(match.start())
            ends.append(match.end())
        return
    position = match.start() + 1
    for unit in JSON_UNIT.findall(match[0][1:-1]):
        text.append(unit if len(unit) == 1 else json.loads(f'"{unit}"'))
        starts.append(position)
        position += len(unit)
        ends.append(position)
