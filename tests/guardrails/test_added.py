"""Personal data that a model adds never leaves, at any split; everything else leaves byte for byte."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.added import AddedData, Known
from guardrails.detectors.pattern import Pattern
from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Form, RedactionUnavailable

ADDED = {
    "CREDIT_CARD": "4111 1111 1111 1111",
    "EMAIL_ADDRESS": "someone.else@example.com",
    "US_SSN": "123-45-6789",
    "PHONE_NUMBER": "+44 20 7493 4545",
    "IBAN_CODE": "GB82 WEST 1234 5698 7654 32",
    "UK_NINO": "AB 12 34 56 C",
    "STREET_ADDRESS": "742 Evergreen Terrace",
    "URL_CREDENTIALS": "ftp://jo:pw@example.com/x",
    "SECRET": "AKIAIOSFODNN7EXAMPLE",
    "IP_ADDRESS": "10.1.2.3",
    "MAC_ADDRESS": "00:1A:2b:3c:4d:5e",
}
FILLER = [
    "Of course",
    "you have 3",
    "it is on May",
    "Thank you,",
    "a",
    "\n",
    "é ß",
    "\u200b",
    "中文。",
    "[PERSON_1]",
    "(",
    '"',
    "\\",
    "7",
    "12 items",
    "\ud800",
]
ORDINARY = "Your bill of 120.50 dollars was paid on 4 May, item 12, and the next one is due in 30 days at 5 pm. [PERSON_1], thank you!"
WORDS = st.lists(st.sampled_from([*FILLER, *ADDED.values()]) | st.text(max_size=6), max_size=9).map(" ".join)
CUTS = st.lists(st.integers(0, 2000), max_size=25)


def built(**answers: object) -> AddedData:
    added = build_redactor(RedactionSettings.model_validate({"ner": "off", "answers": answers})).added
    assert added is not None
    return added


DEFAULT = built()
NOTHING = Known(())


def said(added: AddedData, text: str, cuts: list[int], form: Form = "plain", known: Known = NOTHING) -> str:
    channel = added.channel(lambda: known, form)
    borders = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return "".join(channel.feed(text[a:b]) for a, b in itertools.pairwise(borders)) + channel.flush()


@settings(deadline=None, max_examples=120)
@given(WORDS | st.text(max_size=300), CUTS)
def test_streamed_is_whole_at_every_split_of_any_text(text: str, cuts: list[int]) -> None:
    assert said(DEFAULT, text, cuts) == said(DEFAULT, text, [])


@settings(deadline=None, max_examples=120)
@given(WORDS, st.booleans(), CUTS)
def test_streamed_is_whole_in_the_arguments_of_a_tool(text: str, ascii_only: bool, cuts: list[int]) -> None:
    source = json.dumps({"a": text, "n": [text, 4111111111111111, -4155550132]}, ensure_ascii=ascii_only)
    whole = said(DEFAULT, source, [], "json")
    json.loads(whole)
    assert "4111111111111111" not in whole
    assert said(DEFAULT, source, cuts, "json") == whole


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(FILLER), st.sampled_from(sorted(ADDED)), st.sampled_from(FILLER), CUTS)
def test_a_value_never_leaves_at_any_split(before: str, kind: str, after: str, cuts: list[int]) -> None:
    value = ADDED[kind]
    for text, form in ((f"{before} {value}, {after}", "plain"), (json.dumps({"q": f"{before} {value}"}), "json")):
        out = said(DEFAULT, text, cuts, form)  # type: ignore[arg-type]
        assert value not in out
        assert f"<{kind}>" in out


@pytest.mark.parametrize("kind", sorted(ADDED))
def test_no_part_of_a_value_leaves_one_character_at_a_time(kind: str) -> None:
    text = f"Sure, it is {ADDED[kind]} as far as I know."
    assert said(DEFAULT, text, list(range(len(text)))) == f"Sure, it is <{kind}> as far as I know."


def test_a_pattern_as_long_as_the_horizon_never_leaves() -> None:
    longest = max((p for p in DEFAULT.matcher.patterns), key=lambda p: p.longest)
    assert longest.longest == DEFAULT.horizon
    value = "eyJ" + "a" * 40 + "." + "b" * (DEFAULT.horizon - 44)
    text = f"the token {value} and more"
    assert said(DEFAULT, text, list(range(len(text)))) == "the token <SECRET> and more"


@given(CUTS)
def test_ordinary_text_and_tokens_leave_byte_for_byte(cuts: list[int]) -> None:
    assert said(DEFAULT, ORDINARY, cuts) == ORDINARY
    source = json.dumps({"note": ORDINARY, "n": 3, "x": None})
    assert said(DEFAULT, source, cuts, "json") == source


def test_little_is_held() -> None:
    channel = DEFAULT.channel(lambda: NOTHING)
    assert channel.feed("Hello there, how ") == "Hello there, how "
    assert channel.feed("can anyone hel") == "can anyone "
    assert channel.feed("p you? ") == "help you? "
    assert channel.feed("Card 4111 ") == "Card "


def test_the_callers_own_what_was_shown_and_the_companys_values_pass() -> None:
    text = "Write to jo@example.com or help@bank.example, call 0800 555 0199, card ending 4444, or 415-555-0132."
    company = built(company=["@bank.example", "+44 800 555 0199"])
    known = Known(["Jo@Example.com", "5500 0000 0000 4444"], ["shown: call 415.555.0132 now"])
    assert said(company, text, [9, 20, 31], known=known) == text
    assert "<EMAIL_ADDRESS>" in said(company, text, [9], known=Known([]))
    assert "jo@" not in repr(known)


def test_each_action_does_what_it_says_and_kinds_that_requests_may_hold_pass() -> None:
    actions = {"CREDIT_CARD": "mask", "EMAIL_ADDRESS": "hash", "US_SSN": "drop", "IP_ADDRESS": "allow"}
    out = said(built(entities=actions), "4111 1111 1111 1111 jo@example.com 123-45-6789 10.1.2.3 +44 20 7493 4545", [])
    assert out.startswith("**** **** **** 1111 <EMAIL_ADDRESS:")
    assert out.endswith("10.1.2.3 <PHONE_NUMBER>")
    allowing = build_redactor(RedactionSettings(ner="off", entities={"EMAIL_ADDRESS": "allow"})).added
    assert allowing is not None
    assert said(allowing, "jo@example.com", []) == "jo@example.com"
    channel = built(entities={"CREDIT_CARD": "block"}).channel(lambda: NOTHING)
    assert channel.feed("your card 4111 1111 1111 1111 is here ") == "your card "
    assert (channel.blocked, channel.feed("more"), channel.flush()) == ({"CREDIT_CARD"}, "", "")


def test_a_validator_that_raises_stops_the_answer_and_says_which_kinds() -> None:
    def broken(text: str) -> tuple[int, int] | None:
        raise ZeroDivisionError(text)

    added = AddedData(RedactionSettings(), [Pattern("BADGE", "badge", r"BDG-\d+", 1.0, 12, broken)], b"k")
    with pytest.raises(RedactionUnavailable, match="BADGE") as raised:
        said(added, "badge BDG-1234 is", [])
    assert "1234" not in str(raised.value)


def test_a_policys_own_pattern_that_python_cannot_read_is_held_by_its_length() -> None:
    own = {"name": "BADGE", "regex": r"\bBDG[[:space:]]\pN{4}\b", "longest": 8}
    added = build_redactor(RedactionSettings.model_validate({"ner": "off", "patterns": [own]})).added
    assert added is not None
    text = "badge BDG 1234 is"
    assert said(added, text, list(range(len(text)))) == "badge <BADGE> is"
