"""What the other side has just asked for, and so what a short answer is: "and the last four?" "four two four two".

It follows a conversation turn by turn, also inside one text with "Agent:" and "Customer:" lines. Values here have no pattern of their own: what makes
four digits part of a card is the question. Long answers and statements are left to patterns and to the name model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from guardrails.detectors.numbers import DATE
from guardrails.detectors.pattern import search_set
from guardrails.detectors.spoken import spoken_runs, spoken_views, value_runs
from guardrails.detectors.spoken_names import name
from guardrails.types import Finding, Segment

# The first that occurs in a question says what it asks for.
ASKS = {
    "CARD_SECURITY_CODE": r"cvv2?|cvc2?|security code|(?:three|3) digits? (?:on|at) the back|code on the back",
    "CARD_EXPIRY": r"expir\w+|valid (?:thru|until|to)|good (?:thru|through)",
    "SORT_CODE": r"sort ?code",
    "ABA_ROUTING_NUMBER": r"routing (?:number|code)|\baba\b",
    "IBAN_CODE": r"\biban\b",
    "US_SSN": r"social(?: security)?(?: number)?|\bssn\b",
    "DATE_OF_BIRTH": r"dates? of birth|birth ?da(?:te|y)|\bd\.?o\.?b\b|born",
    "CREDIT_CARD": r"card(?:'s)? (?:number|digits)|long (?:card )?number|(?:digits|number) (?:on|of) (?:the (?:front|back) of )?(?:your|the) (?:\w+ )?card|your (?:\w+ )?card details|\d+ digit card",
    "LAST_FOUR": r"last (?:four|4)\b(?: digits)?",
    "SECRET": r"\bpin\b|passcode|pass ?word|one.?time (?:code|password)|verification code|memorable word",
    "EMAIL_ADDRESS": r"e-?mail",
    "PHONE_NUMBER": r"(?:tele)?phone|mobile|cell|number (?:to|can|should) (?:reach|call|we)|best number|contact number|call(?:ed)? you back|reach you|callback",
    "POSTAL_CODE": r"zip|post ?code|postal",
    "PASSPORT": r"passport",
    "DRIVER_LICENSE": r"licen[sc]e",
    "ACCOUNT_NUMBER": r"account (?:number|no\b|digits)|acct|your account\W*$",
    "ORDER_NUMBER": r"(?:order|booking|confirmation|reference|case|ticket|tracking|invoice|reservation|claim) (?:number|no\b|code|id\b)|reference\b",
    "CUSTOMER_NUMBER": r"(?:customer|client|member(?:ship)?|policy|loyalty|employee) (?:number|no\b|id\b|code)",
    "STREET_ADDRESS": r"address|where (?:do you live|should (?:we|i) (?:send|deliver))",
    "PERSON": r"\bnames?\b|who am i speaking|who is (?:this|calling)|surname|spell (?:that|it)",
}
# Digits or letters that an answer may have; partly said values are part of the value.
LENGTHS = {
    "CARD_SECURITY_CODE": (3, 4),
    "CARD_EXPIRY": (3, 6),
    "SORT_CODE": (2, 6),
    "ABA_ROUTING_NUMBER": (3, 9),
    "IBAN_CODE": (4, 34),
    "US_SSN": (2, 9),
    "DATE_OF_BIRTH": (4, 10),
    "CREDIT_CARD": (3, 19),
    "SECRET": (3, 12),
    "PHONE_NUMBER": (3, 15),
    "POSTAL_CODE": (4, 10),
    "PASSPORT": (5, 12),
    "DRIVER_LICENSE": (4, 20),
    "ACCOUNT_NUMBER": (2, 18),
    "ORDER_NUMBER": (3, 20),
    "CUSTOMER_NUMBER": (3, 20),
}
LETTERS = {
    "IBAN_CODE",
    "POSTAL_CODE",
    "PASSPORT",
    "DRIVER_LICENSE",
    "ORDER_NUMBER",
    "CUSTOMER_NUMBER",
    "ACCOUNT_NUMBER",
    "SECRET",
}
# Said while a value is being dictated: it goes on.
GOES_ON = (
    r"(?i)^\W*(?:(?:and|then|okay|ok|yes|yeah|yep|got it|go (?:on|ahead)|continue|uh.?huh|m+.?h?m+|right|sure|perfect|great|thanks?|thank you|alright|all right|carry on"
    r"|please|sorry|the|what|what's|is|are|was|give|me|can|you|repeat|that|next|last|rest|remaining|final|first|other|middle|digits?|numbers?|groups?|set|of|it|two|three|four|six|eight|"
    r"\d|so far|i have|i've got|keep going|after that)\W*)+$"
)
DATES = re.compile(rf"(?i)\b{DATE}")
SIGNAL = r"(?im)^[ \t]*(?:agent|bot|assistant|advisor|adviser|operator|rep(?:resentative)?)[ \t]*:"  # RE2: a transcript in one text
SPEAKER = re.compile(
    r"(?im)^[ \t]*(agent|bot|assistant|advisor|adviser|operator|rep(?:resentative)?|customer|user|caller|client|member|me)[ \t]*:"
)
CALLERS = frozenset(["customer", "user", "caller", "client", "member", "me"])
LEAD = re.compile(
    r"(?i)^\W*(?:(?:um|uh|er|yes|yeah|sure|okay|ok|so|well|it's|its|it is|that's|that is|that would be|the name is|name is|my name is|i'm|i am|this is|under|for)\W+)*"
)
ANSWER = 160  # characters of a turn that may be an answer; longer ones say what they are


def asked_before(segments: Sequence[Segment]) -> list[str]:
    """For each segment, the kind that was asked for just before it; empty where none was."""
    out, kind = [], ""
    for segment in segments:
        text = segment.text if segment.form == "plain" else ""
        if segment.role == "user":
            out.append(kind if text and len(text) <= ANSWER else "")
            kind = _after_answer(text, kind)
        elif segment.role == "assistant":
            out.append("")
            kind = _after_question(text, kind)
        else:
            out.append("")
            kind = kind if segment.role == "tool" else ""
    return out


@cache
def _listener() -> Callable[[str], Sequence[int]]:
    """Which kinds are asked for, by place in ASKS; and, as the last, whether a prompt only says to go on."""
    return search_set([*(rf"(?i)\b(?:{words})" for words in ASKS.values()), GOES_ON])


def _asked(text: str) -> tuple[str, bool]:
    heard = _listener()(text if text.isascii() else text.encode("utf-8", "replace").decode())  # no lone surrogates
    kinds = [list(ASKS)[place] for place in heard if place < len(ASKS)]
    return kinds[0] if kinds else "", len(ASKS) in heard


def answers(text: str, kind: str, transcript: bool) -> list[Finding]:
    """Findings in a turn that answers a question for a kind, and in the answers inside a transcript (where ``SIGNAL`` occurs)."""
    found = list(_answer(text, kind, 0)) if kind and len(text) <= ANSWER else []
    return [*found, *_in_transcript(text)] if transcript else found


def _after_question(text: str, kind: str) -> str:
    """The kind that is open after the other side has spoken."""
    asked, goes_on = _asked(text[-240:])
    if kind and goes_on and len(text) <= 80:
        return kind
    return "CREDIT_CARD" if asked == "LAST_FOUR" else asked


def _after_answer(text: str, kind: str) -> str:
    """A caller who names a value ("my card number is four one one one") leaves it open for the next turn."""
    if len(text) > ANSWER:
        return ""
    named, _ = _asked(text)
    return named if named in LENGTHS and value_runs(text) else kind


def _in_transcript(text: str) -> Iterator[Finding]:
    marks = list(SPEAKER.finditer(text))
    kind = ""
    for place, mark in enumerate(marks):
        start = mark.end()
        end = marks[place + 1].start() if place + 1 < len(marks) else len(text)
        turn = text[start:end].rstrip()
        if mark[1].lower() in CALLERS:
            if kind and len(turn) <= ANSWER:
                yield from _answer(turn, kind, start)
            kind = _after_answer(turn, kind)
        else:
            kind = _after_question(turn, kind)


def _answer(text: str, kind: str, offset: int) -> Iterator[Finding]:
    if kind == "PERSON":
        lead = LEAD.match(text)
        begin = lead.end() if lead is not None else 0
        words = text[begin:].split()
        span = name(text[begin:]) if 0 < len(words) <= 5 else None
        letters = [run for run in value_runs(text) if len(run[0]) > 2 and run[0].isalpha()]
        if letters:
            yield Finding(kind, offset + letters[0][1], offset + letters[-1][2], 0.73, "a name was asked for")
        elif span is not None and (span[1] >= len(text[begin:].rstrip(" .,!?")) or len(words) <= 3):
            yield Finding(kind, offset + begin, offset + begin + span[1], 0.72, "a name was asked for")
        return
    if kind == "STREET_ADDRESS":
        runs = value_runs(text)
        if runs and len(text.split()) <= 16 and len(text[runs[0][1] :].split()) >= 2:
            yield Finding(
                kind, offset + runs[0][1], offset + len(text.rstrip(" .,!?")), 0.55, "an address was asked for"
            )
        return
    if kind == "DATE_OF_BIRTH" and (dates := list(_dates(text))):
        yield Finding(kind, offset + min(dates)[0], offset + max(end for _, end in dates), 0.74, "was asked for")
        return
    low, high = LENGTHS.get(kind, (0, 0))
    for typed, start, end in value_runs(text):
        plain = [character for character in typed if character.isalnum()]
        digits = sum(character.isdigit() for character in plain)
        if low <= len(plain) <= high and digits >= (1 if kind in LETTERS else len(plain) - 2):
            yield Finding(kind, offset + start, offset + end, 0.74, "was asked for")


def _dates(text: str) -> Iterator[tuple[int, int]]:
    """Places of dates, as typed or as spoken."""
    for match in DATES.finditer(text):
        yield match.span()
    for view, _ in spoken_views(text, spoken_runs(text)):
        for match in DATES.finditer(view.text):
            yield view.original(*match.span())
