"""The text that finders read, with the way back to the original's offsets.

A view folds what would hide a value from a pattern (full-width or Arabic digits, odd spaces and dashes, zero-width and
bidirectional controls, lone surrogates) and lays a JSON document out as "key: value" lines. It finds nothing itself.
"""

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

FOLDED = re.compile(r"[^\x00-\x7f\u00c0-\u024f]")  # accented Latin letters need no folding
HIDDEN = frozenset(
    "\u00ad\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
JSON_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+\-]*', re.DOTALL)
JSON_UNIT = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
AFTER_NAME = re.compile(r"\s*:")
FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}\Z")
QUOTED_NAME = re.compile(
    r"""\\{0,3}(?P<q>["'])(?P<name>[A-Za-z][A-Za-z0-9_ \-]{0,60})\\{0,3}(?P=q)\s{0,8}:\s{0,8}(?:\\{0,3}["'])?"""
)
QUOTES_AFTER = re.compile(r"""\\{0,3}["'](?=\s{0,8}(?:[,}\]]|\Z))""")
SHAPE_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
SHAPE_MARKS = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\uff20": "@", "\ufe6b": "@", "\uff0e": "."}


class View(msgspec.Struct, frozen=True):
    """Text to analyse. ``starts``/``ends`` give each character's place in the original; None where they are the same.

    ``joints`` are positions that a finding must not cross (borders between the strings of a JSON document), ``bare``
    the original's offsets where a JSON number begins (what replaces it needs quotes), ``names`` those joints that end
    the name of a field, which is nobody's value.
    """

    text: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None
    joints: Sequence[int] = ()
    bare: frozenset[int] = frozenset()
    names: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"View({len(self.text)} characters)"

    def in_a_name(self, start: int) -> bool:
        """Whether the text at a position is the name of a field."""
        place = bisect_left(self.joints, start)
        return bool(self.names) and place < len(self.joints) and self.joints[place] in self.names

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the original of a span of the view; a span must not be empty."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def plain_view(text: str) -> View:
    """A text as patterns should see it. ASCII without a document in it costs nothing."""
    if '":' in text or "':" in text:
        spaced, places = _names_as_words(text)
        if spaced != text:
            inner = _folded_view(spaced)
            kept = places if inner.starts is None else [places[place] for place in inner.starts]
            return View(inner.text, kept, [place + 1 for place in kept])
    return _folded_view(text)


def _names_as_words(text: str) -> tuple[str, list[int]]:
    """Names of fields of a document inside a text as words ("card_number": is card number:), and each character's place."""
    out: list[str] = []
    places: list[int] = []
    position = 0
    for match in QUOTED_NAME.finditer(text):
        out.append(text[position : match.start()])
        places += range(position, match.start())
        for character, place in _words(match["name"], match.start("name")):
            out.append(character)
            places.append(place)
        out.append(": ")
        places += [match.end() - 1] * 2
        position = match.end()
    out.append(text[position:])
    places += range(position, len(text))
    return QUOTES_AFTER.sub(lambda match: " " * len(match[0]), "".join(out)), places


def _words(name: str, at: int) -> Iterator[tuple[str, int]]:
    """The name of a field, its parts with spaces between: card_number, cardNumber. What is no such name stays as it is."""
    for place, character in enumerate(name, at):
        before = name[place - at - 1 : place - at]
        if character.isupper() and before.islower():
            yield " ", place
        yield (" " if character == "_" else character), place


def _folded_view(text: str) -> View:
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
    bare, names = set(), set()
    for match in JSON_SCALAR.finditer(source):
        if match[0][0] != '"':
            bare.add(match.start())
        is_key = AFTER_NAME.match(source, match.end()) is not None
        is_name = is_key and FIELD_NAME.match(match[0][1:-1]) is not None
        if is_name:
            for character, place in _words(match[0][1:-1], match.start() + 1):
                text.append(character)
                starts.append(place)
                ends.append(place + 1)
        else:
            _lay_out(match, text, starts, ends)
        for character in ": " if is_key else "\n":
            text.append(character)
            starts.append(match.end())
            ends.append(match.end())
        joints.append(len(text) - 1)
        if is_name:
            names.add(len(text) - 1)
    return _folded(text, starts, ends, joints, frozenset(bare), frozenset(names))


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


def _folded(
    text: list[str],
    starts: list[int],
    ends: list[int],
    joints: list[int],
    bare: frozenset[int],
    names: frozenset[int] = frozenset(),
) -> View:
    folded = plain_view("".join(text))
    if folded.starts is None:
        return View(folded.text, starts, ends, joints, bare, names)
    kept = folded.starts
    back = {place: index for index, place in enumerate(kept)}
    return View(
        folded.text,
        [starts[place] for place in kept],
        [ends[place] for place in kept],
        [back[place] for place in joints if place in back],
        bare,
        frozenset(back[place] for place in names if place in back),
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
