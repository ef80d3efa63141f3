"""The form of the tokens that stand for personal data, and how they are numbered.

A token is ``[KIND_n]``: ASCII capitals, digits and underscores between brackets. Because a token holds no other
bracket, no text beside a token can combine with it into another token. Knows nothing of how values are found.
"""

import re

LITERAL = "LITERAL"  # the kind of a token-looking string that the caller typed
KIND = r"[A-Z][A-Z0-9_]{0,39}"
TOKEN_SHAPE = re.compile(rf"\[({KIND})_([0-9]{{1,9}})\]")
TOKEN_LENGTH = 1 + 40 + 1 + 9 + 1  # characters of the longest string that looks like a token
TOKEN_START = re.compile(rf"\[(?:{KIND}(?:_[0-9]{{1,9}})?)?\Z")  # a tail that may still become a token


def is_kind(name: str) -> bool:
    """Whether a name can be the kind of a token (capitals, digits, underscores; at most 40 characters)."""
    return re.fullmatch(KIND, name) is not None


class Numbering:
    """Gives each new value of a kind the next number, and the same value the same token. One request each."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._tokens: dict[tuple[str, str], str] = {}

    def token(self, kind: str, value: str) -> str:
        """The token of a value: numbered by first appearance within its kind."""
        token = self._tokens.get((kind, value))
        if token is None:
            number = self._next.get(kind, 0) + 1
            self._next[kind] = number
            token = self._tokens[kind, value] = f"[{kind}_{number}]"
        return token

    def reserve(self, text: str) -> None:
        """Leave out the numbers that token-looking strings of a text have, where those stay as they are."""
        for match in TOKEN_SHAPE.finditer(text):
            self._next[match[1]] = max(self._next.get(match[1], 0), int(match[2]))

    def values(self) -> dict[str, str]:
        """Token to value."""
        return {token: value for (_, value), token in self._tokens.items()}
