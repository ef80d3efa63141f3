"""Redaction is undone exactly, keeps requests apart, fails closed and shows no value."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guardrails.redaction import CustomPattern, RedactionSettings, Redactor, build_redactor
from guardrails.restore import Restorer
from guardrails.types import PersonalDataBlocked, RedactionUnavailable, Segment

VALUES = [
    "4111 1111 1111 1111",
    "jo@example.com",
    "415-555-0132",
    "123-45-6789",
    "GB82 WEST 1234 5698 7654 32",
    "[PERSON_1]",
    "[LITERAL_",
    "1]",
    '"\n\\',
    "\u200b",
    "４１１１１１１１１１１１１１１１",
    "\ud800",
]
TEXTS = st.lists(st.sampled_from(VALUES) | st.text(max_size=8), max_size=10).map(" ".join) | st.text()


def patterns_only(**given: object) -> Redactor:
    return build_redactor(RedactionSettings.model_validate({"ner": "off", **given}))


def restored(text: str, tokens: dict[str, str], form: str = "plain") -> str:
    restorer = Restorer(tokens, "json" if form == "json" else "plain")
    return restorer.feed(text) + restorer.flush()


REDACTOR = patterns_only()


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=3))
def test_restoring_undoes_redaction_for_any_text(texts: list[str]) -> None:
    redaction = asyncio.run(REDACTOR.redact([Segment(text) for text in texts]))
    assert [restored(text, dict(redaction.tokens)) for text in redaction.texts] == texts
    again = asyncio.run(REDACTOR.redact([Segment(text) for text in redaction.texts]))
    assert tuple(restored(text, dict(again.tokens)) for text in again.texts) == redaction.texts


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), TEXTS | st.lists(TEXTS, max_size=2), max_size=3))
def test_json_stays_json_and_means_the_same_once_restored(document: dict[str, object]) -> None:
    for ascii_only in (True, False):
        source = json.dumps(document, ensure_ascii=ascii_only)
        redaction = asyncio.run(REDACTOR.redact([Segment(source, form="json")]))
        json.loads(redaction.texts[0])
        assert json.loads(restored(redaction.texts[0], dict(redaction.tokens), "json")) == json.loads(source)


async def test_a_number_in_json_becomes_a_quoted_token() -> None:
    redaction = await REDACTOR.redact([Segment('{"card": 4111111111111111}', form="json")])
    assert redaction.texts == ('{"card": "[CREDIT_CARD_1]"}',)


async def test_tokens_stay_the_same_as_a_conversation_grows() -> None:
    first = [Segment("card 4111 1111 1111 1111"), Segment("mail jo@example.com")]
    before = await REDACTOR.redact(first)
    after = await REDACTOR.redact([*first, Segment("card 4111 1111 1111 1111 or 5500 0000 0000 0004")])
    assert after.texts[:2] == before.texts
    assert after.texts[2] == "card [CREDIT_CARD_1] or [CREDIT_CARD_2]"


async def test_a_typed_token_comes_back_verbatim_and_is_nobodys_value() -> None:
    redaction = await REDACTOR.redact([Segment("[CREDIT_CARD_1] 4111 1111 1111 1111")])
    assert redaction.texts == ("[LITERAL_1] [CREDIT_CARD_1]",)
    assert restored("[LITERAL_1]", dict(redaction.tokens)) == "[CREDIT_CARD_1]"


async def test_a_thousand_concurrent_requests_never_see_each_others_values() -> None:
    async def one(number: int) -> None:
        mail = f"customer{number}@example.com"
        redaction = await REDACTOR.redact([Segment(f"reach {mail}"), Segment("hello there")])
        assert dict(redaction.tokens) == {"[EMAIL_ADDRESS_1]": mail}

    await asyncio.gather(*(one(number) for number in range(1000)))


async def test_each_action_does_what_it_says() -> None:
    actions = {"CREDIT_CARD": "mask", "EMAIL_ADDRESS": "hash", "US_SSN": "drop", "IP_ADDRESS": "allow"}
    redaction = await patterns_only(entities=actions).redact(
        [Segment("4111 1111 1111 1111, jo@example.com, 123-45-6789, 10.1.2.3")]
    )
    assert redaction.texts[0].startswith("**** **** **** 1111, <EMAIL_ADDRESS:")
    assert "123-45" not in redaction.texts[0]
    assert redaction.texts[0].endswith("10.1.2.3")
    assert dict(redaction.tokens) == {}
    with pytest.raises(PersonalDataBlocked, match="CREDIT_CARD"):
        await patterns_only(entities={"CREDIT_CARD": "block"}).redact([Segment("4111 1111 1111 1111")])


async def test_a_policys_own_pattern_is_found_in_its_context() -> None:
    own = CustomPattern(name="POLICY_NUMBER", regex=r"\bPX\d{6}\b", context=("policy",))
    redaction = await patterns_only(patterns=(own,)).redact([Segment("policy PX123456"), Segment("part PX654321")])
    assert redaction.texts == ("policy [POLICY_NUMBER_1]", "part PX654321")


def test_a_pattern_with_look_around_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="policy pattern BAD"):
        patterns_only(patterns=(CustomPattern(name="BAD", regex="(?=x)y"),))
    with pytest.raises(ValidationError):
        RedactionSettings.model_validate({"entitys": {}})


async def test_a_model_that_does_not_load_refuses_or_is_reported() -> None:
    refusing = build_redactor(RedactionSettings(ner_model="no_such_model"))
    with pytest.raises(RedactionUnavailable, match="PERSON"):
        await refusing.redact([Segment("hello")])
    going_on = build_redactor(RedactionSettings(ner_model="no_such_model", on_unavailable="continue"))
    redaction = await going_on.redact([Segment("jo@example.com")])
    assert redaction.not_checked == ("PERSON",)
    assert redaction.texts == ("[EMAIL_ADDRESS_1]",)
    await refusing.aclose()
    await going_on.aclose()


async def test_a_megabyte_with_ten_thousand_values_takes_bounded_time() -> None:
    text = " ".join(
        f"mail customer{number}@example.com and then some ordinary words about a bill that is late"
        for number in range(11_000)
    )
    started = time.process_time()
    redaction = await REDACTOR.redact([Segment(text)])
    assert time.process_time() - started < 20
    assert redaction.counts["EMAIL_ADDRESS"] == 11_000
    assert restored(redaction.texts[0], dict(redaction.tokens)) == text


async def test_no_repr_shows_a_value() -> None:
    segment = Segment("jo@example.com")
    redaction = await REDACTOR.redact([segment])
    assert "jo@" not in repr((segment, redaction, redaction.tokens))
    assert "jo@" not in repr(await REDACTOR.find([segment]))


@pytest.fixture
async def with_names() -> AsyncIterator[Redactor]:
    redactor = build_redactor(RedactionSettings())
    yield redactor
    await redactor.aclose()


async def test_names_are_found_and_offsets_refer_to_the_original(with_names: Redactor) -> None:
    text = "\u200bMy name is John Smith and I moved from Paris."
    found = (await with_names.find([Segment(text)]))[0]
    assert [text[item.start : item.end] for item in found if item.kind == "PERSON"] == ["John Smith"]
    redaction = await with_names.redact([Segment(text)])
    assert redaction.texts == ("\u200bMy name is [PERSON_1] and I moved from Paris.",)


async def test_a_border_never_falls_inside_a_json_escape() -> None:
    source = json.dumps({"": "123-45-6789 \u00b9", "q": 'jo@example.com"'})
    redaction = await REDACTOR.redact([Segment(source, form="json")])
    json.loads(redaction.texts[0])
    escaped_token = '{"a": "\\u005bCREDIT_CARD_1\\u005d 4111 1111 1111 1111"}'
    typed = await REDACTOR.redact([Segment(escaped_token, form="json")])
    assert json.loads(typed.texts[0]) == {"a": "[LITERAL_1] [CREDIT_CARD_1]"}
    masking = await patterns_only(entities={"CREDIT_CARD": "mask"}).redact([Segment(source, form="json")])
    json.loads(masking.texts[0])


async def test_a_users_presidio_recogniser_file_loads_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "recognizers.yaml"
    file.write_text(
        "supported_languages: [en]\nglobal_regex_flags: 26\nrecognizers:\n"
        "  - name: Badge\n    supported_languages: [en]\n    type: custom\n    supported_entity: BADGE\n"
        '    patterns:\n      - {name: badge, regex: "BDG-[0-9]{4}", score: 0.9}\n'
    )
    redactor = patterns_only(presidio_recognizers=file)
    redaction = await redactor.redact([Segment("badge BDG-1234 and jo@example.com")])
    assert redaction.texts == ("badge [BADGE_1] and [EMAIL_ADDRESS_1]",)
