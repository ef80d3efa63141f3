"""Restoration is exact for every split into deltas, in plain text and inside JSON."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from guardrails.restore import Restorer

TOKENS = {"[PERSON_1]": 'Zoë "Z"\n\\ [PERSON_2]', "[PERSON_2]": "Bob", "[CREDIT_CARD_12]": "4111 1111 1111 1111"}
PIECES = st.sampled_from(
    [*TOKENS, "[", "]", "[PERSON_", "[PERSON_1", "[PERSON_9]", "_1]", "\\", "é", " x ", "[[", "[A", "\u200b", "\ud800"]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)


def fed(restorer: Restorer, text: str, cuts: list[int]) -> str:
    borders = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    out = "".join(restorer.feed(text[a:b]) for a, b in itertools.pairwise(borders))
    return out + restorer.flush()


@given(TEXTS, st.lists(st.integers(0, 1000), max_size=20))
def test_streamed_equals_whole_for_every_split_of_plain_text(text: str, cuts: list[int]) -> None:
    whole, streamed = Restorer(TOKENS), Restorer(TOKENS)
    assert fed(streamed, text, cuts) == fed(whole, text, [])
    assert streamed.unresolved == whole.unresolved


@given(st.text() | TEXTS, st.lists(st.integers(0, 1000), max_size=20))
def test_streamed_equals_whole_for_every_split_of_any_json_source(text: str, cuts: list[int]) -> None:
    whole, streamed = Restorer(TOKENS, "json"), Restorer(TOKENS, "json")
    assert fed(streamed, text, cuts) == fed(whole, text, [])
    assert streamed.unresolved == whole.unresolved


@given(TEXTS, st.booleans(), st.lists(st.integers(0, 2000), max_size=20))
def test_a_json_string_decodes_to_the_restored_plain_text(text: str, escape_all: bool, cuts: list[int]) -> None:
    source = json.dumps({"k": [text]})
    if escape_all:
        source = (
            '{"k": ["' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else json.dumps(c)[1:-1] for c in text) + '"]}'
        )
    restored = json.loads(fed(Restorer(TOKENS, "json"), source, cuts))["k"][0]
    assert restored == json.loads(json.dumps(fed(Restorer(TOKENS), text, [])))


def test_only_a_tail_that_could_become_a_token_is_held() -> None:
    restorer = Restorer(TOKENS)
    assert restorer.feed("hello [world") == "hello [world"
    assert restorer.feed(" [PERS") == " "
    assert restorer.feed("ON_2] and") == "Bob and"
    assert restorer.feed("[" + "A" * 60) == "[" + "A" * 60
    assert restorer.flush() == ""


def test_unknown_tokens_stay_and_are_counted() -> None:
    restorer = Restorer(TOKENS)
    assert restorer.feed("[PERSON_7] [person_1]") + restorer.flush() == "[PERSON_7] [person_1]"
    assert restorer.unresolved == 1
    assert "Bob" not in repr(restorer)
