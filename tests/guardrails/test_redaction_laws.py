"""Laws of finding and replacing, and what bad input does to them: any Unicode, any country, recognisers that raise or hang."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.search import squeezed
from gateway.audit.values import Values
from guardrails.actions import ActionRefused, find_actions, load_own_recognizers
from guardrails.detectors import checks
from guardrails.detectors.own import MOST_STUCK
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import RedactionUnavailable, Segment
from tests.guardrails.test_redaction import REDACTOR, TEXTS, patterns_only, restored

CARD = "4111 1111 1111 1111"
ACTIONS = {"CREDIT_CARD": "mask", "EMAIL_ADDRESS": "hash", "US_SSN": "drop", "PHONE_NUMBER": "token"}
ONE_WAY = [REDACTOR, patterns_only(entities=ACTIONS)]


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=3), st.sampled_from(ONE_WAY))
def test_what_is_redacted_for_good_is_redacted_already(texts: list[str], redactor: Redactor) -> None:
    once = asyncio.run(redactor.redact([Segment(text) for text in texts], one_way=True))
    again = asyncio.run(redactor.redact([Segment(text) for text in once.texts], one_way=True))
    assert again.texts == once.texts


async def test_a_token_in_a_text_keeps_its_number_to_itself() -> None:
    redaction = await REDACTOR.redact([Segment(f"[CREDIT_CARD_3] {CARD}")], one_way=True)
    assert redaction.texts == ("[CREDIT_CARD_3] [CREDIT_CARD_4]",)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["plain", "json"]))
def test_offsets_refer_to_the_original(text: str, form: Any) -> None:
    source = json.dumps({"a": text}) if form == "json" else text
    found = asyncio.run(REDACTOR.find([Segment(source, form=form)]))[0]
    places = [place for item in found for place in (item.start, item.end)]
    assert places == sorted(places)
    assert all(0 <= item.start < item.end <= len(source) for item in found)


DISGUISES = {
    "zero-width": "4111\u200b 1111\u200d 1111\ufeff 1111",
    "bidirectional": "\u202e4111\u202c \u20661111\u2069 1111 1111",
    "full width": "４１１１ １１１１ １１１１ １１１１",
    "Arabic-Indic": "٤١١١ ١١١١ ١١١١ ١١١١",
    "Devanagari": "४१११ ११११ ११११ ११११",
    "mathematical": "𝟒𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏",
    "superscript": "⁴¹¹¹ ¹¹¹¹ ¹¹¹¹ ¹¹¹¹",
    "circled": "④①①① ①①①① ①①①① ①①①①",
    "odd spaces and dashes": "4111\u00a01111\u20111111\u20091111",
}


@pytest.mark.parametrize("how", DISGUISES)
async def test_digits_in_disguise_are_found_and_come_back_as_they_were(how: str) -> None:
    text = f"my card is {DISGUISES[how]} thanks"
    redaction = await REDACTOR.redact([Segment(text)])
    assert dict(redaction.counts) == {"CREDIT_CARD": 1}
    assert not any(character.isdigit() for character in redaction.texts[0].replace("[CREDIT_CARD_1]", ""))
    assert restored(redaction.texts[0], dict(redaction.tokens)) == text


def test_a_number_beside_a_card_never_leaves_a_part_of_it() -> None:
    numbers = range(1000)
    for text in (
        shape.format(number) for number in numbers for shape in ("{} " + CARD, CARD + " {}", "{0}-" + CARD + "-{0}")
    ):
        found = checks.card(text)
        assert found is not None
        assert CARD in text[slice(*found)]


STRONG = (Values.card, Values.ssn, Values.itin, Values.iban, Values.nino, Values.aadhaar, Values.phone, Values.email)
STRONG += (Values.spanish_id, Values.pan, Values.curp, Values.uk_postcode, Values.secret, Values.url_with_password)
SEED = 11


@pytest.mark.parametrize("draw", STRONG, ids=lambda draw: draw.__name__)
async def test_no_part_of_a_value_is_left_whatever_numbers_stand_beside_it(draw: Callable[[Values], str]) -> None:
    redactor = patterns_only(countries=["US", "UK", "EU", "IN", "ES", "MX"])
    values = Values(SEED)
    between = values.random
    beside: list[Callable[[], str]] = [
        lambda: str(between.randint(0, 9999)),
        lambda: f"{between.randint(1, 12)}/{between.randint(1, 28)}/2024",
        lambda: f"${between.randint(1, 999)}.{between.randint(10, 99)}",
        lambda: f"{between.randint(1, 12)}:{between.randint(10, 59)} pm",
        lambda: f"cvv {between.randint(100, 999)} exp 05/29",
        values.card,
        values.ssn,
        values.phone,
        lambda: "and",
    ]
    for _ in range(200):
        value, gap = draw(values), between.choice([" ", ", ", ". ", " - ", ": ", " / ", "\n"])
        text = f"{between.choice(beside)()}{gap}{value}{gap}{between.choice(beside)()}"
        left = squeezed((await redactor.redact([Segment(text)])).texts[0])
        bare = squeezed(value)
        parts = [bare[place : place + 6] for place in range(len(bare) - 5)] or [bare]
        assert not any(part in left for part in parts), f"seed {SEED}: a part of {draw.__name__} is left"


PACKS = [
    ("US", "US_SSN", "123-45-6789"),
    ("US", "US_ITIN", "912-70-1234"),
    ("UK", "UK_NINO", "AB 12 34 56 C"),
    ("UK", "POSTAL_CODE", "SW1A 1AA"),
    ("EU", "EU_VAT", "VAT number DE123456789"),
    ("ES", "ES_ID", "12345678Z"),
    ("IN", "IN_AADHAAR", "2341 2341 2346"),
    ("IN", "IN_PAN", "ABCPD1234F"),
    ("MX", "MX_CURP", "GOMC850101HDFRRL09"),
    ("MX", "MX_RFC", "GOMC850101AB1"),
]


@pytest.mark.parametrize(("country", "kind", "text"), PACKS)
async def test_a_national_number_is_looked_for_where_the_policy_names_its_country(
    country: str, kind: str, text: str
) -> None:
    there = await patterns_only(countries=[country], region="US").find([Segment(text)])
    assert kind in {item.kind for item in there[0]}
    others = [other for other in ("US", "IN", "MX") if other != country]
    elsewhere = await patterns_only(countries=others, region="US").find([Segment(text)])
    assert kind not in {item.kind for item in elsewhere[0]}


RECOGNISERS = """
import re
from presidio_analyzer import EntityRecognizer, RecognizerResult

class Badges(EntityRecognizer):
    def __init__(self):
        super().__init__(supported_entities=["BADGE"], name="Badges")
    def load(self):
        pass
    def analyze(self, text, entities, nlp_artifacts=None):
        return [RecognizerResult("BADGE", m.start(), m.end(), 0.9) for m in re.finditer("BDG-[0-9]{4}", text)]
"""


async def test_a_users_own_entity_recognizer_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "badges.py").write_text(RECOGNISERS)
    own = load_own_recognizers(find_actions(["badges"], tmp_path))
    redactor = build_redactor(RedactionSettings(ner="off"), recognizers=own)
    redaction = await redactor.redact([Segment("badge BDG-1234 and jo@example.com")])
    assert redaction.texts == ("badge [BADGE_1] and [EMAIL_ADDRESS_1]",)
    assert "BADGE" in redactor.kinds()
    (tmp_path / "badges.py").write_text("import os\n" + RECOGNISERS)
    with pytest.raises(ActionRefused, match="imports 'os'"):
        find_actions(["badges"], tmp_path)


class Own:
    """A recogniser of the shape of Presidio's. ``hang``: what it waits for; ``fault``: what it raises."""

    def __init__(self, kind: str, hang: threading.Event | None = None, fault: Exception | None = None) -> None:
        self.name, self.supported_entities = f"Own{kind}", [kind]
        self._hang, self._fault = hang, fault

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[Any]:
        if self._hang is not None:
            self._hang.wait()
        if self._fault is not None:
            raise self._fault
        return []


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def with_own(*own: Own, **more: Any) -> Redactor:
    given = RedactionSettings.model_validate({"ner": "off", "ner_timeout_s": 0.1, **more})
    return build_redactor(given, recognizers=own)


async def test_a_recogniser_that_raises_stops_the_request_and_names_its_kind_and_no_text() -> None:
    redactor = with_own(Own("GOOD"), Own("BAD", fault=RuntimeError(CARD)))
    with pytest.raises(RedactionUnavailable) as raised:
        await redactor.redact([Segment(f"hello {CARD}")])
    assert raised.value.kinds == ("BAD",)
    assert str(raised.value) == "not checked for BAD: OwnBAD raised RuntimeError"
    redactor = with_own(Own("BAD", fault=RuntimeError(CARD)), on_unavailable="continue")
    redaction = await redactor.redact([Segment(f"hello {CARD}")])
    assert (redaction.texts, redaction.not_checked) == (("hello [CREDIT_CARD_1]",), ("BAD",))


async def test_recognisers_that_hang_take_bounded_time_and_bounded_threads(gate: threading.Event) -> None:
    redactor = with_own(Own("SLOW", hang=gate))
    threads, started = threading.active_count(), time.monotonic()
    for number in range(MOST_STUCK * 3):
        with pytest.raises(RedactionUnavailable, match=r"not checked for SLOW: .*(OwnSLOW|hang)"):
            await redactor.redact([Segment(f"hello {number}")])
    assert time.monotonic() - started < 10
    assert threading.active_count() - threads <= MOST_STUCK + 1
    gate.set()
    for _ in range(200):  # each answers within the limit once it no longer hangs
        try:
            assert (await redactor.redact([Segment("hello again")])).texts == ("hello again",)
            break
        except RedactionUnavailable:
            await asyncio.sleep(0.01)
    else:
        pytest.fail("it never came back")
    await redactor.aclose()


async def test_ten_thousand_names_and_numbers_in_a_megabyte_take_bounded_time() -> None:
    redactor = build_redactor(RedactionSettings(ner_timeout_s=60))
    line = (
        "my name is Maria Gonzalez and my number is 415-555-{:04}, the bill of last month came late again and again. "
    )
    text = "".join(line.format(number) for number in range(10_000))
    assert len(text) > 1_000_000
    started = time.process_time()
    redaction = await redactor.redact([Segment(text)])
    assert time.process_time() - started < 60
    assert redaction.counts["PHONE_NUMBER"] == redaction.counts["PERSON"] == 10_000
    assert restored(redaction.texts[0], dict(redaction.tokens)) == text
    await redactor.aclose()
