"""The values that finding, changing and restoring personal data exchange, and the errors they raise.

Knows nothing of HTTP, of any finder or of policies. Nothing here shows a text in its repr: texts are personal data.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

Form = Literal["plain", "json"]


class GuardrailError(Exception):
    """What every error of this package is."""


class RedactionUnavailable(GuardrailError):
    """Personal data of some kinds was not looked for, so the text must not leave."""

    def __init__(self, kinds: Iterable[str], reason: str) -> None:
        self.kinds = tuple(sorted(set(kinds)))
        self.reason = reason
        super().__init__(f"not checked for {', '.join(self.kinds)}: {reason}")


class PersonalDataBlocked(GuardrailError):
    """A kind that the policy blocks was found; says which kinds, never the values."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = tuple(sorted(set(kinds)))
        super().__init__(f"the policy blocks requests that contain {', '.join(self.kinds)}")


class Segment(Struct, frozen=True):
    """One text of a conversation, in order.

    ``form="json"`` says that the text is the source of a JSON document (arguments of a tool call): values inside its
    strings are redacted and the result is valid JSON. A document that does not parse is treated as plain text.
    """

    text: str
    role: str = "user"  # system | developer | user | assistant | tool
    form: Form = "plain"

    def __repr__(self) -> str:
        return f"Segment({self.role}, {self.form}, {len(self.text)} characters)"


class Finding(Struct, frozen=True):
    """Where one value of a kind was found; offsets are characters of the original text, end exclusive."""

    kind: str
    start: int
    end: int
    score: float
    reason: str


class TokenMap(Mapping[str, str]):
    """Token to original value, for one request; dies with it. Its repr shows how many, never which."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, token: str) -> str:
        return self._values[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"TokenMap({len(self._values)} tokens)"


@dataclass(frozen=True, slots=True, repr=False)
class Redaction:
    """The texts that may leave, in the order given, and what is needed to undo them.

    ``counts`` says how many values of each kind were replaced; ``not_checked`` names kinds that no finder looked for
    (only where the settings allow going on without them). ``said``: every value found, as it stood in the texts, allowed kinds included.
    """

    texts: tuple[str, ...]
    tokens: TokenMap
    counts: Mapping[str, int]
    not_checked: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Redaction({len(self.texts)} texts, {dict(self.counts)}, not checked: {list(self.not_checked)})"
