"""Public sets become cases and labelled answers: every shape once by hand, and the real files where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.datasets import load_dataset
from evals.drift import load_anchors
from evals.errors import DatasetError
from evals.shapes import SHAPES, import_cases, import_labels

TURNS = [("customer", "hi"), ("agent", "hello"), ("agent", "still there?"), ("customer", "bye"), ("agent", "bye")]
SAID = [{"speaker": speaker, "text": text} for speaker, text in TURNS]
RECORDS: list[tuple[dict[str, Any], int, int]] = [  # a record, its cases, its labelled answers
    ({"id": "b", "source": "wow", "knowledge": "k", "message": "m", "response": "r", "faithful": 1, "group": "g"}, 1, 1),
    ({"id": "h", "prompt": "p", "response": "r", "hallucination": 1, "group": "g"}, 0, 1),
    ({"id": "l", "subset": "n", "prompt": "p", "output_1": "a", "output_2": "b", "label": 2, "group": "g"}, 1, 2),
    ({"id": "d", "turns": SAID[:1], "needs_kb": 1, "gold_docs": ["hotel|1|2"], "gold_response": "yes", "group": "g"}, 1, 0),
    ({"id": "s", "services": ["Banks"], "turns": SAID, "group": "g"}, 2, 0),
    ({"convo_id": 3, "scenario": {"flow": "f"}, "original": [*TURNS, ("action", "done")]}, 2, 0),
    ({"id": "x", "question": "q", "answers": ["a"], "context": "c a", "title": "t", "group": "g"}, 1, 0),
    ({"doc_key": "k", "domain": "hotel", "entity_id": "1", "title": "May I?", "body": "Yes."}, 1, 0),
    ({"id": "e", "text": "lovely", "emotions": ["joy"], "sentiment": "pos", "group": "g"}, 0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("record", "cases", "labels"), RECORDS)
def test_every_shape_is_known_by_its_fields(tmp_path: Path, record: dict[str, Any], cases: int, labels: int) -> None:
    source, target = tmp_path / "any-name.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(record) + "\n")
    if cases:
        assert f": {cases} cases in" in import_cases(source, target)
        assert len(load_dataset(target).samples) == cases
    else:
        with pytest.raises(DatasetError, match="no cases"):
            import_cases(source, target)
    if not labels:
        with pytest.raises(DatasetError, match="no labelled answers"):
            import_labels(source, target, "m")
    elif labels == 2:  # one of each kind is what anchors need
        assert ": 2 labelled answers" in import_labels(source, target, "m")
        assert [anchor.human for anchor in load_anchors(target)] == [False, True]


def test_a_group_lies_in_one_part_and_the_parts_are_the_whole(tmp_path: Path) -> None:
    source = tmp_path / "set.jsonl"
    rows = [{**RECORDS[0][0], "id": f"b{n}", "group": f"g{n // 3}"} for n in range(90)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = {}
    for part in ("train", "validation"):
        import_cases(source, tmp_path / part, part=part)
        groups[part] = [sample.conversation for sample in load_dataset(tmp_path / part).samples]
    assert not set(groups["train"]) & set(groups["validation"])
    assert len(groups["train"]) + len(groups["validation"]) == 90
    assert 0 < len(groups["validation"]) < 45


@pytest.mark.parametrize("text", ["", "nope", "[1, 2]", '{"a": 1}'])
def test_what_is_no_known_set_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    done = CliRunner().invoke(app, ["import", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "o")])
    assert (done.exit_code, "x.jsonl: " in done.output) == (3, True)


@pytest.mark.parametrize(
    ("name", "least_cases", "least_labels"),
    [
        ("judge_faithfulness_begin.jsonl", 2000, 2000), ("judge_hallucination_halueval_general.jsonl", 0, 2000),
        ("judge_pairwise_llmbar.jsonl", 400, 800), ("dialogues_sgd.jsonl", 10_000, 0), ("dialogues_abcd_sample.json", 20, 0),
        ("rag_dstc10_spoken.jsonl", 50, 0), ("rag_xquad_en.jsonl", 600, 0), ("rag_dstc10_kb.jsonl", 5000, 0), ("tone_goemotions.jsonl", 0, 5000),
    ],
)  # fmt: skip
def test_real_sets_become_cases_and_labels(
    data_dir: Path, tmp_path: Path, name: str, least_cases: int, least_labels: int
) -> None:
    if not (data_dir / name).is_file():
        pytest.skip(f"needs {name} in CALLGATE_DATA_DIR")
    command = ["import", str(data_dir / name), "--out", str(tmp_path / "out.jsonl")]
    for least, more in ((least_cases, []), (least_labels, ["--labels", "faithful"])):
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == (0 if least else 3), done.output
        if least:
            assert int(done.output.partition(": ")[2].split()[0]) >= least


def test_there_is_a_shape_for_every_record() -> None:
    assert len(SHAPES) == len(RECORDS)
