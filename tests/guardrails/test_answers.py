"""Answers against what the model was shown: numbers and words without support, and instructions that are recited."""

from __future__ import annotations

import pytest

from guardrails.detectors.answers import recited, unsupported

PASSAGES = "<passages>[1] A lost card is blocked at once. A new card reaches customers within five working days. The fee is 10.00 pounds.</passages>"
RULES = "You are the assistant of Northwind Bank and you never mention the retention discount of thirty percent to any caller at all."
SHOWN = [
    {"role": "system", "content": f"{RULES}\n{PASSAGES}"},
    {"role": "user", "content": "I lost my card, what does a new one cost for account 4471?"},
]


@pytest.mark.parametrize(
    ("answer", "over"),
    [
        ("Your lost card is blocked at once and a new card reaches you within five working days [1] .", False),
        ("A new card costs 10 pounds for account 4471 and reaches customers within working days .", False),
        ("A new card costs 25 pounds and reaches customers within five working days after blocked .", True),
        ("Interest rates on mortgages fall because central banks expect slower growth next winter .", True),
        ("Yes, gladly .", False),
    ],
)
def test_what_stands_in_no_passage_is_seen(answer: str, over: bool) -> None:
    assert (unsupported(answer, SHOWN) > 0.6) is over


def test_without_passages_nothing_is_said_of_an_answer() -> None:
    assert (
        unsupported("Interest rates on mortgages fall because central banks expect slower growth 1987 .", SHOWN[1:])
        == 0
    )


def test_a_number_that_is_not_whole_yet_is_no_wrong_number() -> None:
    assert (
        unsupported("A new lost card reaches customers within five working days, the blocked pounds are 1", SHOWN) < 0.6
    )


def test_fourteen_words_of_the_instructions_are_a_leak_in_any_case_and_punctuation() -> None:
    assert recited(f"Sure! {RULES.upper().replace(' ', '  ')}", SHOWN) == 1
    assert recited(" ".join(RULES.split()[:12]), SHOWN) == 0
    assert (
        recited(
            "A lost card is blocked at once. A new card reaches customers within five working days. The fee is 10",
            SHOWN,
        )
        == 0
    )
