"""What a model adds: personal data in an answer that nobody gave it, found and changed before the bytes leave, delta by delta.

The law: a value that a pattern finds and that is no longer than the horizon never leaves, whatever the split into deltas; streamed is whole; all else
passes byte for byte. It holds because decisions fall only at places of the text itself (after white space, and each 64 characters), each on the text
up to there, and because only what can no longer become a value is let go. What the model was shown, what the caller said and what the policy names as
the company's own passes. Names of people are not looked for here (a name has no pattern), nor spoken numbers; the operator's Presidio
recognisers read whole texts and do not run here. Fails closed: a defect raises.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from guardrails.changing import hashed, masked, named
from guardrails.detectors.merge import merged
from guardrails.detectors.pattern import Matcher, Pattern
from guardrails.detectors.prefixes import beginnings
from guardrails.detectors.view import View, decoded_view, plain_view
from guardrails.redaction_settings import AnswerSettings, RedactionSettings
from guardrails.tokens import LITERAL, TOKEN_SHAPE
from guardrails.types import Finding, Form, RedactionUnavailable

BEHIND = 110  # characters before a value in which its context is looked for
STEP = 64  # a place of decision at least each so many characters, for texts without white space
BLOCK = 24  # places of decision that one look may pass over when nothing is there
PLACES = {"plain": re.compile(r"\s"), "json": re.compile(r'\s|(?<!\\)"')}
_ORDINARY = """Thank you for calling, how can I help you today? Your bill of 120.50 was paid on 4 May, at 10:30, and the next is due in 30 days (July 1st).
If you'd like, visit us: 12 High Street, London SW1A 1AA; or call +44 20 7946 0958 - for é or ß. Is "that" OK? AB 12 of X, it is in no. 7 to be so. """
SCALAR = re.compile(r"[-+.\w]")


class AddedData:
    """Finds what answers add, for one policy. Shared by all requests; keeps no text between them."""

    def __init__(self, settings: RedactionSettings, patterns: Iterable[Pattern], key: bytes) -> None:
        self.settings: AnswerSettings = settings.answers
        self._key = key
        acted = [p for p in patterns if p.kind != "PERSON" and settings.answer_action(p.kind) != "allow"]
        self._action = settings.answer_action
        self.kinds = sorted({pattern.kind for pattern in acted})
        self.matcher = Matcher(acted)
        self.earliest = beginnings(acted)
        self.horizon = max((pattern.longest for pattern in acted), default=0)
        self._company = Known(settings.answers.company)
        self.channel(lambda: self._company).feed(
            _ORDINARY
        )  # the automata are built as they read: the first answer shall not wait for that

    def channel(self, known: Callable[[], Known], form: Form = "plain") -> AddedChannel:
        """A finder for one text of one answer. ``known`` gives what the model was shown and the caller said; it is asked when something is found."""
        return AddedChannel(self, known, form)

    def find(self, view: View) -> list[Finding]:
        """Findings in a view, the model's own tokens among them as LITERAL. Raises: RedactionUnavailable."""
        try:
            found = [item for item in self.matcher.find(view.text) if item.score >= self.settings.min_score]
        except Exception as error:  # noqa: BLE001 - a validator's defect must stop the answer, and must not show its text
            raise RedactionUnavailable(self.kinds, type(error).__name__) from None
        if not found:
            return []
        found += [Finding(LITERAL, m.start(), m.end(), 2.0, "a token") for m in TOKEN_SHAPE.finditer(view.text)]
        return merged(found, view.text)

    def passes(self, kind: str, value: str, known: Callable[[], Known]) -> bool:
        """Whether a value may leave: a token, the company's own, or known to the request."""
        return kind == LITERAL or self._company.holds(value) or known().holds(value)

    def changed(self, kind: str, value: str) -> str | None:
        """What stands in a value's place; None where the policy blocks the answer."""
        action = self._action(kind)
        if action == "block":
            return None
        if action == "mask":
            return masked(value)
        if action == "hash":
            return hashed(self._key, kind, value)
        return "" if action == "drop" else named(kind)


class Known:
    """Values that may be said, compared by their letters and digits; an entry ``@host`` stands for every address there. Shows nothing in its repr."""

    __slots__ = ("_hosts", "_texts", "_values")

    def __init__(self, values: Iterable[str], texts: Iterable[str] = ()) -> None:
        """``texts``: what was shown to the model in clear; any value in them is known."""
        kept = list(values)
        self._hosts = tuple(value.casefold() for value in kept if value.startswith("@"))
        self._values = {bare for value in kept if (bare := _bare(value))}
        self._texts = "\n".join(map(_bare, texts))

    def holds(self, value: str) -> bool:
        bare = _bare(value)
        if not bare or bare in self._values or value.casefold().endswith(self._hosts):
            return True
        tail = bare.lstrip("0")
        if (
            tail.isdigit()
            and len(bare) >= 4
            and any(one and (one.endswith(tail) or tail.endswith(one)) for one in self._long())
        ):
            return True  # the last four of a known card, a phone with or without its country code
        return len(bare) >= 6 and bare in self._texts

    def _long(self) -> Iterable[str]:
        return (value.lstrip("0") for value in self._values if len(value) >= 7 and value.isdigit())


def _bare(text: str) -> str:
    return "".join(character for character in plain_view(text).text.casefold() if character.isalnum())


class AddedChannel:
    """One text of an answer on its way out. After a block (``blocked`` names the kinds) nothing more leaves."""

    def __init__(self, added: AddedData, known: Callable[[], Known], form: Form) -> None:
        self._added, self._known, self._form = added, known, form
        self._places = PLACES[form]
        self._text = ""  # from _base on: what is not released, and BEHIND characters of context
        self._base = 0
        self._released = 0
        self._seen = 0  # the last place of decision
        self._quoted = False  # whether _released stands inside a JSON string
        self.counts: Counter[str] = Counter()
        self.blocked: set[str] = set()
        self.held_chars = 0

    @property
    def holds(self) -> bool:
        return self._released < self._base + len(self._text)

    def feed(self, text: str) -> str:
        """Take the next delta; return what may leave now. Raises: RedactionUnavailable."""
        if self.blocked:
            return ""
        self._text += text
        places = self._new_places()
        out = "".join(self._pass(places[start : start + BLOCK]) for start in range(0, len(places), BLOCK))
        self.held_chars = max(self.held_chars, self._base + len(self._text) - self._released)
        self._forget()
        return out

    def flush(self) -> str:
        """The rest, at the end of the text. Raises: RedactionUnavailable."""
        end = self._base + len(self._text)
        return "" if self.blocked or end == self._released else self._decide(end, end)

    def _new_places(self) -> list[int]:
        end = self._base + len(self._text)
        start = self._seen - self._base
        places = {match.end() + self._base for match in self._places.finditer(self._text, start)}
        places.update(range(self._seen // STEP * STEP + STEP, end + 1, STEP))
        return sorted(places)

    def _pass(self, places: Sequence[int]) -> str:
        """The text up to the last place; in one look where no pattern occurs, else place by place."""
        if not self._added.matcher.occurs(self._view(places[-1]).text):
            return self._at(places[-1], quiet=True)
        return "".join(map(self._at, places))

    def _at(self, place: int, *, quiet: bool = False) -> str:
        """What may leave at a place of decision. ``quiet``: no pattern occurs up to there."""
        if self.blocked:
            return ""
        self._seen = place
        start = max(self._released, place - self._added.horizon)
        tail = self._text[start - self._base : place - self._base]
        word = max((match.end() for match in self._places.finditer(tail)), default=0)
        view = self._viewed(tail)
        first = self._added.earliest(view.text)
        held = view.original(first, first + 1)[0] if first < len(view.text) else len(tail)
        upto = start + min(held, word)
        return self._let_go(upto) if quiet else self._decide(place, upto, place - self._added.horizon)

    def _decide(self, place: int, upto: int, forced: int = 0) -> str:
        """Release up to ``upto`` on what the text says up to ``place``; a find that goes beyond it waits, unless it began before ``forced``."""
        if upto <= self._released:
            return ""
        view = self._view(place)
        origin = max(self._base, self._released - BEHIND)
        out = []
        for item in self._added.find(view):
            start, end = (origin + offset for offset in view.original(item.start, item.end))
            if start < self._released or start >= upto:
                continue
            if end > upto and start >= forced and upto < place:
                upto = start
                break
            upto = max(upto, end)
            out.append(self._replaced(item.kind, start, end, place))
            if self.blocked:
                return ""
        out.append(self._let_go(upto))
        return "".join(out)

    def _replaced(self, kind: str, start: int, end: int, place: int) -> str:
        source = self._text[start - self._base : end - self._base]
        value = self._viewed(source).text
        if self._added.passes(kind, value, self._known):
            return ""
        self.counts[kind] += 1
        new = self._added.changed(kind, value)
        if new is None:
            self.blocked.add(kind)
            return ""
        if self._form == "json" and not self._quoted_at(start):
            start, end = self._scalar(start, end, place)
            return self._let_go(start) + self._skip(end, json.dumps(new, ensure_ascii=False))
        before = self._let_go(start)
        return before + self._skip(end, json.dumps(new, ensure_ascii=False)[1:-1] if self._form == "json" else new)

    def _scalar(self, start: int, end: int, place: int) -> tuple[int, int]:
        """The whole bare number of which a value is part: what replaces it needs quotes."""
        while start > self._released and SCALAR.match(self._text[start - 1 - self._base]):
            start -= 1
        while end < place and SCALAR.match(self._text[end - self._base]):
            end += 1
        return start, end

    def _quoted_at(self, place: int) -> bool:
        return self._quoted != _odd_quotes(self._text[self._released - self._base : place - self._base])

    def _let_go(self, upto: int) -> str:
        out = self._text[self._released - self._base : upto - self._base]
        return self._skip(upto, out)

    def _skip(self, upto: int, out: str) -> str:
        if self._form == "json":
            self._quoted = self._quoted_at(upto)
        self._released = max(self._released, upto)
        return out

    def _view(self, place: int) -> View:
        start = max(self._base, self._released - BEHIND)
        return self._viewed(self._text[start - self._base : place - self._base])

    def _viewed(self, text: str) -> View:
        return decoded_view(text) if self._form == "json" else plain_view(text)

    def _forget(self) -> None:
        keep = max(self._base, self._released - BEHIND)
        if keep - self._base > 4 * BEHIND:
            self._text, self._base = self._text[keep - self._base :], keep


def _odd_quotes(source: str) -> bool:
    """Whether a piece of JSON ends on the other side of a quote than it began."""
    if "\\" not in source:
        return source.count('"') % 2 == 1
    return sum(match[0] == '"' for match in re.finditer(r'\\.|"', source, re.DOTALL)) % 2 == 1
