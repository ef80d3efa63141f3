"""What an answer owes to what the model was shown: whether it is held up by the passages, and whether it recites its instructions.

Both compare words and numbers, nothing is understood: a contradiction in the passages' own words is not seen (an evaluation's judges are for that), and
what was said in other words counts as unsupported. Linear in answer and context. They know messages, not where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PASSAGES = re.compile(r"<passages\b.*?(?:</passages>|\Z)", re.IGNORECASE | re.DOTALL)
LEAK_WORDS = 14  # in a row, of the instructions
FEWEST_WORDS = 6  # of content, below which nothing is said of an answer
WRONG_NUMBER = 0.95
_WORD = re.compile(r"[^\W\d_]{4,}")
_NUMBER = re.compile(r"\d[\d.,]*\d|\d")
_ANY = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    word[:5]
    for word in ["about", "after", "again", "also", "been", "before", "being", "both", "call", "cannot", "could", "does", "each", "even", "from", "have", "help", "here", "into", "just", "know", "like", "made", "make", "many", "may", "more", "most", "much", "must", "need", "only", "other", "over", "please", "same", "should", "some", "such", "than", "thank", "thanks", "that", "their", "them", "then", "there", "these", "they", "this", "those", "through", "time", "under", "very", "want", "were", "what", "when", "where", "which", "while", "will", "with", "within", "would", "your", "yours", "yourself", "welcome", "sorry", "glad", "sure", "hello"]
)  # fmt: skip
Messages = Sequence[Mapping[str, str]]


def unsupported(answer: str, context: Messages) -> float:
    """How much of an answer stands in no passage and no question, 0 to 1; 0 where no passages were given or the answer is short.

    A number that stands nowhere makes it .95: sums, days and dates are what callers act on.
    """
    shown = [
        found for message in context if message["role"] == "system" for found in PASSAGES.findall(message["content"])
    ]
    if not shown:
        return 0.0
    whole = " ".join([*shown, *(message["content"] for message in context if message["role"] == "user")])
    said = _complete(answer)
    words = {stem for stem in _stems(said) if stem not in _COMMON}
    if len(words) < FEWEST_WORDS:
        return 0.0
    known = set(_stems(whole))
    numbers = {_plain_number(n) for n in _NUMBER.findall(re.sub(r"\[\d{1,2}\]", " ", said))}
    wrong = numbers - {_plain_number(n) for n in _NUMBER.findall(whole)}
    return max(WRONG_NUMBER if wrong else 0.0, len(words - known) / len(words))


def recited(answer: str, context: Messages) -> float:
    """1 when the answer holds 14 words in a row of the instructions (system and developer messages without their passages), else 0."""
    instructions = " ".join(
        PASSAGES.sub(" ", message["content"]) for message in context if message["role"] in ("system", "developer")
    )
    source = [word.lower() for word in _ANY.findall(instructions)]
    said = [word.lower() for word in _ANY.findall(answer)]
    if len(source) < LEAK_WORDS or len(said) < LEAK_WORDS:
        return 0.0
    runs = {tuple(source[start : start + LEAK_WORDS]) for start in range(len(source) - LEAK_WORDS + 1)}
    return float(any(tuple(said[start : start + LEAK_WORDS]) in runs for start in range(len(said) - LEAK_WORDS + 1)))


def _complete(answer: str) -> str:
    """Without the last word, which may go on in the next piece of a stream."""
    return answer.rpartition(" ")[0]


def _stems(text: str) -> list[str]:
    return [word[:5].lower() for word in _WORD.findall(text)]


def _plain_number(number: str) -> str:
    return number.replace(",", "").rstrip(".").removesuffix(".00")
