"""Reads the hand-checked spoken cases, and makes more of them from random values: the ways in which people say digits.

Nothing here finds anything.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrails.detectors.checks import luhn

CASES = Path(__file__).parents[1] / "guardrails" / "spoken_cases.txt"
MARK = re.compile(r"<([A-Z_]+):([^<>]*)>")
DIGITS = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# A kind that says as much; which of them a number is may be open.
ALSO = {
    "BANK_ACCOUNT": {"ACCOUNT_NUMBER"},
    "ACCOUNT_NUMBER": {"BANK_ACCOUNT"},
    "STREET_ADDRESS": {"LOCATION"},
}


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str
    spans: tuple[tuple[str, int, int], ...]


Case = tuple[Turn, ...]


def hand_checked() -> list[Case]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return [parsed(line) for line in lines if line and not line.startswith("#")]


def parsed(line: str) -> Case:
    """A case of a marked line."""
    turns = []
    for said in line.split(" | "):
        role = "assistant" if said.startswith("A: ") else "user"
        marked = said[3:] if said[:3] in ("A: ", "C: ") else said
        text, spans, position = "", [], 0
        for mark in MARK.finditer(marked):
            text += marked[position : mark.start()]
            spans.append((mark[1], len(text), len(text) + len(mark[2])))
            text, position = text + mark[2], mark.end()
        turns.append(Turn(role, text + marked[position:], tuple(spans)))
    return tuple(turns)


def caught(turn: Turn, kind: str, start: int, end: int, found: Sequence[tuple[str, int, int]]) -> bool:
    """Whether findings of the kind cover every letter and digit of the value."""
    kinds = {kind, *ALSO.get(kind, ())}
    covered = {place for name, a, b in found if name in kinds for place in range(a, b)}
    return all(place in covered or not turn.text[place].isalnum() for place in range(start, end))


def generated(count: int, seed: int = 5) -> list[Case]:
    """Cases of random values and random ways to say them."""
    rng = random.Random(seed)
    return [parsed(rng.choice(FRAMES[kind])(spoken(value, rng))) for kind, value in (_value(rng) for _ in range(count))]


def _value(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(sorted(FRAMES))
    size = {"CREDIT_CARD": 15, "PHONE_NUMBER": 10, "US_SSN": 9, "BANK_ACCOUNT": 8, "CARD_SECURITY_CODE": 3}[kind]
    digits = "".join(str(rng.randrange(10)) for _ in range(size))
    if kind == "CREDIT_CARD":
        digits = "4" + digits[1:]
        digits = next(digits + str(last) for last in range(10) if luhn(digits + str(last)))
    if kind == "PHONE_NUMBER":
        digits = rng.choice(("415", "212", "650", "312", "206")) + "555" + digits[6:]
    if kind == "US_SSN":
        digits = f"{rng.randrange(100, 660)}{rng.randrange(10, 99)}{rng.randrange(1000, 9999)}"
    return kind, digits


def spoken(digits: str, rng: random.Random) -> str:
    """One of many ways to say a number."""
    words: list[str] = []
    place = 0
    pairs, repeats, fillers = rng.random() < 0.3, rng.random() < 0.5, rng.random() < 0.3
    zero = rng.choice(("oh", "zero"))
    while place < len(digits):
        run = len(digits[place:]) - len(digits[place:].lstrip(digits[place]))
        if repeats and run >= 2:
            size = min(run, 3)
            words += [("double", "triple")[size - 2], zero if digits[place] == "0" else DIGITS[int(digits[place])]]
            place += size
        elif pairs and place + 1 < len(digits) and digits[place] != "0":
            words.append(_pair(int(digits[place : place + 2])))
            place += 2
        else:
            words.append(zero if digits[place] == "0" else DIGITS[int(digits[place])])
            place += 1
        if fillers and place < len(digits) and rng.random() < 0.15:
            words.append(rng.choice(("um", "uh", "and then", "er")))
    return " ".join(words)


def _pair(value: int) -> str:
    if value < 20:
        return TEENS[value - 10]
    return TENS[value // 10] + (f" {DIGITS[value % 10]}" if value % 10 else "")


def _frames(kind: str, *templates: str) -> list:  # type: ignore[type-arg]
    return [lambda value, t=template: t.replace("{}", f"<{kind}:{value}>") for template in templates]


FRAMES = {
    "CREDIT_CARD": _frames("CREDIT_CARD", "my card number is {}", "it's {} visa", "A: card number please | C: {}"),
    "PHONE_NUMBER": _frames("PHONE_NUMBER", "call me on {} please", "my phone is {}", "A: a phone number | C: it's {}"),
    "US_SSN": _frames("US_SSN", "my social security number is {}", "A: what is your social | C: {}"),
    "BANK_ACCOUNT": _frames("BANK_ACCOUNT", "my account number is {}", "A: account number please | C: yes {}"),
    "CARD_SECURITY_CODE": _frames("CARD_SECURITY_CODE", "the security code is {}", "A: the code on the back | C: {}"),
}
