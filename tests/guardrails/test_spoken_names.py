"""Names are found where people introduce them, and ordinary words after an introduction are not taken for names."""

from __future__ import annotations

import pytest

from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Segment


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my name is john smith and i lost my card", "john smith"),
        ("Dear Eleanor Whitfield, we received your payment", "Eleanor Whitfield"),
        ("hi this is maria lopez calling about my bill", "maria lopez"),
        ("book it under the name of o'brien please", "o'brien"),
        ("Please put Mr. Adeyemi Okonkwo on the account", "Adeyemi Okonkwo"),
        ("The customer's name is Siobhán Ní Bhriain.", "Siobhán Ní Bhriain"),
        ("my name is on the account", None),
        ("dear customer service, my card is broken", None),
        ("this is about my bill from may", None),
        ("the last name is spelled wrong on my card", None),
        ("my first name is missing", None),
    ],
)
async def test_introductions(text: str, name: str | None) -> None:
    redactor = build_redactor(RedactionSettings())
    try:
        tokens = (await redactor.redact([Segment(text)])).tokens
    finally:
        await redactor.aclose()
    assert [value for token, value in tokens.items() if token.startswith("[PERSON")] == ([name] if name else [])
