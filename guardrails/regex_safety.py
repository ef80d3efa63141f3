"""Whether a regular expression can take exponential time in a backtracking engine, found in its structure before it ever runs.

NeMo's regex rail runs Python's `re`, which cannot be interrupted. A pattern is refused when some word can be read around a loop in two ways
(exponential degree of ambiguity: Weber and Seidl, "On the degree of ambiguity of finite automata", 1991). Polynomial patterns pass; look-around
and back-references are taken as if they matched anything. It judges patterns only; who may write them is not its business.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

LOOP_FROM = 16  # {0,40} inside a loop backtracks like a star; small counts are unrolled
MOST_POSITIONS = 400
_SAMPLES = "aAzZ059 _.-\n\t/@é中\u00a0!"


@dataclass(slots=True)
class _Part:
    """A piece of the automaton: which positions it begins and ends with, and whether it matches nothing."""

    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    nullable: bool = True


@lru_cache(1024)
def why_catastrophic(pattern: str, flags: int = 0) -> str:
    """What in the pattern can take exponential time; empty: nothing. Raises: re.error for what is no pattern."""
    re.compile(pattern, flags)
    tree = re._parser.parse(pattern, flags)  # type: ignore[attr-defined]  # the library's own parser; compiled patterns do not show their structure
    automaton = _Automaton(pattern)
    automaton.build(tree)
    if automaton.wide_loops == 0:  # a loop over one character at a time can be read in one way only
        return ""
    if automaton.doubled():
        return "one loop inside another reads the same text in several ways"
    if len(automaton.readers) > MOST_POSITIONS or automaton.ambiguous():
        return "some text can be read around a loop in two ways"
    return ""


class _Automaton:
    """Glushkov's: one position for each character that the pattern reads, edges between those that may follow each other."""

    def __init__(self, pattern: str) -> None:
        self.alphabet = sorted({*_SAMPLES, *pattern})
        self.readers: list[frozenset[str]] = []
        self.follow: Counter[tuple[int, int]] = Counter()
        self.loops = self.wide_loops = 0
        self.twice = False  # two empty branches: the parser leaves (a|a) so
        self._reached: dict[int, set[int]] = {}

    def build(self, tree: Any) -> _Part:
        part = _Part()
        for op, argument in tree:
            part = self._joined(part, self._node(str(op), argument))
        return part

    def _node(self, op: str, argument: Any) -> _Part:
        if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            return self._repeated(*argument)
        if op == "SUBPATTERN":
            return self.build(argument[-1])
        if op == "ATOMIC_GROUP":
            return self.build(argument)
        if op == "BRANCH":
            return self._either([self.build(branch) for branch in argument[1]])
        if op == "GROUPREF_EXISTS":
            return self._either([self.build(branch) for branch in argument[1:] if branch is not None])
        if op in ("AT", "ASSERT", "ASSERT_NOT", "GROUPREF", "FAILURE"):
            return _Part()
        return self._reader(op, argument)

    def _reader(self, op: str, argument: Any) -> _Part:
        place = len(self.readers)
        self.readers.append(frozenset(c for c in self.alphabet if _reads(op, argument, c)))
        return _Part({place}, {place}, nullable=False)

    def _repeated(self, least: int, most: Any, body: Any) -> _Part:
        if most != re._constants.MAXREPEAT and int(most) < LOOP_FROM:  # type: ignore[attr-defined]
            part = _Part()
            for turn in range(min(int(most), 3)):  # two in a row show what they can do together
                piece = self.build(body)
                piece.nullable = piece.nullable or turn >= least
                part = self._joined(part, piece)
            return part
        begun, loops, outer = len(self.readers), self.loops, self.twice
        self.twice = False
        part = self.build(body)
        part.nullable = part.nullable or self.twice
        self.wide_loops += len(self.readers) > begun + 1 or self.loops > loops or part.nullable
        self.loops, self.twice = self.loops + 1, outer
        for last in part.last:
            for first in part.first:
                self.follow[last, first] += 1 + (part.nullable and last == first)
        part.nullable = part.nullable or least == 0
        return part

    def _either(self, parts: Sequence[_Part]) -> _Part:
        out = _Part(nullable=any(part.nullable for part in parts))
        self.twice = self.twice or sum(part.nullable and not part.first for part in parts) > 1
        for part in parts:
            out.first |= part.first
            out.last |= part.last
        return out

    def _joined(self, left: _Part, right: _Part) -> _Part:
        for end in left.last:
            for begin in right.first:
                self.follow[end, begin] += 1
        first = left.first | right.first if left.nullable else left.first
        last = left.last | right.last if right.nullable else right.last
        return _Part(set(first), set(last), left.nullable and right.nullable)

    def doubled(self) -> bool:
        """An edge of a loop that two loops made: (a*)* reads a run of a in exponentially many ways."""
        return any(count > 1 and a in self._from(b) for (a, b), count in self.follow.items())

    def ambiguous(self) -> bool:
        """Whether a position is reached from itself by one word along two different ways."""
        after, before = self._edges(), self._edges(reverse=True)
        for place in range(len(self.readers)):
            if place not in self._from(place):
                continue
            forward = self._pairs(place, after)
            if any(p != q for p, q in forward) and any(
                p != q for p, q in forward & self._pairs(place, before, reverse=True)
            ):
                return True
        return False

    def _edges(self, *, reverse: bool = False) -> dict[int, list[int]]:
        edges: dict[int, list[int]] = defaultdict(list)
        for a, b in self.follow:
            edges[b if reverse else a].append(a if reverse else b)
        return edges

    def _pairs(self, place: int, edges: dict[int, list[int]], *, reverse: bool = False) -> set[tuple[int, int]]:
        """Pairs of positions that one word leads to from (place, place), or from which it leads there."""
        seen = {(place, place)}
        todo = [(place, place)]
        while todo:
            p, q = todo.pop()
            for a in edges[p]:
                for b in edges[q]:
                    read = (p, q) if reverse else (a, b)
                    if (a, b) not in seen and self.readers[read[0]] & self.readers[read[1]]:
                        seen.add((a, b))
                        todo.append((a, b))
        return seen

    def _from(self, start: int) -> set[int]:
        """Positions that can be read after this one."""
        if (known := self._reached.get(start)) is not None:
            return known
        edges = self._edges()
        seen: set[int] = set()
        todo = [start]
        while todo:
            for b in edges[todo.pop()]:
                if b not in seen:
                    seen.add(b)
                    todo.append(b)
        self._reached[start] = seen
        return seen


def _reads(op: str, argument: Any, character: str) -> bool:
    if op == "LITERAL":
        return chr(argument).lower() == character.lower()
    if op == "NOT_LITERAL":
        return chr(argument).lower() != character.lower()
    if op == "RANGE":
        return any(
            argument[0] <= ord(c) <= argument[1]
            for c in (character, character.lower(), character.upper())
            if len(c) == 1
        )
    if op == "CATEGORY":
        return _in_category(str(argument), character)
    if op == "IN":
        negated = str(argument[0][0]) == "NEGATE"
        return negated != any(_reads(str(o), a, character) for o, a in argument if str(o) != "NEGATE")
    return True  # ANY and what this does not know


def _in_category(name: str, character: str) -> bool:
    kind = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[
        name.removeprefix("CATEGORY_").removeprefix("NOT_").removeprefix("UNI_")
    ]
    return ("NOT" in name) != (re.match(kind, character) is not None)
