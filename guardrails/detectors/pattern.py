"""One pattern of personal data, and the pass that looks for many of them at once in linear time.

Patterns are RE2: no look-around, no back-references, and no text on which they explode. A pattern finds candidates;
its validator and its context decide. Knows no kind of data by name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guardrails.types import Finding

CONTEXT_BEFORE = 70  # characters searched for context words before a candidate
CONTEXT_AFTER = 25
GROUP = re.compile(r"\b\w")
MOST_GROUPS = 12  # of one candidate that are tried as a beginning


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of value and how it is recognised.

    ``regex``: RE2 syntax, case-sensitive unless it says ``(?i)``; the group named ``v`` (or the whole match) is the
    value. ``longest``: characters of the longest value it promises to catch. ``check``: validator of the value.
    ``context``: RE2 alternation that must occur just before or after (case is ignored); without it the candidate
    scores ``alone`` (0: no finding). ``countries``: empty for everywhere.
    """

    kind: str
    name: str
    regex: str
    score: float
    longest: int
    check: Callable[[str], tuple[int, int] | None] | None = None
    context: str = ""
    alone: float = 0.0
    not_after: str = ""  # RE2 alternation that refuses a candidate when it ends right before it
    countries: frozenset[str] = field(default_factory=frozenset)


class Matcher:
    """Many patterns, one pass: a set says which are there, each says where."""

    def __init__(self, patterns: Iterable[Pattern], signals: Mapping[str, str] | None = None) -> None:
        """Compile. ``signals``: expressions by name of which only whether they occur is told; they cost nothing more.

        Raises:
            ValueError: a pattern is not RE2 syntax; names the pattern.
        """
        import re2

        self.patterns: Sequence[Pattern] = tuple(patterns)
        self._signals = dict(signals or {})
        options = re2.Options()
        options.max_mem = 64 << 20
        options.log_errors = False
        self._compiled = [_compile(re2, pattern, options) for pattern in self.patterns]
        self._which = search_set([*(pattern.regex for pattern in self.patterns), *self._signals.values()])

    def find(self, text: str, expected: frozenset[str] = frozenset()) -> list[Finding]:
        """Findings in a text without lone surrogates; ``expected`` kinds need no context (they were asked for)."""
        return self.look(text, expected)[0]

    def occurs(self, text: str) -> bool:
        """Whether any pattern occurs, whatever its context and validator would say."""
        return len(self._which(text)) > 0

    def look(self, text: str, expected: frozenset[str] = frozenset()) -> tuple[list[Finding], frozenset[str]]:
        """Findings, and the names of the signals that occur."""
        which = self._which(text)
        if not which:
            return [], frozenset()
        findings: list[Finding] = []
        heard = []
        for index in which:
            if index < len(self.patterns):
                findings.extend(self._matches(index, text, expected))
            else:
                heard.append(list(self._signals)[index - len(self.patterns)])
        return findings, frozenset(heard)

    def _matches(self, index: int, text: str, expected: frozenset[str]) -> Iterator[Finding]:
        pattern = self.patterns[index]
        regex, group, _, _ = self._compiled[index]
        for match in regex.finditer(text):
            start, end = match.span(group)
            if start < 0:
                continue
            found = self._decided(index, text, start, end, expected)
            if found is not None:
                yield found
            if pattern.check is not None and (found is None or found.end < end or _goes_on(text, end)):
                yield from self._inside(index, text, start, end, expected)

    def _inside(self, index: int, text: str, start: int, end: int, expected: frozenset[str]) -> Iterator[Finding]:
        """What begins at a later group of a candidate that ran into its neighbours: the sum before a card, the number before an account."""
        pattern = self.patterns[index]
        regex, group, _, _ = self._compiled[index]
        for begin in [start + match.start() for match in GROUP.finditer(text[start:end])][1:MOST_GROUPS]:
            match = regex.search(text[begin : end + pattern.longest])
            if match is not None and match.start() == 0 and match.span(group)[0] == 0:
                found = self._decided(index, text, begin, begin + match.span(group)[1], expected)
                if found is not None:
                    yield found

    def _decided(self, index: int, text: str, start: int, end: int, expected: frozenset[str]) -> Finding | None:
        """What validator and context say of a candidate."""
        pattern = self.patterns[index]
        _, _, context, refused = self._compiled[index]
        if refused and refused.search(text[max(0, start - 20) : start]):
            return None
        if pattern.check is not None:
            part = pattern.check(text[start:end])
            if part is None:
                return None
            start, end = start + part[0], start + part[1]
        score = pattern.score
        if context is not None and pattern.kind not in expected:
            near = text[max(0, start - CONTEXT_BEFORE) : start] + "\n" + text[end : end + CONTEXT_AFTER]
            if context.search(near) is None:
                score = pattern.alone
        return Finding(pattern.kind, start, end, score, pattern.name) if score > 0 else None


def _goes_on(text: str, end: int) -> bool:
    """Whether more digits follow at once: then a candidate may be one with less before it and more behind."""
    return any("0" <= character <= "9" for character in text[end : end + 3])


def search_set(expressions: Sequence[str]) -> Callable[[str], Sequence[int]]:
    """A function that says which of the expressions (RE2) occur in a text, in one pass of two microseconds a hundred characters."""
    import re2

    options = re2.Options()
    options.max_mem = 64 << 20
    options.log_errors = False
    built: Any = re2.Set.SearchSet(options)
    for expression in expressions:
        built.Add(expression)
    built.Add("")  # always occurs: an answer without it is a failure, not "nothing there"
    built.Compile()
    everything = range(len(expressions))

    def which(text: str) -> Sequence[int]:
        # The automaton gives nothing when it runs out of memory: then each is to be asked.
        answered = built.Match(text)
        return sorted(n for n in answered if n < len(everything)) if answered else everything

    return which


def _compile(re2: Any, pattern: Pattern, options: Any) -> tuple[Any, int, Any, Any]:
    try:
        regex = re2.compile(pattern.regex, options)
        context = re2.compile(rf"(?i)\b(?:{pattern.context})", options) if pattern.context else None
        refused = re2.compile(rf"(?i)(?:{pattern.not_after})\z", options) if pattern.not_after else None
    except re2.error as error:
        raise ValueError(
            f"pattern {pattern.name!r} is not RE2 syntax ({error}); look-around is not supported"
        ) from None
    return regex, regex.groupindex.get("v", 0), context, refused
