"""Puts the caller's values back where the model wrote tokens, delta by delta, exactly.

One restorer serves one text channel of an answer (the content of a choice, the arguments of a tool call). Whatever the
split into deltas, the joined output is the same. Restoration is a single pass: a value that itself looks like a token
is never restored again. Knows nothing of wire formats or of how values were found.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from guardrails.tokens import TOKEN_LENGTH, TOKEN_SHAPE, TOKEN_START
from guardrails.types import Form

# A token in the source of a JSON string: any of its characters may be written as an escape. The first alternative
# consumes escaped backslashes, so that the backslash of an escape is never the second half of a pair.
JSON_TOKEN: Final = re.compile(
    r"\\\\|(?:\[|\\u005[bB])"
    r"(?P<name>(?:[A-Z0-9_]|\\u00(?:3[0-9]|4[1-9a-fA-F]|5[0-9aAfF])){3,50})"
    r"(?:\]|\\u005[dD])"
)
JSON_START: Final = re.compile(r"\[|\\u005[bB]")
JSON_ESCAPE_CUT: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")  # an escape that the next delta may finish


class Restorer:
    """Feeds text through, replacing tokens by their values.

    ``form="json"``: the channel is the source of a JSON document. Values are escaped as JSON strings, and tokens are
    known also where the model wrote some of their characters as ``\\u`` escapes.
    """

    def __init__(self, tokens: Mapping[str, str], form: Form = "plain") -> None:
        self._tokens = tokens
        self._form = form
        self._held = ""
        self.unresolved = 0

    def __repr__(self) -> str:
        return f"Restorer({self._form}, {len(self._tokens)} tokens)"

    def feed(self, text: str) -> str:
        """Take the next delta; return what may leave now.

        Holds back only a tail that could still become a token: at most 51 characters (six times that where JSON
        writes each of them as an escape).
        """
        text = self._held + text
        cut = self._cut(text)
        self._held = text[cut:]
        return self._restore(text[:cut])

    def flush(self) -> str:
        """The rest, at the end of the channel: text held back that did not become a token."""
        text, self._held = self._held, ""
        return self._restore(text)

    def _cut(self, text: str) -> int:
        if self._form == "json" and "\\" in text:
            return _json_cut(text)
        start = text.rfind("[", max(0, len(text) - TOKEN_LENGTH))
        return start if start >= 0 and TOKEN_START.match(text, start) else len(text)

    def _restore(self, text: str) -> str:
        if self._form == "json":
            return JSON_TOKEN.sub(self._json_value, text) if "[" in text or "\\u005" in text else text
        return TOKEN_SHAPE.sub(self._value, text) if "[" in text else text

    def _value(self, match: re.Match[str]) -> str:
        value = self._tokens.get(match[0])
        if value is None:
            self.unresolved += 1
            return match[0]
        return value

    def _json_value(self, match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]  # an escaped backslash
        token = "[" + _decoded(match["name"]) + "]"
        value = self._tokens.get(token)
        if value is not None:
            return _json_escaped(value)
        self.unresolved += TOKEN_SHAPE.fullmatch(token) is not None
        return match[0]


def _decoded(source: str) -> str:
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), source)


def _json_cut(text: str) -> int:
    """Where the held-back tail begins: a possible token's first character, or else an unfinished escape."""
    unfinished = JSON_ESCAPE_CUT.search(text, max(0, len(text) - 5))
    end = len(text)
    if unfinished is not None and not _is_escaped(text, unfinished.start()):
        end = unfinished.start()
    starts = [match.start() for match in JSON_START.finditer(text, max(0, end - 6 * TOKEN_LENGTH), end)]
    if not starts:
        return end
    start = starts[-1]
    if text[start] == "\\" and _is_escaped(text, start):
        return end
    return start if TOKEN_START.match(_decoded(text[start:end])) else end


def _is_escaped(text: str, position: int) -> bool:
    """Whether the character at a position is the second half of an escape (an odd run of backslashes before it)."""
    run = position
    while run > 0 and text[run - 1] == "\\":
        run -= 1
    return (position - run) % 2 == 1


def _json_escaped(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate can only travel as an escape
        return json.dumps(value)[1:-1]
    return json.dumps(value, ensure_ascii=False)[1:-1]
