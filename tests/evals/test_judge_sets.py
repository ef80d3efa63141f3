"""Judged sets of any folder are known by their fields: BEGIN, HaluEval, LLMBar, FaithBench and JudgeBench, whatever else is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bench_judges import Figures, Said, report, sample_of, with_coin
from tests.bench.judge_sets import Row, read, sets_of


def write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_sets_are_named_after_their_files_and_their_telling_parts_apart(tmp_path: Path) -> None:
    write(
        tmp_path / "judge_faithfulness_begin.jsonl",
        {"knowledge": "The sky is blue.", "message": "?", "response": "The sky is blue.", "faithful": 1, "group": "a"},
        {"knowledge": "The sky is blue.", "message": "?", "response": "Cows eat grass.", "faithful": 0, "group": "a"},
    )
    write(tmp_path / "judge_hallucination_halueval_general.jsonl", {"prompt": "p", "response": "r", "hallucination": 1})
    write(
        tmp_path / "judge_pairwise_llmbar.jsonl",
        *({"id": s, "prompt": "p", "output_1": "a", "output_2": "b", "label": 2, "subset": s} for s in ("natural", "adv_manual", "mt_bench_human")),
    )  # fmt: skip
    rows = read(tmp_path)
    counts = {name: sum(map(belongs, rows)) for name, belongs in sets_of(rows).items()}
    assert counts == {
        "begin": 2, "begin_hard": 1, "halueval": 1, "llmbar": 3, "llmbar_natural": 1, "llmbar_adversarial": 1, "llmbar_majority": 1,
    }  # fmt: skip
    assert [row.human for row in rows] == [True, False, False, False, False, False]


def test_a_summary_is_what_its_worst_span_is_and_what_was_only_wondered_about_is_left_out(tmp_path: Path) -> None:
    labels: list[list[list[str]]] = [
        [],
        [["Benign"]],
        [["Benign"], ["Unwanted", "Unwanted.Intrinsic"]],
        [["Questionable"]],
    ]
    samples = [
        {"source": f"s{n}", "summary": "x", "annotations": [{"label": one} for one in spans]}
        for n, spans in enumerate(labels)
    ]
    (tmp_path / "judge_faithbench.json").write_text(json.dumps({"samples": samples}, indent=2), encoding="utf-8")
    assert [(row.set, row.cluster, row.human) for row in read(tmp_path)] == [
        ("faithbench", "s0", True), ("faithbench", "s1", True), ("faithbench", "s2", False),
    ]  # fmt: skip


def test_ranked_pairs_are_read_and_an_unknown_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"pair_id": "1", "question": "q", "response_A": "a", "response_B": "b", "label": "B>A"}
    write(tmp_path / "judge_pairwise_judgebench.jsonl", pair)
    write(tmp_path / "judge_other_set.jsonl", {"strange": 1})
    assert [(row.set, row.human) for row in read(tmp_path)] == [("judgebench", False)]
    assert "judge_other_set.jsonl: left out" in capsys.readouterr().out


def row(number: int, human: bool, part: str = "") -> Row:
    return Row("set", "text", "", "reply", None, human, f"c{number}", part)


def test_what_a_judge_did_not_answer_counts_as_a_coin_would() -> None:
    rows = [row(number, number % 2 == 0) for number in range(40)]
    assert with_coin([(one.human, one) for one in rows])[0] == 1.0
    assert with_coin([(None, one) for one in rows])[0] == 0.5
    half, low, high = with_coin([(one.human if number < 20 else None, one) for number, one in enumerate(rows)])
    assert half == 0.75
    assert 0.5 < low < half < high < 1


def test_a_judge_that_answers_about_one_kind_only_has_a_figure_and_no_kappa() -> None:
    rows = [row(number, number % 2 == 0) for number in range(20)]
    figures: Figures = {}
    report(figures, "judge", Said(rows, [True if one.human else None for one in rows]), rows)
    assert (figures["judge.set.balanced_accuracy"], figures["judge.set.not_scored"]) == (0.75, 10)
    assert figures["judge.set.kappa"] is figures["judge.begin.balanced_accuracy"] is figures["judge.trusted"] is None


def test_models_are_asked_about_the_same_rows_whose_parts_have_equal_shares() -> None:
    rows = [row(number, True, "hard" if number < 30 else "easy") for number in range(300)]
    some = sample_of(rows, 20)
    assert some == sample_of(rows, 20)
    assert sum(one.part == "hard" for one in some) == 10
