"""Two arms of live traffic: what may be concluded at any look, with known truth; and what the pairs leave out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.rollout.live import (
    ANSWERED,
    PASSED,
    TOO_LATE,
    Action,
    ArmCall,
    Arms,
    LiveMetric,
    LiveScore,
    Reading,
    Shown,
    decide,
)
from evals.statistics.agreement import clopper_pearson

START = datetime(2026, 11, 27, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NO_WAIT = timedelta(0)
QUALITY = LiveMetric("quality", 0.05)


def score(number: int, *, candidate: bool, value: float | None, minute: float, metric: str = "quality") -> LiveScore:
    return LiveScore(f"s{number}", f"c{number}", metric, candidate, value, START + minute * MINUTE)


Judge = Callable[[bool, bool], float | None]
"""Minutes until an answer is judged, by whether it is the candidate's and whether it is good; None: never."""


def play(
    chance: random.Random, quality: Callable[[bool, float], float], *, share: float, calls: int, metric: LiveMetric = QUALITY, judge: Judge = lambda candidate, good: 0.0,
) -> Action:  # fmt: skip
    """Calls a minute apart until something is decided: what the last share would end with, looked at every twenty of them."""
    arms, waiting = Arms([metric], MINUTE, 10 * MINUTE), []
    for number in range(calls):
        candidate = chance.random() < share
        good = chance.random() < quality(candidate, number / calls)
        made = score(number, candidate=candidate, value=None, minute=number)
        if (delay := judge(candidate, good)) is not None:
            waiting.append((number + delay, replace(made, value=float(good))))
        judged = [one for at, one in waiting if at <= number]
        waiting = [(at, one) for at, one in waiting if at > number]
        arms.take(Reading(START + number * MINUTE, [made, *judged]))
        if number % 20 == 19:
            step = decide(arms.look(0.05, START), alpha=0.05, min_conversations=30, last=True)
            if step.action is not Action.HOLD:
                return step.action
    return Action.HOLD


@pytest.mark.parametrize(
    ("difference", "wrong"), [(0.0, Action.ROLL_BACK), (-0.05, Action.PROMOTE)], ids=["equal", "on the margin"]
)
def test_what_is_wrongly_concluded_stays_within_alpha_however_often_one_looks(difference: float, wrong: Action) -> None:
    chance = random.Random(11)
    hard = lambda candidate, at: (0.9 - 0.5 * at) + (difference if candidate else 0.0)  # noqa: E731 - the day gets harder
    found = Counter(play(chance, hard, share=0.3, calls=800) for _ in range(40))
    assert clopper_pearson(found[wrong], 40, 0.05).low <= 0.05, found


def test_a_bad_candidate_is_rolled_back_soon_and_a_better_one_promoted() -> None:
    chance = random.Random(12)
    worse = Counter(play(chance, lambda c, _: 0.5 if c else 0.9, share=0.3, calls=400) for _ in range(20))
    assert worse[Action.ROLL_BACK] == 20
    better = Counter(play(chance, lambda c, _: 0.97 if c else 0.85, share=0.5, calls=1500) for _ in range(10))
    assert better[Action.PROMOTE] >= 8


@pytest.mark.parametrize("delay", [30.0, None], ids=["late", "never"])
@pytest.mark.parametrize("told", ["bad", "good"])
def test_what_a_judge_says_late_or_never_of_one_arm_moves_nothing(delay: float | None, told: str) -> None:
    """The candidate is .15 worse (equal), and its bad (good) answers are judged when they have counted: what is left looks perfect (hopeless)."""
    difference, wrong = (-0.15, Action.PROMOTE) if told == "bad" else (0.0, Action.ROLL_BACK)
    slow: Judge = lambda candidate, good: delay if candidate and good == (told == "good") else 0.0  # noqa: E731
    chance = random.Random(14)
    quality = lambda candidate, _: 0.85 + (difference if candidate else 0.0)  # noqa: E731
    found = Counter(play(chance, quality, share=0.5, calls=600, judge=slow) for _ in range(10))
    assert found[wrong] == 0, found
    assert play(chance, lambda c, _: 0.05 if c else 0.95, share=0.5, calls=600, judge=slow) is (
        Action.HOLD if told == "bad" else Action.ROLL_BACK
    )


def test_a_judge_that_is_in_time_or_misses_little_still_lets_a_better_candidate_through() -> None:
    chance = random.Random(15)
    better = lambda candidate, _: 0.97 if candidate else 0.85  # noqa: E731
    some: Judge = lambda candidate, good: 9.0 if chance.random() < 0.98 else None  # noqa: E731
    assert Counter(play(chance, better, share=0.5, calls=2000, judge=some) for _ in range(10))[Action.PROMOTE] >= 8


def test_a_judge_that_favours_the_candidate_promotes_nothing_once_labels_have_said_so() -> None:
    chance = random.Random(13)
    favoured = lambda candidate, _: 0.9 if candidate else 0.8  # noqa: E731 - equal, but for the judge; truly it is .1 worse
    known = LiveMetric("quality", 0.05, shift=(-0.22, -0.18))
    found = Counter(play(chance, favoured, share=0.5, calls=1000, metric=known) for _ in range(10))
    assert found[Action.PROMOTE] == 0
    assert Counter(play(chance, favoured, share=0.5, calls=1500) for _ in range(10))[Action.PROMOTE] >= 8


def test_what_labels_leave_open_altogether_can_be_shown_by_no_judge() -> None:
    for candidate in (True, False):
        arms = Arms([LiveMetric("quality", 0.05, shift=(-2.0, 2.0))], MINUTE, NO_WAIT)
        for number in range(400):
            value = float((number % 2 == 0) == candidate)
            arms.take(
                Reading(START + number * MINUTE, [score(number, candidate=number % 2 == 0, value=value, minute=number)])
            )
        assert abs(look(arms).estimate) == 1.0
        assert (look(arms).p_worse, look(arms).p_not_worse) == (1.0, 1.0)


CALL = ArmCall("s", "t", "c", START, assigned="canary", arm="canary", failed=False, blocked=False, drawn=True)


@pytest.mark.parametrize(
    ("call", "candidate", "answered", "judged"),
    [
        (CALL, True, 1.0, True),
        (replace(CALL, arm="old-1"), True, 0.0, False),  # the champion covers for it: no call of its own
        (replace(CALL, assigned="old-1", arm="old-1"), False, 1.0, True),
        (replace(CALL, assigned="old-1", arm="old-2"), False, 1.0, True),  # both are the champion
        (replace(CALL, assigned="old-1"), False, 0.0, False),
        (replace(CALL, elsewhere=True), True, 0.0, False),  # another model's canary
        (replace(CALL, failed=True), True, 0.0, False),
        (replace(CALL, drawn=False), True, None, False),
    ],
)
def test_a_call_counts_for_the_arm_it_was_given_to_and_is_judged_where_that_arm_answered(
    call: ArmCall, candidate: bool, answered: float | None, judged: bool
) -> None:
    found = {score.metric: score for score in call.operational("canary")}
    assert (found[ANSWERED].value if found else None) == answered
    assert all(score.candidate is candidate for score in found.values())
    assert (PASSED in found) is (answered == 1.0)
    assert call.may_be_judged("canary") is judged
    assert call.judged("quality", 1.0, "canary").candidate is candidate


def look(arms: Arms, since: datetime = START) -> Shown:
    return arms.look(0.05, since)[0]


def test_a_conversation_counts_once_when_it_is_over_and_never_again() -> None:
    arms = Arms([QUALITY], 5 * MINUTE, NO_WAIT)
    first = [
        LiveScore("a", "call", "quality", True, 1.0, START),
        LiveScore("b", "call", "quality", True, 0.0, START + 2 * MINUTE),
        LiveScore("c", "other", "quality", False, 1.0, START),
    ]
    arms.take(Reading(START + 4 * MINUTE, first))
    assert look(arms).candidate == look(arms).baseline == 0
    for _ in range(3):
        arms.take(Reading(START + 8 * MINUTE, first))
    seen = look(arms)
    assert (seen.candidate, seen.baseline, seen.pairs, seen.candidate_mean, seen.estimate) == (1, 1, 1, 0.5, -0.5)
    arms.take(Reading(START + 60 * MINUTE, [LiveScore("after", "call", "quality", True, 1.0, START + 6 * MINUTE)]))
    assert (look(arms).pairs, look(arms).estimate) == (1, -0.5)
    assert look(arms, START + MINUTE).at_stage == 0


def test_what_was_seen_long_ago_is_neither_remembered_nor_counted_again() -> None:
    arms = Arms([QUALITY], MINUTE, NO_WAIT, forget=60 * MINUTE)
    scores = [score(number, candidate=number % 2 == 0, value=1.0, minute=number) for number in range(300)]
    for now in range(0, 300, 10):
        arms.take(Reading(START + now * MINUTE, [one for one in scores if one.at <= START + now * MINUTE]))
    arms.take(Reading(START + 400 * MINUTE, scores))
    assert (look(arms).candidate + look(arms).baseline, arms._series["quality"].ended) == (291, {})


def test_good_and_bad_conversations_count_at_the_same_age_however_long_they_go_on() -> None:
    arms = Arms([QUALITY], MINUTE, NO_WAIT)
    for minute in range(8):
        good = [score(10 * minute + number, candidate=number == 0, value=1.0, minute=minute) for number in range(2)]
        bad = [LiveScore(f"b{minute}", "long", "quality", True, 0.0, START + minute * MINUTE)]
        arms.take(Reading(START + minute * MINUTE, [*good, *bad]))
    assert look(arms).candidate_mean == pytest.approx(7 / 8)  # seven good ones that are over, and the one that goes on


def test_an_arm_that_is_judged_later_is_compared_with_the_other_of_the_same_hour() -> None:
    arms = Arms([QUALITY], MINUTE, 20 * MINUTE)
    of = {
        arm: [score(2 * n + arm, candidate=arm, value=1 - n / 60, minute=n) for n in range(60)] for arm in (True, False)
    }
    for now in range(60):
        begun = [of[True][now], replace(of[False][now], value=None)]
        arms.take(Reading(START + now * MINUTE, [*begun, *of[False][max(0, now - 20) : max(0, now - 19)]]))
    seen = look(arms)
    assert (seen.pairs, seen.candidate_missing, seen.baseline_missing) == (39, {}, {})
    assert seen.estimate == pytest.approx(0, abs=0.02)  # equal at every minute, and ever worse


def test_a_call_without_a_score_in_time_is_missing_with_its_reason_and_a_later_score_changes_nothing() -> None:
    arms = Arms([QUALITY], MINUTE, 5 * MINUTE)
    slow, mute = (
        replace(score(n, candidate=True, value=None, minute=0), reason=why) for n, why in ((0, "slow"), (1, "mute"))
    )
    others = [score(n, candidate=False, value=value, minute=0) for n, value in ((2, 1.0), (3, 1.0))]
    arms.take(Reading(START + 5 * MINUTE, [slow, mute, *others]))
    assert look(arms).pairs == 0
    for now in (6, 7):
        arms.take(Reading(START + now * MINUTE, [slow, mute, *others]))
        seen = look(arms)
        assert (seen.candidate, seen.pairs, seen.at_worst, seen.estimate) == (2, 1, -1.0, -0.5)
        assert (seen.candidate_missing, seen.candidate_calls) == ({"slow": 1, "mute": 1}, 2)
        assert (seen.baseline_missing, seen.baseline_calls) == ({}, 2)
        slow = replace(slow, value=1.0)
    assert seen.missing == "missing 2 of 2 calls (1 mute; 1 slow) of the candidate, 0 of 2 calls of the champion"


def test_a_score_that_was_read_and_is_lost_afterwards_stays() -> None:
    arms = Arms([QUALITY], MINUTE, 5 * MINUTE)
    good, other = score(0, candidate=True, value=1.0, minute=0), score(1, candidate=False, value=1.0, minute=0)
    for value, now in ((None, 0), (1.0, 1), (None, 2), (None, 9)):
        arms.take(Reading(START + now * MINUTE, [replace(good, value=value), other]))
    assert (look(arms).pairs, look(arms).at_worst, look(arms).candidate_missing) == (1, 0.0, {})


def test_a_call_that_is_known_of_when_its_conversation_has_counted_is_missing_as_one_of_its_own() -> None:
    arms = Arms([QUALITY], 5 * MINUTE, MINUTE)
    first = LiveScore("a", "call", "quality", True, 1.0, START)
    other = score(1, candidate=False, value=1.0, minute=0)
    arms.take(Reading(START + 6 * MINUTE, [first, other]))
    assert (look(arms).pairs, look(arms).at_worst) == (1, 0.0)
    hung = LiveScore("b", "call", "quality", True, 1.0, START + 2 * MINUTE)
    after = LiveScore("c", "call", "quality", True, 1.0, START + 5.1 * MINUTE)
    for now in (9, 10):
        arms.take(
            Reading(START + now * MINUTE, [first, other, hung, after, score(2, candidate=False, value=1.0, minute=3)])
        )
        seen = look(arms)
        assert (seen.candidate, seen.pairs, seen.at_worst, seen.candidate_missing) == (2, 2, -0.5, {TOO_LATE: 1})


def test_a_conversation_without_an_end_counts_once_and_is_not_kept_for_ever() -> None:
    arms = Arms([QUALITY], 5 * MINUTE, NO_WAIT, forget=60 * MINUTE)
    for number in range(600):
        at = START + number * MINUTE
        made = LiveScore(f"s{number}", "always", "quality", True, 1.0, at)
        arms.take(Reading(at, [made, score(1000 + number, candidate=False, value=1.0, minute=number)]))
    kept = arms._series["quality"].going
    assert sum(map(len, kept.values())) <= 150
    assert 3 <= look(arms).candidate <= 10


def test_a_score_that_is_missing_counts_against_every_claim() -> None:
    arms = Arms([QUALITY], MINUTE, NO_WAIT)
    for number in range(400):
        value = None if number % 2 else 1.0
        arms.take(
            Reading(START + number * MINUTE, [score(number, candidate=number % 4 < 2, value=value, minute=number)])
        )
    seen = look(arms)
    assert seen.p_worse == 1.0
    assert seen.p_not_worse == 1.0
    assert seen.low < -0.3 < 0.3 < seen.high


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 40)), max_size=60),
    st.randoms(use_true_random=False),
)
def test_what_is_told_does_not_depend_on_the_order_in_which_scores_are_read(
    calls: list[tuple[bool, bool, int]], shuffled: random.Random
) -> None:
    scores = [
        score(number, candidate=candidate, value=float(good), minute=minute)
        for number, (candidate, good, minute) in enumerate(calls)
    ]
    mixed = [*scores, *scores]
    shuffled.shuffle(mixed)
    one, other = Arms([QUALITY], MINUTE, NO_WAIT), Arms([QUALITY], MINUTE, NO_WAIT)
    one.take(Reading(START + 100 * MINUTE, scores))
    other.take(Reading(START + 100 * MINUTE, mixed))
    assert str(look(one)) == str(look(other))
    assert look(one).low <= look(one).high


USUAL = Shown(
    QUALITY, candidate=60, baseline=60, at_stage=60, pairs=50, candidate_mean=0.9, baseline_mean=0.9, estimate=0.0, at_worst=0.0, low=-0.1, high=0.1,
    p_worse=1.0, p_not_worse=0.5,
)  # fmt: skip
TONE = replace(USUAL, metric=LiveMetric("tone", 0.05))


def test_each_step_has_its_reason() -> None:
    def step(*seen: Shown, last: bool = False) -> tuple[Action, str]:
        found = decide(seen, alpha=0.05, min_conversations=50, last=last)
        return found.action, "; ".join(found.reasons)

    assert step(USUAL) == (Action.ADVANCE, "quality: +0.000, not shown worse")
    assert step(replace(USUAL, at_stage=49)) == (Action.HOLD, "quality: 49 of 50 conversations at this share")
    assert step(replace(USUAL, estimate=-0.06)) == (Action.HOLD, "quality: looks worse (-0.060), not shown")
    blind = replace(
        USUAL, at_worst=-0.1, candidate_calls=60, candidate_missing={"no score in time": 6}, baseline_calls=60
    )
    told = "missing 6 of 60 calls (6 no score in time) of the candidate, 0 of 60 calls of the champion"
    assert step(blind) == (Action.HOLD, f"quality: may be worse (-0.100 at worst), {told}")
    assert step(USUAL, last=True)[0] is Action.HOLD
    proven, worse = replace(USUAL, p_not_worse=0.04), replace(USUAL, p_worse=0.03)
    assert step(proven, last=True)[0] is Action.PROMOTE
    assert step(proven, TONE, last=True)[0] is Action.HOLD
    assert step(worse)[0] is Action.ROLL_BACK
    assert step(worse, TONE)[0] is Action.ADVANCE  # of two metrics one will look like that more often
    watched = replace(worse, metric=replace(QUALITY, decides=False))
    assert step(watched) == (Action.HOLD, "no metric decides")
    assert step(watched, TONE)[0] is Action.ADVANCE
