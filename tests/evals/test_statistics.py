"""The statistics keep their promises: coverage in simulation at fixed seeds, and the laws that hold exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.statistics.agreement import clopper_pearson, cohens_kappa, labels_needed, measure_agreement
from evals.statistics.corrections import ppi_difference, ppi_mean, rogan_gladen
from evals.statistics.differences import (
    bootstrap_interval,
    effective_cases,
    effective_conversations,
    group,
    holm,
    imbalance,
    interval,
    one_sided,
    one_sided_inverse,
    p_above,
    p_below,
    paired_difference,
)
from evals.statistics.planning import Design, conversations_needed, detectable_difference, power_at
from evals.statistics.sequential import (
    asymptotic_p,
    asymptotic_sequence,
    betting_bounds,
    betting_p,
    betting_sequence,
)

differences = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.integers(0, 5)), min_size=1, max_size=40
)


def clustered(random: np.random.Generator, conversations: int, cases: int, mean: float) -> tuple[np.ndarray, list[str]]:
    """Differences in {-1, 0, 1} with a shared effect within a conversation and the given mean."""
    shared = random.standard_normal((conversations, 1)) * np.sqrt(0.5)
    latent = shared + np.sqrt(0.5) * random.standard_normal((conversations, cases))
    up, down = stats.norm.ppf(0.2 + mean / 2), stats.norm.ppf(0.2 - mean / 2)
    values = (latent < up).astype(float) - (latent > -down).astype(float)
    return values.ravel(), [str(n) for n in np.repeat(np.arange(conversations), cases)]


@given(differences)
def test_swapping_the_sides_flips_the_difference_and_nothing_else(rows: list[tuple[float, int]]) -> None:
    values, groups = [value for value, _ in rows], [str(group) for _, group in rows]
    forward, back = paired_difference(values, groups), paired_difference([-v for v in values], groups)
    assert back.estimate == pytest.approx(-forward.estimate)
    assert back.standard_error == pytest.approx(forward.standard_error)
    low, high = interval(forward, 0.05)
    assert interval(back, 0.05) == pytest.approx((-high, -low))
    assert p_above(forward, 0.1) == pytest.approx(p_below(back, -0.1))


@given(differences, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(rows: list[tuple[float, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (paired_difference([v for v, _ in r], [str(g) for _, g in r]) for r in (rows, shuffled))
    assert one.estimate == pytest.approx(other.estimate, abs=1e-12)
    assert one.standard_error == pytest.approx(other.standard_error)


@pytest.mark.parametrize(("conversations", "cases", "mean"), [(30, 4, 0.0), (100, 3, -0.05), (60, 1, 0.2)])
def test_the_interval_covers_at_least_as_often_as_it_says_with_correlated_cases(
    conversations: int, cases: int, mean: float
) -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(800):
        low, high = interval(paired_difference(*clustered(random, conversations, cases, mean)), 0.05)
        hits += low <= mean <= high
    assert hits / 800 >= 0.9 - 2.6 * np.sqrt(0.09 / 800)


def test_a_dozen_equal_answers_are_no_proof() -> None:
    difference = paired_difference([0.0] * 12, [str(n) for n in range(12)])
    low, high = interval(difference, 0.05)
    assert low <= -(1 - 0.05 ** (1 / 12))  # the exact binomial bound of no loss in twelve
    assert high == -low


def test_a_rare_loss_is_not_promoted_past_more_often_than_alpha() -> None:
    """Losses only, at exactly the margin: the worst case for an interval that believes in its own variance."""
    random = np.random.default_rng(3)
    names = [str(n) for n in range(100)]
    wrong = sum(
        interval(paired_difference(-(random.random(100) < 0.04).astype(float), names), 0.05)[0] > -0.04
        for _ in range(2000)
    )
    assert clopper_pearson(wrong, 2000, 0.01).low <= 0.05


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("conversations", [20, 60, 200])
def test_losses_only_are_promoted_about_alpha_at_most_whatever_the_margin(conversations: int, alpha: float) -> None:
    """Exact, by adding up the binomial: the most lopsided differences there are, one rate of loss after another."""
    names = [str(n) for n in range(conversations)]
    lows = np.array(
        [
            interval(paired_difference([-1.0] * lost + [0.0] * (conversations - lost), names), alpha)[0]
            for lost in range(conversations + 1)
        ]
    )
    counts = np.arange(conversations + 1)
    wrong = [stats.binom.pmf(counts, conversations, rate)[lows > -rate].sum() for rate in np.linspace(0.005, 0.6, 120)]
    assert max(wrong) <= 1.12 * alpha


@given(st.floats(-3, 3), st.floats(-1.5, 1.5))
def test_taking_the_skewness_out_and_putting_it_back_is_identity(t: float, skew: float) -> None:
    there = one_sided(np.array(t), np.array(skew))
    assert one_sided_inverse(there, np.array(skew)) == pytest.approx(t, abs=1e-4)


@given(differences)
def test_effective_cases_lie_between_conversations_and_cases(rows: list[tuple[float, int]]) -> None:
    groups, count = group([str(g) for _, g in rows])
    assert count <= effective_cases(np.array([v for v, _ in rows]), groups, count) <= max(count, len(rows))


def test_the_bootstrap_covers_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        values, names = clustered(random, 60, 3, 0.1)
        low, high = bootstrap_interval(values, names, 0.05, random, resamples=400)
        hits += low <= 0.1 <= high
    assert 0.83 <= hits / 300 <= 0.96


def test_nan_is_refused_and_not_averaged() -> None:
    with pytest.raises(ValueError, match="NaN"):
        paired_difference([0.0, float("nan")], ["a", "b"])
    with pytest.raises(ValueError, match="NaN"):
        ppi_difference([float("nan")], [1.0], ["a"])


def lopsided(random: np.random.Generator) -> tuple[list[float], list[str]]:
    """Twenty conversations, one in five of ten cases and the others of one; long ones lose more often. The mean is -.54 / 2.8."""
    losses, names = [], []
    for number in range(20):
        size, rate = (10, 0.25) if random.random() < 0.2 else (1, 0.05)
        shared = 2 * rate * (random.random() < 0.5)
        losses += [-float(lost) for lost in random.random(size) < shared]
        names += [str(number)] * size
    return losses, names


def test_a_few_long_conversations_among_short_ones_do_not_promise_more_than_they_know() -> None:
    """Plain G/(G-1) and G - 1 degrees of freedom promoted 11.6 % here."""
    random, wrong = np.random.default_rng(3), 0
    for _ in range(1500):
        wrong += interval(paired_difference(*lopsided(random)), 0.05)[0] > -0.54 / 2.8
    assert wrong / 1500 <= 0.075


@given(differences)
def test_conversations_of_one_length_are_each_worth_one(rows: list[tuple[float, int]]) -> None:
    groups, count = group([str(g) for g in sorted({g for _, g in rows}) for _ in range(3)])
    assert imbalance(groups, count) == pytest.approx(1.0)
    assert effective_conversations(groups) == pytest.approx(count)
    uneven, count = group([str(g) for _, g in rows])
    assert 1 - 1e-9 <= effective_conversations(uneven) <= count + 1e-9
    assert (imbalance(uneven, count) >= 1).all()


def test_one_case_that_differs_does_not_make_few_conversations_many() -> None:
    """Eight conversations of thirty cases; one in twenty fails as a whole, and one in a hundred of the other cases: 59 % were promoted."""
    random, wrong = np.random.default_rng(2), 0
    names = [str(n) for n in np.repeat(np.arange(8), 30)]
    for _ in range(300):
        whole = random.random((8, 1)) < 0.05
        lost = random.random((8, 30)) < np.where(whole, 1.0, 0.01)
        wrong += interval(paired_difference(-lost.ravel().astype(float), names), 0.05)[0] > -(0.05 + 0.95 * 0.01)
    assert wrong / 300 <= 0.05


def test_one_conversation_gives_no_interval() -> None:
    assert interval(paired_difference([0.1, 0.2], ["a", "a"]), 0.05) == (-1.0, 1.0)
    assert p_above(paired_difference([], []), -0.5) == 1.0


@given(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 7), st.floats(0, 1))
def test_holm_is_monotone_and_never_below_the_raw_value(p: list[float], index: int, lower: float) -> None:
    adjusted = holm(p)
    assert all(a >= raw and a <= 1 for a, raw in zip(adjusted, p, strict=True))
    if p:
        place = index % len(p)
        smaller = [*p[:place], min(p[place], lower), *p[place + 1 :]]
        assert all(b <= a + 1e-12 for a, b in zip(adjusted, holm(smaller), strict=True))


def test_holm_agrees_with_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_labels_correct_a_judge_who_favours_one_side() -> None:
    """Truth -.1, the judge sees about +.1: judged alone it never covers, corrected it does."""
    random = np.random.default_rng(5)
    covered = naive = 0
    for _ in range(400):
        truth, names = clustered(random, 120, 2, -0.1)
        judged = np.clip(truth + (random.random(truth.size) < 0.2), -1, 1)
        human = np.where(np.repeat(random.random(120) < 0.5, 2), truth, np.nan)
        low, high = interval(ppi_difference(judged, human, names), 0.05)
        covered += low <= -0.1 <= high
        low, high = interval(paired_difference(judged, names), 0.05)
        naive += low <= -0.1 <= high
    assert covered / 400 >= 0.9 - 2.6 * np.sqrt(0.09 / 400)
    assert naive / 400 < 0.5


def test_with_every_pair_labelled_the_judge_no_longer_matters() -> None:
    truth, names = clustered(np.random.default_rng(1), 40, 2, 0.1)
    corrected = ppi_difference(np.ones(truth.size), truth, names)
    plain = paired_difference(truth, names)
    assert corrected.estimate == pytest.approx(plain.estimate)
    assert corrected.standard_error == pytest.approx(plain.standard_error)


def test_a_good_judge_makes_the_interval_of_few_labels_narrower() -> None:
    truth, names = clustered(np.random.default_rng(2), 400, 1, 0.0)
    human = np.where(np.arange(400) % 4 == 0, truth, np.nan)
    with_judge = ppi_difference(truth, human, names)
    labels_alone = paired_difference(truth[::4], names[::4])
    assert with_judge.standard_error < 0.8 * labels_alone.standard_error


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([-1.0, 0.0, 1.0]), st.booleans()), min_size=3, max_size=40
    ).filter(lambda rows: sum(judged for _, _, judged in rows) >= 1)
)
def test_where_people_saw_all_that_was_judged_the_rest_counts_as_it_is_assumed(
    rows: list[tuple[int, float, bool]],
) -> None:
    names = [str(name) for name, _, _ in rows]
    human = [value if judged else math.nan for _, value, judged in rows]
    judge = [0.5 if judged else math.nan for _, _, judged in rows]
    corrected = ppi_difference(judge, human, names, assumed=[-1.0] * len(rows))
    plain = paired_difference([value if judged else -1.0 for _, value, judged in rows], names)
    assert corrected.estimate == pytest.approx(plain.estimate)
    assert (corrected.pairs, corrected.conversations) == (plain.pairs, plain.conversations)


@pytest.mark.parametrize("worth", [1.0, 0.5, 0.1])
def test_what_a_judge_could_not_score_is_held_against_the_candidate_whatever_the_judge_is_worth(worth: float) -> None:
    """One answer in twelve never came, and those are all failures: exactly on the margin. Taken along with the weight of a judge
    who is worth little, they were forgiven and 13 to 22 % promoted."""
    random, wrong, size = np.random.default_rng(1), 0, 200
    names = [str(n) for n in range(size)]
    for _ in range(500):
        truth, base = random.random((2, size)) < 0.8
        heard = random.random((2, size)) < worth
        guessed = random.random((2, size)) < 0.8
        judge = np.where(heard[0], truth, guessed[0]) * 1.0 - np.where(heard[1], base, guessed[1])
        missing = random.random(size) < 1 / 12
        human = np.where((random.random(size) < 0.4) & ~missing, truth * 1.0 - base, np.nan)
        assumed = 0.0 - np.where(heard[1], base, guessed[1])
        found = ppi_difference(np.where(missing, np.nan, judge), human, names, assumed=assumed)
        wrong += interval(found, 0.05)[0] > -0.8 / 12
    assert clopper_pearson(wrong, 500, 0.01).low <= 0.05


def test_corrected_means_cover() -> None:
    random = np.random.default_rng(9)
    ppi = gladen = 0
    for _ in range(400):
        truth = random.random(300) < 0.7
        judged = np.where(truth, random.random(300) < 0.85, random.random(300) < 0.25)
        seen = np.arange(300) < 100
        mean = ppi_mean(judged.astype(float), np.where(seen, truth, np.nan), [str(n) for n in range(300)], 0.05)
        ppi += mean.low <= 0.7 <= mean.high
        share = rogan_gladen(
            int(judged[100:].sum()),
            200,
            true_passes_found=int((judged & truth)[:100].sum()),
            true_passes=int(truth[:100].sum()),
            true_failures_found=int((~judged & ~truth)[:100].sum()),
            true_failures=int((~truth)[:100].sum()),
            alpha=0.05,
        )
        gladen += share.low <= 0.7 <= share.high
    assert ppi / 400 >= 0.86
    assert gladen / 400 >= 0.86


def test_a_judge_at_chance_cannot_be_corrected() -> None:
    with pytest.raises(ValueError, match="no better than chance"):
        rogan_gladen(
            50, 100, true_passes_found=10, true_passes=20, true_failures_found=10, true_failures=20, alpha=0.05
        )


def test_kappa_agrees_with_a_worked_example() -> None:
    assert cohens_kappa(np.array([20.0, 5.0, 10.0, 15.0])) == pytest.approx(0.4)


def test_perfect_agreement_on_few_labels_is_not_certain() -> None:
    human = [True, False] * 15
    agreement = measure_agreement(human, human, [str(n) for n in range(30)], 0.05)
    assert agreement.kappa.estimate == 1.0
    assert 0.8 < agreement.kappa.low < 0.95
    assert agreement.sensitivity.low == pytest.approx(0.05 ** (1 / 15))


@pytest.mark.parametrize(
    ("passes", "sensitivity", "specificity", "cases"),
    [(0.95, 0.95, 0.9, 1), (0.95, 0.99, 0.99, 1), (0.9, 0.98, 0.7, 1), (0.5, 0.9, 0.9, 1), (0.8, 0.9, 0.8, 4)],
)
def test_a_judge_is_not_trusted_beyond_the_truth_more_often_than_alpha(
    passes: float, sensitivity: float, specificity: float, cases: int
) -> None:
    """Lower bounds of agreement on a hundred labels. By the jackknife 45 % of those of balanced accuracy were too high where failures
    are rare, and 35 % of those of kappa."""
    found, rejected = passes * sensitivity, (1 - passes) * specificity
    kappa = cohens_kappa(np.array([found, 1 - passes - rejected, passes - found, rejected]))
    random, names = np.random.default_rng(31), [str(n // cases) for n in range(100)]
    mood = np.repeat(np.arange(100 // cases), cases)
    wrong, drawn = np.zeros(4), 0
    for _ in range(600):
        noise = random.random(100)
        shared = random.random(100)[mood]  # half of the cases of a conversation are judged by its mood
        noise = np.where(random.random(100) < (0.5 if cases > 1 else 0.0), shared, noise)
        human = random.random(100) < passes
        if human.all():
            continue
        judge = np.where(human, noise < sensitivity, noise >= specificity)
        a = measure_agreement(judge.tolist(), human.tolist(), names, 0.05)
        drawn += 1
        truths = (
            (a.kappa, kappa),
            (a.balanced_accuracy, (sensitivity + specificity) / 2),
            (a.sensitivity, sensitivity),
            (a.specificity, specificity),
        )
        wrong += [bounded.low > truth for bounded, truth in truths]
    assert (wrong / drawn <= 0.075).all(), wrong / drawn


def test_agreement_on_one_kind_of_label_means_nothing() -> None:
    with pytest.raises(ValueError, match="both pass and fail"):
        measure_agreement([True], [True], ["a"], 0.05)


def test_labels_needed_is_none_for_a_judge_below_the_limit_and_finite_above() -> None:
    human = [n % 2 == 0 for n in range(60)]
    judge = [h if n % 10 else not h for n, h in enumerate(human)]
    agreement = measure_agreement(judge, human, [str(n) for n in range(60)], 0.05)
    assert labels_needed(agreement, 0.95) is None
    more = labels_needed(agreement, 0.7)
    assert more is not None
    assert more > 60


@pytest.mark.parametrize("truth", [0.0, -0.1])
def test_peeking_after_every_conversation_keeps_the_error_of_the_betting_sequence(truth: float) -> None:
    random = np.random.default_rng(13)
    wrong = 0
    for _ in range(400):
        values = random.choice([-1.0, 0.0, 1.0], size=200, p=[0.15 - truth / 2, 0.7, 0.15 + truth / 2])
        wrong += bool((betting_sequence(values, 0.05, grid=201).low > truth).any())
    assert clopper_pearson(wrong, 400, 0.01).low <= 0.05


def test_sequences_only_ever_tighten_and_find_a_clear_difference() -> None:
    values = np.random.default_rng(17).choice([0.0, 1.0], size=200, p=[0.6, 0.4])
    for sequence in (betting_sequence(values, 0.05), asymptotic_sequence(values, 0.05)):
        assert (np.diff(sequence.low) >= 0).all()
        assert (np.diff(sequence.high) <= 0).all()
        stop = sequence.stop(above=0.0, below=0.0)
        assert stop is not None
        assert stop[1] == "above"
        assert stop[0] < 100


def test_the_planned_number_of_conversations_has_the_planned_power() -> None:
    design = Design(discordance=0.2, power=0.8)
    needed = conversations_needed(design, margin=0.1)
    assert needed is not None
    random = np.random.default_rng(19)
    names = [str(n) for n in range(needed)]
    promoted = sum(
        interval(paired_difference(random.choice([-1.0, 0, 1], needed, p=[0.1, 0.8, 0.1]), names), 0.05)[0] > -0.1
        for _ in range(500)
    )
    assert promoted / 500 == pytest.approx(0.8, abs=0.06)
    found = detectable_difference(design, needed)
    assert found == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("discordance", "cases", "icc"), [(0.2, 4, 0.0), (0.05, 4, 0.0), (0.1, 4, 0.3), (0.02, 8, 0.1)]
)
def test_several_cases_a_conversation_are_planned_for_what_they_are_worth(
    discordance: float, cases: int, icc: float
) -> None:
    """The rule of three counted conversations, so rare differences were planned at three times the calls they need."""
    needed = conversations_needed(Design(discordance, cases_per_conversation=cases, icc=icc), margin=0.05)
    assert needed is not None
    random, shares, promoted = np.random.default_rng(23), [discordance / 2, 1 - discordance, discordance / 2], 0
    names = [str(n) for n in np.repeat(np.arange(needed), cases)]
    for _ in range(300):
        own = random.choice([-1.0, 0, 1], (needed, cases), p=shares)
        shared = random.choice([-1.0, 0, 1], (needed, 1), p=shares)
        values = np.where(random.random(own.shape) < np.sqrt(icc), shared, own)
        promoted += interval(paired_difference(values.ravel(), names), 0.05)[0] > -0.05
    assert 0.65 <= promoted / 300 <= 0.9


@pytest.mark.parametrize(("discordance", "margin"), [(0.2, 0.3), (0.5, 0.5)])
def test_a_plan_of_few_conversations_reads_student_as_the_gate_does(discordance: float, margin: float) -> None:
    """By the normal quantile 17 and 13 conversations were planned, which decide 68 and 74 % of the time."""
    needed = conversations_needed(Design(discordance), margin=margin)
    assert needed is not None
    random, names = np.random.default_rng(29), [str(n) for n in range(needed)]
    shares = [discordance / 2, 1 - discordance, discordance / 2]
    drawn = [random.choice([-1.0, 0.0, 1.0], needed, p=shares) for _ in range(1500)]
    promoted = sum(interval(paired_difference(values, names), 0.05)[0] > -margin for values in drawn)
    assert promoted / 1500 >= 0.765


@pytest.mark.parametrize(
    ("margin", "difference", "fault"), [(-1.0, 0.0, "margin"), (0.05, 0.9, "discordance"), (2.0, 0.0, "margin")]
)
def test_a_plan_for_what_cannot_be_is_refused(margin: float, difference: float, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        conversations_needed(Design(discordance=0.2), margin=margin, difference=difference)


@given(st.integers(10, 2000), st.floats(0.01, 0.5), st.floats(0.0, 0.4))
def test_more_conversations_never_cost_power(conversations: int, distance: float, icc: float) -> None:
    design = Design(discordance=0.3, icc=icc, cases_per_conversation=3)
    fewer, more = (power_at(design, n, distance=distance) for n in (conversations, conversations + 10))
    assert more >= fewer - 1e-12


def test_a_truth_beyond_the_margin_needs_no_plan() -> None:
    assert conversations_needed(Design(discordance=0.2), margin=0.05, difference=-0.05) is None
    with pytest.raises(ValueError, match="discordance"):
        Design(discordance=0.0)


@pytest.mark.parametrize(("p_of", "sequence"), [(betting_p, betting_sequence), (asymptotic_p, asymptotic_sequence)])
def test_p_values_hold_however_often_one_looks_and_agree_with_the_sequences(p_of: Any, sequence: Any) -> None:
    random, bound, alpha = np.random.default_rng(8), -0.05, 0.05
    wrong = {True: 0, False: 0}
    for _ in range(400):
        values = random.choice([-1.0, 0.0, 1.0], 150, p=[0.15, 0.75, 0.1])  # the mean is the bound itself
        for above in wrong:
            wrong[above] += p_of(values, bound, alpha, above=above) <= alpha
    assert all(clopper_pearson(count, 400, 0.01).low <= alpha for count in wrong.values())
    for mean in (-0.4, -0.05, 0.0, 0.4):
        values = np.clip(random.normal(mean, 0.2, 120), -1, 1)
        running = sequence(values, alpha)
        stops = running.stop(above=bound, below=bound, first=30)
        for above, name in ((True, "above"), (False, "below")):
            if stops is not None and stops[1] == name:
                assert (
                    p_of(values, bound, alpha, above=above) <= alpha * 1.05
                )  # the sequence is rounded outwards to a grid
    assert p_of(np.zeros(0), 0.0, alpha, above=True) == 1.0


@given(st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.25, 1.0]), max_size=200), st.sampled_from([0.01, 0.05, 0.3]))
def test_bounds_found_by_halving_are_the_last_ones_of_the_sequence(values: list[float], alpha: float) -> None:
    points = np.array(values)
    low, high = betting_bounds(points, alpha)
    if not values:
        assert (low, high) == (-1.0, 1.0)
        return
    whole = betting_sequence(points, alpha)
    assert (low, high) == pytest.approx((whole.low[-1], whole.high[-1]), abs=1e-12)
