"""The trained name model, as a policy may choose it, on the fifth of the data that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.train.data import is_validation, rows
from guardrails.types import Segment

MODEL = Path(__file__).parents[2] / "guardrails" / "models" / "ner"


@pytest.mark.parametrize(("lower", "least"), [(False, 0.90), (True, 0.82)])
async def test_names_in_booking_turns_are_found_also_in_lower_case(data_dir: Path, lower: bool, least: float) -> None:
    held_out = [row for row in rows(data_dir / "pii_restaurant8k.jsonl") if is_validation(row["text"])]
    named = [row for row in held_out if any(span["type"] == "PERSON" for span in row["spans"])][:200]
    redactor = build_redactor(RedactionSettings(ner_model=str(MODEL)))
    await redactor.ready()
    texts = [row["text"].lower() if lower else row["text"] for row in named]
    findings = await redactor.find([Segment(text, "user") for text in texts])
    await redactor.aclose()
    hits = gold = 0
    for row, found in zip(named, findings, strict=True):
        people = [(item.start, item.end) for item in found if item.kind == "PERSON"]
        for span in row["spans"]:
            if span["type"] == "PERSON":
                gold += 1
                hits += any(a < span["end"] and span["start"] < b for a, b in people)
    assert gold > 100
    assert hits / gold >= least
