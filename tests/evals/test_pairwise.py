"""Pairs judged twice with the order swapped, against a double over a real socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evals.judges.pairwise import PairwiseJudge, position_bias
from evals.types import Answer, Expectation, Message, Sample
from tests.evals.conftest import ClientFactory, Double, completion

SAMPLE = Sample("s", "s", "all", (Message("user", "Block my card 4111 1111 1111 1111"),), Expectation(), "d")
ONE, OTHER = Answer("s", "new", 0, "Done, it is blocked."), Answer("s", "old", 0, "No.")


def choice(place: str) -> Any:
    return completion(json.dumps({"reason": "r", "better": place}))


@pytest.fixture
def judge(make_client: ClientFactory) -> PairwiseJudge:
    return PairwiseJudge("better", "better", "m", "Which reply helps more?", "1", make_client())


async def test_a_reply_preferred_in_both_orders_wins(double: Double, judge: PairwiseJudge) -> None:
    double.script = lambda body, n: choice("first" if n == 1 else "second")
    mine, theirs = await judge.score_pair(SAMPLE, ONE, OTHER)
    assert (mine.value, theirs.value) == (1.0, 0.0)
    assert (mine.setting, theirs.setting) == ("new", "old")
    assert "4111" not in json.dumps(double.seen)
    assert position_bias([mine], "better", "new").share == 0


async def test_a_place_named_twice_is_a_tie_and_counts_as_position_bias(double: Double, judge: PairwiseJudge) -> None:
    double.script = lambda body, n: choice("first")
    mine, theirs = await judge.score_pair(SAMPLE, ONE, OTHER)
    assert mine.value == theirs.value == 0.5
    found = position_bias([mine, theirs], "better", "new")
    assert (found.pairs, found.same_place, found.first_place, found.share) == (1, 1, 1, 1.0)


@pytest.mark.parametrize("said", ["The first one is better.", '{"better": "both"}', "<html></html>", ""])
async def test_what_is_not_the_asked_shape_is_not_scored_on_either_side(
    double: Double, judge: PairwiseJudge, said: str
) -> None:
    double.script = lambda body, n: completion(said)
    for score in await judge.score_pair(SAMPLE, ONE, OTHER):
        assert score.value is None
        assert "asked shape" in score.reason


async def test_equal_replies_cost_nothing_and_a_missing_one_is_not_scored(double: Double, judge: PairwiseJudge) -> None:
    mine, _ = await judge.score_pair(SAMPLE, ONE, Answer("s", "old", 0, ONE.text))
    assert mine.value == 0.5
    lost, _ = await judge.score_pair(SAMPLE, ONE, Answer("s", "old", 0, error="timeout"))
    assert lost.value is None
    assert "timeout (old)" in lost.reason
    assert double.seen == []
