"""The gate: promotes and rejects only what it can show, and better numbers never make a worse verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.gate import decide
from evals.types import Comparison, Difference, Limits, PromoteWhen, Standing, Trust, Verdict

EXACT = Trust(Standing.EXACT, "computed")
NOT_WORSE = Limits(promote_when=PromoteWhen.NOT_WORSE)
BETTER = Limits()
RANK = {Verdict.REJECT: 0, Verdict.INCONCLUSIVE: 1, Verdict.PROMOTE: 2}


def comparison(estimate: float, error: float = 0.02, **changes: object) -> Comparison:
    difference = Difference(estimate, error, 99.0, 100, 100)
    base = Comparison(
        "m", True, True, 0.05, 0.5 + estimate, 0.5, 0, 0, 100, difference, difference, difference, EXACT, "paired"
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("estimate", "limits", "verdict"),
    [
        (0.1, BETTER, Verdict.PROMOTE),
        (0.0, BETTER, Verdict.INCONCLUSIVE),
        (0.0, NOT_WORSE, Verdict.PROMOTE),
        (-0.05, NOT_WORSE, Verdict.INCONCLUSIVE),
        (-0.2, NOT_WORSE, Verdict.REJECT),
        (-0.2, BETTER, Verdict.REJECT),
    ],
)
def test_the_verdict_follows_the_interval_and_the_margin(estimate: float, limits: Limits, verdict: Verdict) -> None:
    report = decide([comparison(estimate)], limits)
    assert report.verdict is verdict
    assert report.reasons


def test_a_refused_judge_neither_promotes_nor_rejects() -> None:
    trust = Trust(Standing.REFUSED, "kappa 0.02", 80, None)
    for estimate in (-0.5, 0.5):
        report = decide([comparison(estimate, trust=trust)], BETTER)
        assert report.verdict is Verdict.INCONCLUSIVE
        assert "the judge is refused: kappa 0.02" in report.reasons[0]


def test_a_metric_for_information_changes_nothing() -> None:
    good = comparison(0.1)
    noise = comparison(-0.9, metric="n", decides=False)
    assert decide([good, noise], BETTER).verdict is decide([good], BETTER).verdict is Verdict.PROMOTE
    assert decide([noise], BETTER).reasons == ("no metric of the suite decides",)


def test_missing_scores_could_have_gone_either_way_and_are_counted_as_such() -> None:
    good = comparison(0.1)
    bad_if_missing = replace(good, worst=replace(good.scored, estimate=-0.02))
    assert decide([bad_if_missing], BETTER).verdict is Verdict.INCONCLUSIVE
    bad = comparison(-0.2)
    good_if_missing = replace(bad, best=replace(bad.scored, estimate=0.0))
    assert decide([good_if_missing], BETTER).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("estimate", [-0.5, 0.5])
def test_too_few_conversations_and_too_many_gaps_are_named(estimate: float) -> None:
    few = comparison(estimate, scored=Difference(estimate, 0.01, 4.0, 5, 5), applicable=5)
    assert "scored on both sides: 5 conversations" in decide([few], BETTER).reasons[0]
    gaps = comparison(estimate, applicable=150)
    assert "50 of 150 pairs are not scored" in decide([gaps], BETTER).reasons[0]
    assert decide([few, gaps], BETTER).verdict is Verdict.INCONCLUSIVE


def test_rejecting_by_any_of_many_metrics_is_corrected_for_their_number() -> None:
    edge = comparison(-0.05 - 0.02 * 1.75)  # alone p is about .042
    harmless = [comparison(0.0, metric=f"h{n}") for n in range(5)]
    assert decide([edge], NOT_WORSE).verdict is Verdict.REJECT
    assert decide([edge, *harmless], NOT_WORSE).verdict is Verdict.INCONCLUSIVE


shift = st.floats(-0.3, 0.3)


@given(
    st.lists(st.tuples(shift, st.floats(0.01, 0.2), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 3),
    st.floats(0, 0.3),
    st.sampled_from([BETTER, NOT_WORSE]),
)
def test_a_better_candidate_never_gets_a_worse_verdict(
    rows: list[tuple[float, float, bool]], index: int, gain: float, limits: Limits
) -> None:
    before = [comparison(e, s, metric=f"m{n}", primary=p) for n, (e, s, p) in enumerate(rows)]
    place = index % len(rows)
    estimate, error, primary = rows[place]
    after = [*before]
    after[place] = comparison(estimate + gain, error, metric=f"m{place}", primary=primary)
    assert RANK[decide(after, limits).verdict] >= RANK[decide(before, limits).verdict]


@given(st.lists(st.tuples(shift, st.floats(0.01, 0.2)), min_size=1, max_size=4), st.floats(0.001, 0.5))
def test_a_wider_margin_never_turns_a_promotion_away(rows: list[tuple[float, float]], wider: float) -> None:
    narrow = [comparison(e, s, metric=f"m{n}") for n, (e, s) in enumerate(rows)]
    wide = [replace(c, margin=c.margin + wider) for c in narrow]
    assert RANK[decide(wide, NOT_WORSE).verdict] >= RANK[decide(narrow, NOT_WORSE).verdict]


@given(
    st.lists(st.tuples(shift, st.floats(0.01, 0.2)), min_size=1, max_size=4),
    st.tuples(shift, st.floats(0.01, 0.2)),
    st.sampled_from([BETTER, NOT_WORSE]),
)
def test_one_more_metric_that_must_hold_never_lets_a_candidate_through(
    rows: list[tuple[float, float]], extra: tuple[float, float], limits: Limits
) -> None:
    fewer = [comparison(e, s, metric=f"m{n}", primary=n == 0) for n, (e, s) in enumerate(rows)]
    more = [*fewer, comparison(*extra, metric="extra", primary=False)]
    if decide(more, limits).verdict is Verdict.PROMOTE:
        assert decide(fewer, limits).verdict is Verdict.PROMOTE


def test_all_numbers_of_a_report_are_finite() -> None:
    empty = Difference(0.0, 1.0, 0.0, 0, 0)
    report = decide([comparison(0.0, scored=empty, worst=empty, best=empty, applicable=0)], BETTER)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert all(math.isfinite(value) for d in report.decisions for value in (d.low, d.high, d.p_worse, d.p_not_worse))
