"""Where the truth is known: naive gates promote what they should not, ours does not."""

from __future__ import annotations

import numpy as np
import pytest

from evals.simulate import World, draw, simulate
from evals.statistics.agreement import clopper_pearson


def test_a_world_has_the_rates_that_it_states() -> None:
    world = World("w", -0.05, (0.95, 0.85), (0.7, 0.85), conversations=4000, cases=4)
    release = draw(world, np.random.default_rng(1))
    assert release.truth.mean() == pytest.approx(-0.05, abs=0.015)
    # pass .75 seen with sensitivity .95 and specificity .7, against .8 with .85 and .85
    assert release.judged.mean() == pytest.approx(0.75 * 0.95 + 0.25 * 0.3 - 0.8 * 0.85 - 0.2 * 0.15, abs=0.015)
    assert release.labelled.mean() == pytest.approx(world.labelled_share, abs=0.03)


def test_naive_gates_fail_where_ours_holds() -> None:
    alpha = 0.05
    tallies = {(t.world, t.method): t for t in simulate(200, margin=0.05, alpha=alpha, seed=2)}
    for (world, method), tally in tallies.items():
        if tally.bad and method in ("ours", "betting, sequential"):
            assert tally.promoted.low <= alpha, world
            assert clopper_pearson(round(tally.promoted.estimate * 200), 200, 0.005).low <= alpha
    biased = "bad, judge favours candidate"
    assert tallies[biased, "naive mean"].promoted.estimate > 0.9
    assert tallies[biased, "naive interval"].promoted.estimate > 0.9
    assert tallies["better, perfect judge", "ours"].promoted.estimate > 0.8
    early = tallies["better, perfect judge", "ours, sequential"]
    assert early.mean_share_used < 0.6


def test_the_same_seed_gives_the_same_tallies() -> None:
    one, other = (list(simulate(3, margin=0.05, alpha=0.05, seed=4)) for _ in range(2))
    assert one == other
