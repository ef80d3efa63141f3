"""E-mail addresses and web addresses as they are spoken: "john dot smith at gmail dot com", "www dot example dot com slash help".

It reads words only; addresses that are typed are patterns. Where the words before "at" do not say where an address begins, it takes at most three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from guardrails.detectors.spoken import NATO, NUMBERS, REPEATS, TENS, listed
from guardrails.types import Finding

# RE2: without it nothing here finds anything.
SIGNAL = r"(?i)\b(?:dot|period|point)\s+\w|\b(?:gmail|hotmail|yahoo|outlook|icloud|aol|proton(?:mail)?|live|msn|googlemail)\s+com\b"
WORD = re.compile(r"[\w'\u2019]+|[@._+\-/]")
JOINTS = {"dot", "period", "point", "underscore", "dash", "hyphen", "minus", "plus", ".", "_", "-", "+", "score"}
DOTS = {"dot", "period", "point", "."}
TOP = set(
    listed(
        "com net org edu gov co uk io de fr es mx in eu us ca au nz ie it nl be ch at pl pt br se no dk fi me info biz app dev ai tv mil int online shop"
        " example test jp cn za ng ke gr cz hu ro tr id ph sg my hk kr ar cl pe"
    )
)
PROVIDERS = set(
    listed("gmail hotmail yahoo outlook icloud aol proton protonmail live msn googlemail gmx comcast verizon")
)
BEFORE = set(
    listed(
        "is it's its that's thats email e mail address to at my on me called us reach contact send write and or use under username sure yeah yes okay"
        " ok um uh so well am are looked look looking bought buy paid pay shop shopped shopping ordered order work works working worked arrived signed"
        " logged clicked spent spend charge charged purchase purchased purchases payment payments subscription ok um uh so well it be would was as id account via please by for new old account from with copy cc you"
    )
)


def spoken_links(text: str) -> list[Finding]:
    """Findings of both kinds, by place. Worth calling where ``SIGNAL`` occurs."""
    words = [(match[0].lower(), match.start(), match.end()) for match in WORD.finditer(text)]
    found = list(_emails(words))
    for link in _urls(words):
        if not any(mail.start < link.end and link.start < mail.end for mail in found):
            found.append(link)
    return sorted(found, key=lambda item: item.start)


def _emails(words: Sequence[tuple[str, int, int]]) -> Iterator[Finding]:
    for place, (word, *_) in enumerate(words):
        if word not in ("at", "@") or not 0 < place < len(words) - 1:
            continue
        last = _domain(words, place + 1 + (words[place + 1][0] == "the"))
        if last is None and [one for one, *_ in words[place + 1 : place + 3]] == ["the", "rate"]:
            last = _domain(words, place + 3)
        if last is None:
            continue
        first = _local(words, place)
        if first < place:
            yield Finding("EMAIL_ADDRESS", words[first][1], words[last][2], 0.95, "spoken e-mail address")


def _domain(words: Sequence[tuple[str, int, int]], place: int) -> int | None:
    """The last word of a domain that begins at a place."""
    last, dotted, labels = None, False, 0
    for at in range(place, min(len(words), place + 14)):
        word = words[at][0]
        if word in DOTS:
            dotted = True
        elif word in TOP and (dotted or (labels == 1 and words[at - 1][0] in PROVIDERS)):
            last, dotted = at, False
        elif last is not None and not dotted:
            return last
        else:
            labels += not dotted and not _small(word)
            if labels > 3:
                return None
            dotted = False
    return last


def _small(word: str) -> bool:
    return len(word) == 1 or word in NUMBERS or word in TENS or word in NATO or word in REPEATS or word in JOINTS


def _local(words: Sequence[tuple[str, int, int]], at: int) -> int:
    """Where the part before "at" begins."""
    place, plain = at - 1, 0
    if words[place][0] in BEFORE and len(words[place][0]) > 1:
        return at
    if not _small(words[place][0]) and not words[place][0].isdigit():
        plain = 1
    while place > 0:
        word, previous = words[place][0], words[place - 1][0]
        joined = previous in JOINTS or word in JOINTS
        if previous in BEFORE and len(previous) > 1:
            break
        if previous in ("a", "i") and place > 1 and len(words[place - 2][0]) > 1 and len(word) > 1:
            break
        if not joined and not _small(previous) and not previous.isdigit():
            plain += 1
            if plain > 3:
                break
        place -= 1
    while place < at and words[place][0] in JOINTS:
        place += 1
    return place


def _urls(words: Sequence[tuple[str, int, int]]) -> Iterator[Finding]:
    place = 0
    while place < len(words) - 2:
        if words[place][0] in ("www", "w") or (words[place + 1][0] == "dot" and words[place][0].isalnum()):
            last = _domain(words, place)
            if last is not None and last > place + 1:
                while last + 2 < len(words) and words[last + 1][0] in ("slash", "/"):
                    last += 2
                yield Finding("URL", words[place][1], words[last][2], 0.8, "spoken web address")
                place = last
        place += 1
