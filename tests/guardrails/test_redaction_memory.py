"""What was read is not read again, within bounds and without its text; and what finds names fails closed when it hangs or a check raises."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from guardrails.detectors import names
from guardrails.detectors.names import NameFinder
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import RedactionUnavailable, Segment
from tests.guardrails.test_redaction import patterns_only

CARD = "4111 1111 1111 1111"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every text that is analysed."""
    seen: list[str] = []
    analyse = Redactor._analyse

    async def noted(self: Redactor, turns: Any) -> Any:
        seen.extend(segment.text for segment, _ in turns)
        return await analyse(self, turns)

    monkeypatch.setattr(Redactor, "_analyse", noted)
    yield seen


async def test_each_turn_of_a_conversation_costs_only_its_new_text(read: list[str]) -> None:
    redactor = patterns_only()
    turns = [Segment(f"turn {number} {CARD}", "user" if number % 2 else "assistant") for number in range(20)]
    for length in range(1, len(turns) + 1):
        redaction = await redactor.redact(turns[:length])
        assert redaction.texts[-1] == f"turn {length - 1} [CREDIT_CARD_1]"
    assert read == [turn.text for turn in turns]
    assert CARD not in repr(redactor._remembered)
    assert all(isinstance(key, bytes) and len(key) == 16 for key in redactor._remembered)


async def test_what_is_remembered_is_bounded_and_hangs_on_a_key(read: list[str]) -> None:
    redactor = patterns_only(remembered_messages=5)
    for number in range(50):
        await redactor.redact([Segment(f"text {number}")])
    assert len(redactor._remembered) == 5
    await redactor.redact([Segment("text 49"), Segment("text 0")])
    assert read[50:] == ["text 0"]
    other = patterns_only()
    await other.redact([Segment("text 49")])
    assert not set(other._remembered) & set(redactor._remembered)  # who has a digest cannot try texts against it


async def test_what_was_not_checked_is_not_remembered(read: list[str]) -> None:
    redactor = build_redactor(RedactionSettings(ner_model="no_such_model", on_unavailable="continue"))
    for _ in range(2):
        assert (await redactor.redact([Segment(CARD)])).not_checked == ("PERSON",)
    assert read == [CARD, CARD]
    await redactor.aclose()


async def test_a_name_model_that_hangs_stops_requests_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def load(_: str) -> Any:
        def hang(texts: list[str]) -> Any:
            gate.wait()
            return [[] for _ in texts]

        return hang

    monkeypatch.setattr(names, "_load", load)
    finder = NameFinder("any", timeout_s=0.05)
    await finder.ready()
    for _ in range(3):
        with pytest.raises(RedactionUnavailable, match="not checked for PERSON: the name model did not answer in time"):
            await finder.find(["my name is Jo"])
    gate.set()
    finder.close()


async def test_a_check_that_raises_stops_the_request_and_shows_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = patterns_only()

    def broken(text: str, *_: Any) -> Any:
        raise ValueError(text)

    monkeypatch.setattr(redactor._matcher, "look", broken)
    with pytest.raises(RedactionUnavailable, match="CREDIT_CARD") as raised:
        await redactor.redact([Segment(CARD)])
    assert CARD not in str(raised.value)
    assert raised.value.__cause__ is None
