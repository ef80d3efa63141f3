"""Personal data as it is spoken is found whole, over turns too; sums, dates, counts and times are not taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.detectors.asked import asked_before
from guardrails.detectors.spoken import UNITS, spoken_runs, spoken_views, value_runs
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.restore import Restorer
from guardrails.types import Segment
from tests.bench import spoken_cases

PATTERNS = build_redactor(RedactionSettings(ner="off"))
SAID = st.lists(
    st.sampled_from(
        [
            *UNITS.split(),
            "oh",
            "double",
            "triple",
            "um",
            "sorry",
            "no",
            "hundred",
            "dot",
            "at",
            "s",
            "as",
            "in",
            "dash",
            "4",
            "12",
            ",",
        ]
    ),
    max_size=14,
).map(" ".join)


@pytest.fixture
async def redactor() -> AsyncIterator[Redactor]:
    shipped = build_redactor(RedactionSettings())
    yield shipped
    await shipped.aclose()


async def share_caught(redactor: Redactor, cases: list[spoken_cases.Case]) -> float:
    caught = values = 0
    for case in cases:
        found = await redactor.find([Segment(turn.text, turn.role) for turn in case])
        for turn, items in zip(case, found, strict=True):
            spans = [(item.kind, item.start, item.end) for item in items]
            caught += sum(spoken_cases.caught(turn, *span, spans) for span in turn.spans)
            values += len(turn.spans)
    return caught / values


async def test_nine_in_ten_spoken_values_are_found_whole(redactor: Redactor) -> None:
    cases = spoken_cases.hand_checked()
    assert len(cases) >= 200
    assert await share_caught(redactor, [case for case in cases if any(turn.spans for turn in case)]) >= 0.9
    assert await share_caught(redactor, spoken_cases.generated(150)) >= 0.9


async def test_sums_dates_counts_and_times_are_nobodys_numbers(redactor: Redactor) -> None:
    for case in spoken_cases.hand_checked():
        if not any(turn.spans for turn in case):
            found = await redactor.find([Segment(turn.text, turn.role) for turn in case])
            kinds = {item.kind for items in found for item in items} - {"LOCATION", "ORGANIZATION", "URL"}
            assert kinds == set(), [turn.text for turn in case]


async def test_a_value_goes_on_over_the_agents_prompts() -> None:
    turns = [
        Segment("what is your card number", "assistant"),
        Segment("four one one one"),
        Segment("and the last four?", "assistant"),
        Segment("four two four two"),
        Segment("how many people are coming", "assistant"),
        Segment("four two"),
    ]
    assert asked_before(turns) == ["", "CREDIT_CARD", "", "CREDIT_CARD", "", ""]
    texts = (await PATTERNS.redact(turns)).texts
    assert [texts[1], texts[3], texts[5]] == ["[CREDIT_CARD_1]", "[CREDIT_CARD_2]", "four two"]


@settings(deadline=None)
@given(SAID)
def test_whatever_is_said_the_way_back_leads_into_the_text_and_redaction_is_undone(text: str) -> None:
    for view, corrected in spoken_views(text, spoken_runs(text)):
        assert view.starts is not None
        assert view.ends is not None
        assert len(view.starts) == len(view.ends) == len(view.text)
        assert all(0 <= start < end <= len(text) for start, end in zip(view.starts, view.ends, strict=True))
        assert list(view.starts) == sorted(view.starts)
        assert all(0 <= low < high <= len(text) for low, high in corrected)
    assert all(0 <= start < end <= len(text) for _, start, end in value_runs(text))
    redaction = asyncio.run(PATTERNS.redact([Segment("my number is", "assistant"), Segment(text)]))
    restorer = Restorer(redaction.tokens)
    assert restorer.feed(redaction.texts[1]) + restorer.flush() == text
