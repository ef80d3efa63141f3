"""The head's training data and procedure: no conversation on both sides, labels that hold by construction, numbers that survive the file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from evals import train
from evals.judges.faithfulness import FaithfulnessHead
from evals.labelled import Row, beside_others, edited, joined
from evals.train import as_document, balanced_accuracy, calibration_error, choose_threshold, fit, splits, tabulate

PLACES = ("museum", "library", "office", "station", "bakery", "harbour", "market", "school", "garden", "theatre")


def people(rows: int = 160) -> list[Row]:
    """Replies that copy a text, and replies that say another thing."""
    made = []
    for number in range(rows):
        place, hour = PLACES[number % 10], number % 11 + 1
        text = f"The {place} of town {number} opens at {hour} and closes late in the evening."
        reply = (
            f"The {place} opens at {hour}."
            if number % 2
            else f"I love the old {PLACES[(number + 3) % 10]}, it is free!"
        )
        made.append(Row(text, reply, bool(number % 2), "wow", f"g{number // 4}", number // 4 % 20))
    return made


def test_folds_never_part_a_conversation() -> None:
    table = tabulate(people())
    for inside, outside in splits(table, 4, 0):
        assert (inside ^ outside).all()
        sides = [{row.group for row in table.take(side).rows} for side in (inside, outside)]
        assert not sides[0] & sides[1]


def test_made_rows_keep_people_s_labels_and_stay_in_their_block() -> None:
    rows = people()
    blocks = {row.text: row.block for row in rows}
    truth = {row.reply: row.faithful for row in rows}
    for row in beside_others(rows, random.Random(1)):
        assert {blocks[text] for text in row.text.split("\n")} == {row.block}
        assert row.faithful == truth[row.reply]
    several = list(joined(rows, random.Random(1)))
    assert {row.faithful for row in several} == {True, False}
    for row in several:
        assert row.faithful == ("I love" not in row.reply)


def test_an_edited_answer_differs_from_its_document_in_one_thing(tmp_path: Path) -> None:
    bodies = [
        "The pool is open until 9 pm for all guests.",
        "Pets are allowed in every room here.",
        "It has 40 rooms on 3 floors.",
    ]
    lines = [json.dumps({"body": body}) for body in bodies]
    (tmp_path / "rag_dstc10_kb.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = edited(tmp_path, random.Random(3))
    assert [row.faithful for row in rows] == [True, False] * 3
    for right, wrong in zip(rows[::2], rows[1::2], strict=True):
        assert right.text == wrong.text
        assert right.reply != wrong.reply
        assert any(right.reply.endswith(body) for body in bodies)
        assert abs(len(right.reply.split()) - len(wrong.reply.split())) <= 1


def test_the_written_head_says_what_the_trained_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "FORESTS", ((2, 20), (3, 10)))
    table = tabulate(people())
    fitted = fit(table)
    path = tmp_path / "head.json"
    path.write_text(json.dumps(as_document(fitted, table.rows)), encoding="utf-8")
    head = FaithfulnessHead.load(path)
    said = [head.probability(row.text, row.reply) for row in table.rows]
    assert said == pytest.approx(fitted.probability(table.features), abs=1e-4)
    assert all(head.seen_before(row.text, row.reply) for row in table.rows)


def test_the_threshold_is_no_accident_of_a_few_rows() -> None:
    found = np.linspace(0, 1, 1000)
    faithful = found > 0.4
    assert 0.35 <= choose_threshold(found, faithful, found > 0.3) <= 0.45


def test_a_probability_that_is_what_it_says_has_no_calibration_error() -> None:
    labels = np.array([True] * 25 + [False] * 75)
    assert calibration_error(np.full(100, 0.25), labels) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.95), labels) == pytest.approx(0.7)
    assert balanced_accuracy(np.full(100, True), labels) == 0.5
