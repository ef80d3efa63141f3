"""Where in the text a reply's words lie, in numbers: the runs that are copied, what was put in or left out between them, and the order.

Adds to overlap.py what a count of words cannot tell: "it was green" beside "the flag was green" copies three words of four and says
something else. Reads letters and places, not meaning; English word lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import Match, SequenceMatcher
from itertools import pairwise
from math import log1p
from types import MappingProxyType
from typing import Final

from evals.judges.overlap import FUNCTION_WORDS, stem, words

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_NOT = re.compile(r" ?n['\u2019]t\b")
_MOST_WORDS = (
    600  # of each side: aligning two sides of one word over and over takes 2 s then, usual ones of that length 20 ms
)
_PREFIX, _LETTERS = 5, 4  # what two forms of one word share, and how finely new words are cut
_PRONOUNS: Final = frozenset(["it", "they", "he", "she"])
_PERSONS: Final = frozenset(["i", "you", "we", "that", "my"])
_POINTING: Final = frozenset(["it", "they", "he", "she", "this", "these"])
_BE: Final = frozenset(["is", "are", "was", "were"])
_LINKS: Final = _BE | {"be", "has", "have", "had"}
_PREPOSITIONS: Final = frozenset(["of", "in", "by", "to", "for", "with", "as", "on", "from", "at"])
_HEDGES: Final = frozenset([
    "about", "almost", "approximately", "but", "considered", "could", "believed", "except", "generally", "least", "many", "may", "might",
    "most", "mostly", "nearly", "never", "not", "often", "only", "possibly", "can", "some", "sometimes", "typically", "up", "usually",
])  # fmt: skip
_UNITS: Final = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
    "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FIGURES: Final = MappingProxyType(
    {word: str(n) for n, word in enumerate(_UNITS, 2)} | {word: str(10 * n) for n, word in enumerate(_TENS, 2)}
)
FEATURES: Final = (
    "new_prefixes", "new_letters",
    "best_sentence", "other_sentences", "text_sentences", "text_points_back",
    "runs", "long_runs", "aligned", "aligned_long",
    "run_share", "run_at_sentence_start", "run_at_sentence_end", "run_opens", "run_closes", "run_skipped", "run_after_preposition",
    "run_after_link", "before_content", "before_new", "before_function", "after_content", "after_new", "after_function",
    "put_in_content", "put_in_new", "put_in_function", "put_in_hedges", "left_out_content", "left_out_function", "left_out_hedges",
    "turned_round", "content_pairs",
    "content", "new_contents", "new_functions", "new_amounts", "moved_amounts", "new_be", "starts_pronoun", "starts_person",
)  # fmt: skip


def measure(text: str, reply: str) -> tuple[float, ...]:
    """The FEATURES of `reply` beside `text`, in their order. Counts are log(1 + n); shares lie in [0, 1]."""
    theirs, mine = _tokens(text)[:_MOST_WORDS], _tokens(reply)[:_MOST_WORDS]
    known, said = [stem(word) for word in theirs], [stem(word) for word in mine]
    sentences = [[stem(word) for word in _tokens(part)] for part in _SENTENCE.split(text) if words(part)]
    runs = [run for run in SequenceMatcher(None, known, said, autojunk=False).get_matching_blocks() if run.size]
    values = {
        **_letters(theirs, set(known), mine, said),
        **_sentences(sentences, theirs, set(known), said),
        **_runs(runs, len(said)),
        **_around(max(runs, key=lambda run: run.size, default=Match(0, 0, 0)), sentences, theirs, set(known), mine),
        **_between([run for run in runs if run.size > 1], theirs, set(known), mine),
        **_order(theirs, known, mine, said),
        **_kinds(theirs, set(known), mine, said),
    }
    return tuple(values[name] for name in FEATURES)


def _tokens(text: str) -> list[str]:
    """Words with amounts as figures and contracted negations in full, so that "two" is "2" and "don't" has its "not"."""
    return [_FIGURES.get(word, word) for word in words(_NOT.sub(" not", text.lower()))]


def _letters(theirs: list[str], known: set[str], mine: list[str], said: list[str]) -> dict[str, float]:
    """New words that are not even another form of a known one: "Greek" beside "Greece" shares its letters."""
    new = [word for word, root in zip(mine, said, strict=True) if root not in known]
    prefixes = {word[:_PREFIX] for word in theirs if len(word) >= _PREFIX}
    letters = {piece for word in set(theirs) for piece in _pieces(word)}
    return {
        "new_prefixes": _log(len(word) >= _PREFIX and word[:_PREFIX] not in prefixes for word in new),
        "new_letters": _log(piece not in letters for word in new for piece in _pieces(word)),
    }


def _pieces(word: str) -> list[str]:
    return [word[place : place + _LETTERS] for place in range(len(word) - _LETTERS + 1)]


def _sentences(sentences: list[list[str]], theirs: list[str], known: set[str], said: list[str]) -> dict[str, float]:
    """How much of the reply one sentence of the text holds, and how much only all of them together do."""
    best = max((_share(word in held for word in said) for held in map(frozenset, sentences)), default=0.0)
    return {
        "best_sentence": best,
        "other_sentences": max(0.0, _share(word in known for word in said) - best),
        "text_sentences": log1p(len(sentences)),
        "text_points_back": float(bool(theirs) and theirs[0] in _POINTING),
    }


def _runs(runs: list[Match], length: int) -> dict[str, float]:
    long = [run for run in runs if run.size > 1]
    return {
        "runs": log1p(len(runs)),
        "long_runs": log1p(len(long)),
        "aligned": sum(run.size for run in runs) / max(1, length),
        "aligned_long": sum(run.size for run in long) / max(1, length),
    }


def _around(run: Match, sentences: list[list[str]], theirs: list[str], known: set[str], mine: list[str]) -> dict[str, float]:  # fmt: skip
    """The longest run: whether it is a whole sentence of the text, and what the reply says before and after it instead."""
    starts, ends = _borders(sentences)
    until = run.b + run.size
    before, after = mine[: run.b], mine[until:]
    opening = max((place for place in starts if place <= run.a), default=0)
    return {
        "run_share": run.size / max(1, len(mine)),
        "run_at_sentence_start": float(run.size > 0 and run.a in starts),
        "run_at_sentence_end": float(run.size > 0 and run.a + run.size in ends),
        "run_opens": float(run.size > 0 and run.b == 0),
        "run_closes": float(run.size > 0 and until == len(mine)),
        "run_skipped": _contents(theirs[opening : run.a]),
        "run_after_preposition": float(run.a > 0 and theirs[run.a - 1] in _PREPOSITIONS),
        "run_after_link": float(run.b > 0 and mine[run.b - 1] in _LINKS),
        "before_content": _contents(before),
        "before_new": _news(before, known),
        "before_function": _functions(before),
        "after_content": _contents(after),
        "after_new": _news(after, known),
        "after_function": _functions(after),
    }


def _borders(sentences: list[list[str]]) -> tuple[set[int], set[int]]:
    """Places where sentences of the text start, and where they end."""
    starts, ends, place = set(), set(), 0
    for sentence in sentences:
        starts.add(place)
        place += len(sentence)
        ends.add(place)
    return starts, ends


def _between(runs: list[Match], theirs: list[str], known: set[str], mine: list[str]) -> dict[str, float]:
    """Put in: the reply's own words between two runs. Left out: the text's words there; a "not" or "may" among them matters."""
    put_in = [word for one, other in pairwise(runs) for word in mine[one.b + one.size : other.b]]
    left_out = [word for one, other in pairwise(runs) for word in theirs[one.a + one.size : other.a]]
    return {
        "put_in_content": _contents(put_in),
        "put_in_new": _news(put_in, known),
        "put_in_function": _functions(put_in),
        "put_in_hedges": _log(word in _HEDGES for word in put_in),
        "left_out_content": _contents(left_out),
        "left_out_function": _functions(left_out),
        "left_out_hedges": _log(word in _HEDGES for word in left_out),
    }


def _order(theirs: list[str], known: list[str], mine: list[str], said: list[str]) -> dict[str, float]:
    first: dict[str, int] = {}
    for place, word in enumerate(known):
        first.setdefault(word, place)
    places = [
        first[root] for root, word in zip(said, mine, strict=True) if root in first and word not in FUNCTION_WORDS
    ]
    text_content = [root for root, word in zip(known, theirs, strict=True) if word not in FUNCTION_WORDS]
    content = [root for root, word in zip(said, mine, strict=True) if word not in FUNCTION_WORDS]
    neighbours = set(pairwise(text_content))
    return {
        "turned_round": sum(one > other for one, other in pairwise(places)) / max(1, len(places) - 1),
        "content_pairs": _share(pair in neighbours for pair in pairwise(content))
        if len(content) > 1
        else float(set(content) <= set(known)),
    }  # fmt: skip


def _kinds(theirs: list[str], known: set[str], mine: list[str], said: list[str]) -> dict[str, float]:
    new = [word for word, root in zip(mine, said, strict=True) if root not in known]
    amounts = {word for word in theirs if word[0].isdigit()}
    placed = _neighbours(theirs, amounts)
    moved = [word for word, near in _placed(mine, amounts) if not near & placed.get(word, set())]
    return {
        "content": _contents(mine),
        "new_contents": _contents(new),
        "new_functions": _functions(new),
        "new_amounts": _log(word[0].isdigit() and word not in amounts for word in mine),
        "moved_amounts": log1p(len(moved)),
        "new_be": float(bool(_BE & set(mine)) and not _BE & set(theirs)),
        "starts_pronoun": float(bool(mine) and mine[0] in _PRONOUNS),
        "starts_person": float(bool(mine) and mine[0] in _PERSONS),
    }


def _neighbours(items: Sequence[str], chosen: set[str]) -> dict[str, set[str]]:
    """The words beside each of `chosen`, wherever it stands."""
    found: dict[str, set[str]] = {}
    for word, near in _placed(items, chosen):
        found.setdefault(word, set()).update(near)
    return found


def _placed(items: Sequence[str], chosen: set[str]) -> list[tuple[str, set[str]]]:
    return [
        (word, {*items[max(0, place - 1) : place], *items[place + 1 : place + 2]})
        for place, word in enumerate(items)
        if word in chosen
    ]


def _contents(items: Iterable[str]) -> float:
    return _log(word not in FUNCTION_WORDS for word in items)


def _functions(items: Iterable[str]) -> float:
    return _log(word in FUNCTION_WORDS for word in items)


def _news(items: Iterable[str], known: set[str]) -> float:
    return _log(stem(word) not in known for word in items)


def _log(hits: Iterable[bool]) -> float:
    return log1p(sum(hits))


def _share(hits: Iterable[bool]) -> float:
    seen = list(hits)
    return sum(seen) / len(seen) if seen else 1.0
