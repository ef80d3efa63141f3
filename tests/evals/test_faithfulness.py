"""The local faithfulness head and the counts it reads: laws of the counts, honesty of the weights, figures on held-out rows."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.errors import EvalError
from evals.judges import alignment, overlap
from evals.judges.faithfulness import FEATURES, WEIGHTS, FaithfulnessHead, LocalFaithfulness, measure
from evals.judges.overlap import content_overlap, words
from evals.judges.trees import Tree
from evals.types import Answer, Expectation, Message, Sample

TEXT = "Roaming in Switzerland costs 4.90 euros a day. The charge starts with the first use. It does not apply to students."
sentences = st.text("abc 19.!?'\n", max_size=80)


@cache
def shipped() -> FaithfulnessHead:
    return FaithfulnessHead.load()


@pytest.fixture
def head() -> FaithfulnessHead:
    return shipped()


def named(text: str, reply: str) -> dict[str, float]:
    return dict(zip(FEATURES, measure(text, reply), strict=True))


@given(sentences, sentences)
def test_every_pair_of_texts_has_finite_counts_and_a_probability(text: str, reply: str) -> None:
    values = measure(text, reply)
    assert len(values) == len(FEATURES)
    assert all(0 <= value < 20 for value in values)
    assert 0 <= shipped().probability(text, reply) <= 1


@given(sentences)
def test_a_text_covers_itself(text: str) -> None:
    found = named(text, text)
    assert found["precision"] == found["subsequence"] == 1 or not words(text)
    assert found["new_content"] == found["changed_number"] == found["flipped_negation"] == 0


def test_a_changed_number_and_a_flipped_negation_are_seen() -> None:
    assert named(TEXT, "Roaming in Switzerland costs 5.90 euros a day.")["changed_number"] > 0
    assert named(TEXT, "Roaming in Switzerland costs 4.90 euros a day.")["changed_number"] == 0
    assert named(TEXT, "The charge does not apply to students.")["flipped_negation"] == 0
    assert named("The card is blocked at once.", "The card is not blocked at once.")["flipped_negation"] > 0


def test_no_count_is_told_twice() -> None:
    assert len(set(FEATURES)) == len(overlap.FEATURES) + len(alignment.FEATURES)


def test_an_amount_is_the_same_in_words_and_known_by_what_stands_beside_it() -> None:
    assert named("The pass costs 2 euros.", "The pass costs two euros.")["new_amounts"] == 0
    assert named("The pass costs 2 euros.", "The pass costs three euros.")["new_amounts"] > 0
    prices = "Adults pay 9 euros. Children pay 4 euros. Call 112 for help."
    assert named(prices, "Children pay 4 euros.")["moved_amounts"] == 0
    assert named(prices, "Wait about 112 minutes.")["moved_amounts"] > 0


def test_a_copied_end_under_another_subject_is_not_a_copied_sentence() -> None:
    whole = named("The museum opens at nine.", "The museum opens at nine.")
    other = named("The museum opens at nine.", "My bakery opens at nine.")
    assert (whole["run_opens"], whole["run_at_sentence_start"], whole["before_new"]) == (1, 1, 0)
    assert (other["run_opens"], other["run_at_sentence_start"]) == (0, 0)
    assert other["before_new"] > 0
    assert other["run_skipped"] > 0


def test_what_is_left_out_between_two_runs_is_counted_by_kind() -> None:
    text = "The card can be blocked but may not always be replaced at once."
    assert named(text, text)["left_out_hedges"] == 0
    assert named(text, "The card can be blocked but be replaced at once.")["left_out_hedges"] > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"left": [0, -1, -1]}, "leads nowhere"),
        ({"feature": [7, -1, -1]}, "leads nowhere"),
        ({"value": [0, 1]}, "one entry for each node"),
        ({"limit": [float("nan"), 0, 0]}, "finite"),
    ],
)
def test_a_tree_that_would_not_end_or_reads_beside_the_numbers_is_refused(
    change: dict[str, list[float]], why: str
) -> None:
    tree = {
        "feature": [1, -1, -1],
        "limit": [0.5, 0, 0],
        "left": [1, -1, -1],
        "right": [2, -1, -1],
        "value": [0, -1.5, 2.5],
    }
    assert [Tree.read(tree, 2).add(numbers) for numbers in ((9, 0.5), (0, 0.6))] == [-1.5, 2.5]
    with pytest.raises(ValueError, match=why):
        Tree.read(tree | change, 2)


def test_the_head_tells_a_copy_from_an_invention_and_from_a_changed_figure(head: FaithfulnessHead) -> None:
    assert head.probability(TEXT, "Roaming in Switzerland costs 4.90 euros a day.") >= head.threshold
    assert head.probability(TEXT, "Roaming in Switzerland costs 5.90 euros a day.") < head.threshold
    assert head.probability(TEXT, "I love travelling, and you can roam for free in Peru!") < head.threshold


async def test_as_a_judge_it_scores_texts_and_leaves_silence_unscored(head: FaithfulnessHead) -> None:
    judge = LocalFaithfulness("faithful", head)
    sample = Sample("s", "s", "all", (Message("user", "q"),), Expectation(contexts=(TEXT,)), "d")
    assert judge.applies(sample)
    assert not judge.applies(Sample("s", "s", "all", (Message("user", "q"),), Expectation(), "d"))
    good = await judge.score(sample, Answer("s", "a", 0, "The charge starts with the first use."))
    assert good.value == 1.0
    assert 0 < float(good.raw or "") < 1
    for silent in (Answer("s", "a", 0, error="timeout"), Answer("s", "a", 0, " "), Answer("s", "a", 0, blocked=True)):
        assert (await judge.score(sample, silent)).value is None


def test_weights_of_other_features_are_refused_by_name(tmp_path: Path) -> None:
    document = json.loads(WEIGHTS.read_text())
    path = tmp_path / "head.json"
    path.write_text(json.dumps({**document, "features": ["other"]}))
    with pytest.raises(EvalError, match="other features"):
        FaithfulnessHead.load(path)
    path.write_text("<html>")
    with pytest.raises(EvalError, match="not a faithfulness head"):
        FaithfulnessHead.load(path)


def test_rows_that_were_never_trained_on_are_judged_as_the_card_says(head: FaithfulnessHead) -> None:
    path = Path(os.environ.get("CALLGATE_DATA_DIR", "")) / "judge_faithfulness_begin.jsonl"
    if not path.is_file():
        pytest.skip("needs judge_faithfulness_begin.jsonl in CALLGATE_DATA_DIR")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    fresh = [row for row in rows if not head.seen_before(row["knowledge"], row["response"])]
    for hard, least in ((False, 0.86), (True, 0.72)):
        hits: dict[int, list[bool]] = {0: [], 1: []}
        for row in fresh:
            if not hard or content_overlap(row["knowledge"], row["response"]) >= 0.7:
                said = head.probability(row["knowledge"], row["response"]) >= head.threshold
                hits[row["faithful"]].append(said == bool(row["faithful"]))
        assert sum(sum(one) / len(one) for one in hits.values()) / 2 > least
