"""How a reply stands to the text it should rely on, in numbers: what is copied, what is new, and of what kind the new is.

Counts words, not meaning: a true paraphrase looks new, and a false sentence made of the text's own words looks old. English
word lists. Which number says what about faithfulness is learned elsewhere (evals/train.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_CLAUSE = re.compile(r"[.!?;,]+(?:\s+|$)|\n+|\sbut\s|\sand\s")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_MOST_WORDS = 600  # of the text: the longest common subsequence costs words times words


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS: Final = _words(
    """
    a about above after again all also am an and any are as at be because been before being below between both but by can could d did
    do does doing down during each few for from further had has have having he her here hers him his how i if in into is it its just
    ll m may me might more most must my no nor not now of off oh on once only or other our out over own re s same shall she should so
    some such t than that the their them then there these they this those through to too under until up us ve very was we well were
    what when where which while who whom why will with would yeah yes you your
    """
)
_NEGATIONS: Final = frozenset(
    [
        "not",
        "no",
        "never",
        "none",
        "nobody",
        "nothing",
        "neither",
        "nor",
        "without",
        "cannot",
        "don",
        "doesn",
        "didn",
        "isn",
        "aren",
        "wasn",
        "weren",
        "won",
    ]
)
_FIRST_PERSON: Final = frozenset(["i", "me", "my", "mine", "we", "our", "us", "myself"])
_OPINIONS: Final = _words(
    """
    agree amazing awesome believe best cool definitely enjoy favorite favourite feel fun glad good great guess heard hope interesting
    know like love maybe nice perhaps probably really sure think wish wonder wow
    """
)
_PRONOUNS: Final = frozenset(["he", "she", "they", "it", "his", "her", "their", "its"])
_YES: Final = frozenset(["yes", "yeah", "yep", "yup", "sure"])
_NO: Final = frozenset(["no", "nope"])
_SUFFIXES: Final = MappingProxyType(
    {"ingly": "", "edly": "", "ings": "", "ing": "", "ies": "y", "ied": "y", "ed": "", "es": "", "ly": "", "s": ""}
)
FEATURES: Final = (
    "content_precision", "precision", "pairs", "triples", "quads", "subsequence", "longest_copy", "longest_copy_words",
    "covered", "segments", "new_content", "new_content_run", "uncovered_content", "uncovered_function", "uncovered_first",
    "uncovered_last", "sentence_least", "sentence_most", "clause_least", "clause_most", "sentences", "new_numbers", "numbers",
    "new_negation", "negation", "new_names", "first_person", "second_person", "opinions", "question", "exclamation", "says_yes",
    "says_no", "length", "text_length", "short", "changed_number", "flipped_negation",
    "text_recall", "pronouns",
)  # fmt: skip


def words(text: str) -> list[str]:
    """Lower-case words and numbers, in order."""
    return _WORD.findall(text.lower())


def stem(word: str) -> str:
    """Without the commonest English endings; never under three letters."""
    for suffix, instead in _SUFFIXES.items():
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)] + instead
    return word


def content_overlap(text: str, reply: str) -> float:
    """Share of the reply's content words that are in the text, 1 where it has none; what most lexical judges are."""
    known = set(words(text))
    content = [word for word in words(reply) if word not in FUNCTION_WORDS]
    return _share(word in known for word in content)


def measure(text: str, reply: str) -> tuple[float, ...]:
    """The FEATURES of `reply` beside `text`, in their order. Counts are log(1 + n); shares lie in [0, 1]."""
    text_raw, raw = words(text)[:_MOST_WORDS], words(reply)[:_MOST_WORDS]
    known, reply_stems = [stem(word) for word in text_raw], [stem(word) for word in raw]
    values = {
        **_copied(known, reply_stems),
        **_new(set(known), known, raw, reply_stems),
        **_parts(set(known), reply),
        **_kinds(text, reply, set(text_raw), raw),
        **_swapped(text_raw, raw),
        "text_recall": _share(word in set(reply_stems) for word in known if word not in FUNCTION_WORDS),
        "length": _log(len(raw)),
        "text_length": _log(len(known)),
    }
    return tuple(values[name] for name in FEATURES)


def _copied(known: list[str], reply: list[str]) -> dict[str, float]:
    longest = 0
    shared = {}
    for size in range(1, len(reply) + 1):
        grams = set(_grams(known, size))
        hits = [gram in grams for gram in _grams(reply, size)]
        if size <= 4:
            shared[size] = _share(hits)
        if not any(hits):
            break
        longest = size
    single = shared.get(1, 1.0)
    return {
        "precision": single,
        "pairs": shared.get(2, 0.0 if len(reply) > 1 else single),
        "triples": shared.get(3, 0.0 if len(reply) > 2 else single),
        "quads": shared.get(4, 0.0 if len(reply) > 3 else single),
        "subsequence": _common_subsequence(reply, known) / max(1, len(reply)),
        "longest_copy": longest / max(1, len(reply)),
        "longest_copy_words": _log(longest),
    }


def _new(known: set[str], known_order: list[str], raw: list[str], reply: list[str]) -> dict[str, float]:
    """What is not copied. A word is covered if it belongs to three words in a row that are in the text."""
    triples = set(_grams(known_order, 3))
    covered = [False] * len(reply)
    for place, gram in enumerate(_grams(reply, 3)):
        if gram in triples:
            covered[place : place + 3] = [True] * 3
    function = [word in FUNCTION_WORDS for word in raw]
    content_new = [not f and word not in known for f, word in zip(function, reply, strict=True)]
    open_function = sum(f and not c for f, c in zip(function, covered, strict=True))
    return {
        "content_precision": 1 - sum(content_new) / max(1, len(raw) - sum(function)),
        "covered": _share(covered),
        "segments": _log(sum(c and not before for before, c in zip([False, *covered], covered, strict=False))),
        "new_content": _log(sum(content_new)),
        "new_content_run": _log(_longest_run(word not in known for word in reply)),
        "uncovered_content": _log(len(reply) - sum(covered) - open_function),
        "uncovered_function": _log(open_function),
        "uncovered_first": _log(covered.index(True) if any(covered) else len(covered)),
        "uncovered_last": _log(covered[::-1].index(True) if any(covered) else len(covered)),
        "short": float(len(raw) - sum(function) <= 3),
    }


def _parts(known: set[str], reply: str) -> dict[str, float]:
    """The worst and the best sentence and clause: one invented sentence among four true ones is what a mean hides."""
    sentences = [
        _share(stem(word) in known for word in words(part) if word not in FUNCTION_WORDS)
        for part in _SENTENCE.split(reply)
        if words(part)
    ] or [1.0]
    clauses = [_share(stem(word) in known for word in words(part)) for part in _CLAUSE.split(reply) if words(part)] or [
        1.0
    ]
    return {
        "sentence_least": min(sentences),
        "sentence_most": max(sentences),
        "sentences": _log(len(sentences)),
        "clause_least": min(clauses),
        "clause_most": max(clauses),
    }


def _kinds(text: str, reply: str, known: set[str], raw: list[str]) -> dict[str, float]:
    numbers = [word for word in raw if word[0].isdigit()]
    negated = any(word in _NEGATIONS for word in raw)
    lower = text.lower()
    return {
        "numbers": _log(len(numbers)),
        "new_numbers": _log(sum(word not in known for word in numbers)),
        "negation": float(negated),
        "new_negation": float(negated and not known & _NEGATIONS),
        "new_names": _log(sum(name.lower() not in lower for name in _NAME.findall(reply))),
        "first_person": _log(sum(word in _FIRST_PERSON and word not in known for word in raw)),
        "second_person": _log(sum(word in ("you", "your", "yours") and word not in known for word in raw)),
        "opinions": _log(sum(word in _OPINIONS and word not in known for word in raw)),
        "pronouns": _log(sum(word in _PRONOUNS for word in raw)),
        "question": float("?" in reply),
        "exclamation": float("!" in reply),
        "says_yes": float(bool(raw) and raw[0] in _YES),
        "says_no": float(bool(raw) and raw[0] in _NO),
    }


def _swapped(known: list[str], raw: list[str]) -> dict[str, float]:
    """The text's own words around another number, or with a negation put in or left out: the smallest lies there are."""
    numbers = {word for word in known if word[0].isdigit()}
    around = {_frame(known, place) for place, word in enumerate(known) if word[0].isdigit()}
    changed = sum(
        word[0].isdigit() and word not in numbers and bool(_frames(raw, place) & _halves(around))
        for place, word in enumerate(raw)
    )
    mine, theirs = _negated_frames(raw), _negated_frames(known)
    plain_mine, plain_theirs = set(_grams(raw, 2)), set(_grams(known, 2))
    flipped = len(mine & plain_theirs - theirs) + len(theirs & plain_mine - mine)
    return {"changed_number": _log(changed), "flipped_negation": _log(flipped)}


def _frame(items: list[str], place: int) -> tuple[str, str]:
    return (items[place - 1] if place else "", items[place + 1] if place + 1 < len(items) else "")


def _frames(items: list[str], place: int) -> set[tuple[str, str]]:
    return _halves({_frame(items, place)})


def _halves(frames: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Each frame by its left and by its right word alone: either is enough to know the place again."""
    return {half for left, right in frames for half in ((left, ""), ("", right)) if half != ("", "")}


def _negated_frames(items: list[str]) -> set[tuple[str, str]]:
    """The words before and after each negation."""
    return {_frame(items, place) for place, word in enumerate(items) if word in _NEGATIONS}


def _grams(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(items[place : place + size]) for place in range(len(items) - size + 1)]


def _share(hits: Iterable[bool]) -> float:
    seen = list(hits)
    return sum(seen) / len(seen) if seen else 1.0


def _log(count: int) -> float:
    return math.log1p(count)


def _longest_run(flags: Iterable[bool]) -> int:
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Its length, by a row of bits for each word of `one` (Hyyrö 2004): words times words / 64 operations."""
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | (1 << place)
    everything = (1 << len(other)) - 1
    row = everything
    for word in one:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(other) - row.bit_count()
