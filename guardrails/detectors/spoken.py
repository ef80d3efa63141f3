"""Text as it is spoken, rewritten as it would be typed, with the way back: "four one double one" is 4111, "b as in boy" is B.

Number words, spaced digits, spelled letters, fillers and self-corrections become runs of digits and letters; the patterns then read those. Amounts,
counts and times stay words. It finds spelled names itself, and nothing else; e-mail addresses and URLs are in ``spoken_links``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs

from guardrails.detectors.view import View
from guardrails.types import Finding


def listed(words: str) -> list[str]:
    """The words of a list that is written as one string."""
    return words.split()


UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
NUMBERS = {word: value for value, word in enumerate(listed(UNITS))} | {"nought": 0, "naught": 0, "nil": 0}
TENS = {
    word: 10 * value for value, word in enumerate(listed("twenty thirty forty fifty sixty seventy eighty ninety"), 2)
}
TENS["fourty"] = 40
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
ORDINAL = {word: value for value, word in enumerate(listed(ORDINALS), 1)} | {"twentieth": 20, "thirtieth": 30}
ZERO, HEARD = {"oh", "o"}, {"to": 2, "too": 2, "for": 4, "ate": 8, "won": 1}  # what recognition hears for a digit
REPEATS = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
CONNECTORS = {
    "dash": "-",
    "hyphen": "-",
    "minus": "-",
    "slash": "/",
    "stroke": "/",
    "plus": "+",
    "point": ".",
    "dot": ".",
    "/": "/",
}
FILLERS = set(listed("um uh er erm hmm ah eh mm like okay ok and then well yeah yes right so , . - ; … ( )"))
CORRECTIONS = set(listed("sorry no wait actually oops correction scratch mean meant i rather that that's not"))
CORRECTS = set(listed("sorry no wait actually oops correction scratch mean meant rather not"))
# A number before one of these counts something.
UNIT_WORDS = set(
    listed(
        "dollar dollars pound pounds euro euros buck bucks cent cents pence quid percent per rupee rupees peso pesos grand k yen franc francs"
        " people person guests orders order items item cards accounts tickets days day weeks week months month years year hours hour minutes minute"
        " seconds times miles km kilometers meters feet inches kg kilos pm am o'clock points stars degrees payments transactions pieces copies nights"
        " rooms adults kids children calls emails million billion thousand mb gb gigs megabytes"
    )
)
NATO = dict(
    zip(
        listed(
            "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar papa quebec romeo sierra tango"
            " uniform victor whiskey whisky xray yankee zulu"
        ),
        "aabcdefghijjklmnopqrstuvwwxyz",
        strict=True,
    )
)
STARTS = {*NUMBERS, *TENS, *ORDINAL, *ZERO, *REPEATS, *NATO, "plus"}
WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+(?:st|nd|rd|th)?|[^\w\s]|_")
_SAID = (
    r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{3,5}teen|double|triple|treble|twenty|thirty|forty|fifty|sixty|seventy"
    r"|eighty|ninety|nought|first|second|third|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w{3,5}teen|twentie|thirtie)th)"
)
# RE2: two words for digits or letters near each other. Without it nothing here finds anything.
SIGNAL = (
    rf"(?i)\b{_SAID}\b[ ,.\-]+(?:[a-z]+[ ,.]+)?(?:{_SAID}\b|hundred|thousand|\d|[b-hj-z]\b)|\b[0-9b-hj-z][ ,.\-]+{_SAID}\b|\bdouble \w|\b\w as in \w|\b\w for \w"
    r"|\b\w[ ,\-]{1,2}\w[ ,\-]{1,2}\w\b|\b(?:alpha|bravo|charlie|delta|echo|foxtrot|kilo|lima|november|oscar|papa|sierra|tango|victor) \w+"
    r"|\d[ ,.]+(?:um|uh|er|and|then|sorry|no|oh|double|triple)\b"
)
NAMED = re.compile(r"(?i)\b(?:spell\w*|spelt|names?|surname|letters?|as in|called|under|that's|it's)\b")
FULL_RUN = 0.5  # of a run's characters: a finding that covers as many covers all of a run that was corrected


@dataclass(frozen=True, slots=True)
class Item:
    """What one or more spoken words stand for: ``kind`` is d(igits), l(etter), c(onnector), f(iller) or x (a correction)."""

    kind: str
    value: str
    start: int
    end: int


Run = list[Item]


def spoken_runs(text: str) -> list[Run]:
    """Runs of two or more spoken digits or letters; the other functions take them. Worth calling where ``SIGNAL`` occurs."""
    return list(_runs(text))


def spoken_views(text: str, runs: Sequence[Run]) -> list[tuple[View, list[tuple[int, int]]]]:
    """The text as typed, once or (where a speaker corrects himself) in several readings; each with places of corrected runs.

    Empty where nothing is spoken. Offsets of the views lead into ``text``.
    """
    if not runs:
        return []
    readings = [[_typed(run) for run in runs]]
    corrected = [(run[0].start, run[-1].end) for run in runs if any(item.kind == "x" for item in run)]
    if corrected:
        readings += [[_typed(_without(run, wholly)) for run in runs] for wholly in (False, True)]
    return [(_laid_out(text, runs, reading), corrected) for reading in readings]


def spelled_names(text: str, runs: Sequence[Run]) -> list[Finding]:
    """Names that are spelled letter by letter, where the words before say so or are the name itself."""
    found = []
    for run in runs:
        letters = "".join(item.value for item in run if item.kind == "l")
        if len(letters) < 3 or any(item.kind == "d" for item in run):
            continue
        before = text[max(0, run[0].start - 60) : run[0].start]
        last = re.findall(r"[^\W\d_]+", before)[-1:]
        if (
            NAMED.search(before)
            or (last and last[0].lower() == letters.lower())
            or " as in " in text[run[0].start : run[-1].end]
        ):
            found.append(Finding("PERSON", run[0].start, run[-1].end, 0.72, "spelled name"))
    return found


def dictated(text: str, runs: Sequence[Run]) -> list[Finding]:
    """Long runs of dictated digits that nothing explains: more likely a phone (7 to 13) or a card (14 to 19) than a sum."""
    found = []
    for run in runs:
        digits = sum(len(item.value) for item in run if item.kind == "d")
        if all(text[item.start : item.end].isdigit() and len(item.value) > 1 for item in run if _counts(item)):
            continue  # a list of numbers
        if 7 <= digits <= 19 and all(item.kind != "l" and item.value.isdigit() for item in run if _counts(item)):
            kind = "PHONE_NUMBER" if digits <= 13 else "CREDIT_CARD"
            found.append(Finding(kind, run[0].start, run[-1].end, 0.42, "dictated digits"))
    return found


def value_runs(text: str) -> list[tuple[str, int, int]]:
    """Runs of digits and letters in an answer as typed, with their places; groups that are typed count as well."""
    return [("".join(i.value for i in _typed(run)), run[0].start, run[-1].end) for run in _runs(text, spoken=False)]


def in_original(found: Finding, view: View, corrected: Sequence[tuple[int, int]]) -> Finding:
    """A finding of a spoken view in the offsets of the text; all of a run that was corrected, if it covers half of it."""
    start, end = view.original(found.start, found.end)
    for low, high in corrected:
        if min(end, high) - max(start, low) > FULL_RUN * (high - low):
            start, end = min(start, low), max(end, high)
    return structs.replace(found, start=start, end=end, reason=f"spoken: {found.reason}")


def _runs(text: str, spoken: bool = True) -> Iterator[Run]:
    """Maximal runs of two or more digits or letters, with what stands between."""
    words = [(match[0], match.start(), match.end()) for match in WORD.finditer(text)]
    place = 0
    while place < len(words):
        first = words[place][0].lower()
        if len(first) > 1 and first not in STARTS and not first[0].isdigit():
            place += 1
            continue
        run: Run = []
        begun = place
        while place < len(words):
            step = _item(words, place, run)
            if step is None:
                break
            item, place = step
            run.append(item)
        else:
            place = len(words)
        trimmed = _trimmed(run)
        if _worth(trimmed, words[begun : place + 1], spoken):
            yield trimmed
        place += 0 if run else 1


def _item(words: Sequence[tuple[str, int, int]], place: int, run: Run) -> tuple[Item, int] | None:
    """The next item and the place after it; None where the run ends."""
    word, start, end = words[place]
    lower = word.lower()
    following = words[place + 1][0].lower() if place + 1 < len(words) else ""
    if lower in REPEATS and following:
        digit = _digit(following) or (following if len(following) == 1 and following.isalpha() else None)
        if digit is not None:
            kind = "d" if digit.isdigit() else "l"
            return Item(kind, digit * REPEATS[lower], start, words[place + 1][2]), place + 2
        return None
    number = _number(words, place, run)
    if number is not None:
        return number
    letter = _letter(words, place, run)
    if letter is not None:
        return letter
    if not run:
        return (Item("c", "+", start, end), place + 1) if lower in ("plus", "+") and _starts_digit(following) else None
    if lower in CONNECTORS:
        return Item("c", CONNECTORS[lower], start, end), place + 1
    if lower in FILLERS:
        return Item("f", "", start, end), place + 1
    if lower in CORRECTIONS and any(_counts(item) for item in run):
        return Item("x" if lower in CORRECTS else "f", "", start, end), place + 1
    return None


def _digit(word: str) -> str | None:
    if word in ZERO:
        return "0"
    value = NUMBERS.get(word)
    if value is not None and value < 10:
        return str(value)
    return word if len(word) == 1 and word.isascii() and word.isdigit() else None


def _starts_digit(word: str) -> bool:
    return word in NUMBERS or word in TENS or word in ZERO or word[:1].isdigit() or word in REPEATS


def _number(words: Sequence[tuple[str, int, int]], place: int, run: Run) -> tuple[Item, int] | None:
    word, start, end = words[place]
    lower = word.lower()

    def at(offset: int) -> str:
        return words[place + offset][0].lower() if place + offset < len(words) else ""

    if lower[0].isdigit():
        return Item("d", lower, start, end), place + 1
    if lower in ORDINAL and run and run[-1].kind != "d":
        return None
    if lower in ZERO:
        beside = (run and run[-1].kind == "d") or _starts_digit(at(1))
        return (Item("d", "0", start, end), place + 1) if beside else None
    if lower in HEARD:
        inside = len(run) >= 2 and run[-1].kind == run[-2].kind == "d" and _digit(at(1)) is not None
        return (Item("d", str(HEARD[lower]), start, end), place + 1) if inside else None
    if lower in ORDINAL:
        return Item("d", _ordinal(ORDINAL[lower]), start, end), place + 1
    unit = ORDINAL.get(at(1), 99) if at(1) != "-" else 99
    if lower in TENS and unit < 10:
        return Item("d", _ordinal(TENS[lower] + unit), start, words[place + 1][2]), place + 2
    value, used = _cardinal(at, 0)
    if value is None:
        return None
    return Item("d", str(value), start, words[place + used - 1][2]), place + used


def _cardinal(at: Callable[[int], str], used: int) -> tuple[int | None, int]:
    """The number that words from an offset say, and the offset after them: below a hundred, hundreds, and years of 2000."""
    value, used = _below_hundred(at, used)
    if value and (at(used) == "hundred" or (at(used) == "thousand" and value == 2)):  # other thousands are sums
        value, used = value * (100 if at(used) == "hundred" else 1000), used + 1
        more, after = _below_hundred(at, used + (at(used) == "and"))
        if more:
            value, used = value + more, after
    return value, used


def _below_hundred(at: Callable[[int], str], used: int) -> tuple[int | None, int]:
    word = at(used)
    if word not in TENS:
        return (NUMBERS[word], used + 1) if word in NUMBERS else (None, used)
    hyphen = at(used + 1) == "-"
    unit = NUMBERS.get(at(used + 1 + hyphen), 0)
    return (TENS[word] + unit, used + 2 + hyphen) if 0 < unit < 10 else (TENS[word], used + 1)


def _ordinal(value: int) -> str:
    ending = "th" if 10 < value % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def _letter(words: Sequence[tuple[str, int, int]], place: int, run: Run) -> tuple[Item, int] | None:
    word, start, end = words[place]
    lower = word.lower()

    def at(offset: int) -> str:
        return words[place + offset][0].lower() if place + offset < len(words) else ""

    if len(lower) == 1 and lower.isalpha():
        example = at(3) if at(1) == "as" and at(2) == "in" else at(2) if at(1) in ("for", "like", "as") else ""
        if example.startswith(lower) and len(example) > 2:
            used = 4 if at(2) == "in" else 3
            return Item("l", lower, start, words[place + used - 1][2]), place + used
        near = at(1) if at(1) not in FILLERS else at(2)
        beside = any(map(_counts, run[-2:])) or len(near) == 1 or _starts_digit(near)
        spelling = any(item.kind == "l" for item in run)
        alone = lower in ("i", "a") and not spelling and not (len(near) == 1 and near.isalpha())
        return (Item("l", lower, start, end), place + 1) if beside and not alone else None
    if lower in NATO:
        around = [at(1), at(2), *(words[place - n][0].lower() for n in (1, 2) if place >= n)]
        if sum(one in NATO or _digit(one) is not None for one in around) >= 2 or (run and run[-1].kind == "l"):
            return Item("l", NATO[lower], start, end), place + 1
    return None


def _counts(item: Item) -> bool:
    return item.kind in "dl"


def _trimmed(run: Run) -> Run:
    start, end = 0, len(run)
    while end > start and not _counts(run[end - 1]):
        end -= 1
    while start < end and not (_counts(run[start]) or run[start].value == "+"):
        start += 1
    return run[start:end]


def _worth(run: Run, words: Sequence[tuple[str, int, int]], spoken: bool) -> bool:
    """Whether a run is a value: two characters or more, spoken or interrupted, and not an amount or a count."""
    size = sum(len(item.value) for item in run if _counts(item))
    if size < 2:
        return False
    words_at = {start: word for word, start, _ in words}
    told = any(
        (item.kind in "fx" and words_at.get(item.start, "").isalpha())
        or (_counts(item) and not words_at.get(item.start, "")[:1].isdigit())
        for item in run
    )
    if spoken and not told and sum(len(item.value) == 1 for item in run if item.kind == "d") < 3:
        return False
    after = next((word.lower() for word, start, _ in words if start >= run[-1].end), "")
    counted = after in UNIT_WORDS or after in ("%", "$", "€", "£")
    return not (counted and size < 10)


def _typed(run: Run) -> list[Item]:
    """The items that are typed."""
    return [item for item in run if item.kind in "dlc"]


def _without(run: Run, wholly: bool) -> Run:
    """The run as its speaker meant it: a correction takes back the words since the last pause, or all before it."""
    out: Run = []
    for place, item in enumerate(run):
        if item.kind != "x":
            out.append(item)
            continue
        if place and run[place - 1].kind == "x":
            continue
        said = [i for i, one in enumerate(out) if _counts(one)]
        if wholly:
            out.clear()
        elif said:
            again = [one for one in run[place + 1 :] if one.kind != "f"]
            size = next((n for n, one in enumerate(again) if not _counts(one)), len(again))
            last = next((n for n in range(len(out) - 1, -1, -1) if out[n].kind in "fx" and n < said[-1]), -1)
            group = [n for n in said if n > last]
            del out[min(group[-1], group[max(0, len(group) - max(1, min(size, len(group))))]) :]
    return out


def _laid_out(text: str, runs: Sequence[Run], reading: Sequence[Sequence[Item]]) -> View:
    out: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    for run, items in zip(runs, reading, strict=True):
        begin, end = run[0].start, run[-1].end
        out.append(text[position:begin])
        starts += range(position, begin)
        ends += range(position + 1, begin + 1)
        previous = ""
        for item in items:
            apart = bool(previous) and (
                previous[-2:] in ("st", "nd", "rd", "th") or item.value[-2:] in ("st", "nd", "rd", "th")
            )
            value = (" " if apart else "") + (item.value.upper() if item.kind == "l" else item.value)
            out.append(value)
            starts += [item.start] * len(value)
            ends += [item.end] * len(value)
            previous = item.value
        position = end
    out.append(text[position:])
    starts += range(position, len(text))
    ends += range(position + 1, len(text) + 1)
    return View("".join(out), starts, ends)
