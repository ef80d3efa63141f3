"""Where the truth is known: naive gates promote what they should not, ours does not; and the simulation gates as the gate does."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.simulate import BATCH, Releases, World, corrected_bounds, draw, power_curve, simulate
from evals.statistics.agreement import clopper_pearson
from evals.statistics.corrections import ppi_difference
from evals.statistics.differences import interval


def test_a_world_has_the_rates_that_it_states() -> None:
    world = World("w", -0.05, (0.95, 0.85), (0.7, 0.85), conversations=4000, cases=4)
    releases = draw(world, np.random.default_rng(1), 1)
    assert releases.truth.mean() == pytest.approx(-0.05, abs=0.015)
    # pass .75 seen with sensitivity .95 and specificity .7, against .8 with .85 and .85
    assert releases.judged.mean() == pytest.approx(0.75 * 0.95 + 0.25 * 0.3 - 0.8 * 0.85 - 0.2 * 0.15, abs=0.015)
    assert releases.labelled.mean() == pytest.approx(world.labelled_share, abs=0.03)


@pytest.mark.parametrize("labelled_share", [0.4, 0.04, 0.0])
def test_many_releases_at_once_get_the_bounds_that_the_gate_would_give_each(labelled_share: float) -> None:
    """One case a conversation, so that a conversation's mean is the case and both roads see the same numbers."""
    world = World("w", -0.05, (0.9, 0.8), (0.7, 0.8), conversations=60, cases=1, labelled_share=labelled_share)
    releases = draw(world, np.random.default_rng(3), 40)
    low, high = corrected_bounds(releases, 0.05)
    for number in range(40):
        if releases.labelled[number].sum() < 3:
            assert (low[number], high[number]) == (-1.0, 1.0)
            continue
        human = np.where(releases.labelled[number], releases.truth[number], np.nan)
        names = [str(n) for n in range(60)]
        expected = interval(ppi_difference(releases.judged[number], human, names), 0.05)
        assert (low[number], high[number]) == pytest.approx(expected, abs=1e-9)


def test_conversations_of_several_cases_agree_with_the_gate_too() -> None:
    """Built from cases by hand, all labelled or not labelled as a conversation."""
    random = np.random.default_rng(5)
    truth, judged = (random.choice([-1.0, 0.0, 0.0, 1.0], (1, 40, 3)) for _ in range(2))
    labelled = random.random((1, 40)) < 0.5
    releases = Releases(
        truth.mean(axis=2), judged.mean(axis=2), labelled, 3, np.array([1.0]), np.square(truth).sum(axis=2)
    )
    human = np.where(np.repeat(labelled[0], 3), truth.ravel(), np.nan)
    names = [str(n) for n in np.repeat(np.arange(40), 3)]
    expected = interval(ppi_difference(judged.ravel(), human, names), 0.05)
    found = corrected_bounds(releases, 0.05)
    assert (found[0][0], found[1][0]) == pytest.approx(expected, abs=1e-9)


def test_naive_gates_fail_where_ours_holds() -> None:
    alpha, size = 0.05, 1500
    tallies = {(t.world, t.method): t for t in simulate(size, margin=0.05, alpha=alpha, seed=2)}
    ours = [t for t in tallies.values() if t.bad and t.method == "ours"]
    promoted = sum(round(t.promoted.estimate * size) for t in ours)
    assert clopper_pearson(promoted, size * len(ours), 0.01).low <= alpha
    assert promoted / (size * len(ours)) > 0.03, "the gate is blunt again: it promotes far more seldom than it may"
    for (world, method), tally in tallies.items():
        if tally.bad and method in ("betting, sequential", "ours, sequential"):
            assert tally.promoted.low <= alpha, world
    biased = "bad, judge favours candidate"
    assert tallies[biased, "naive mean"].promoted.estimate > 0.9
    assert tallies[biased, "naive interval"].promoted.estimate > 0.9
    assert tallies["better, perfect judge", "ours"].promoted.estimate > 0.9
    assert tallies["better, perfect judge", "ours, sequential"].mean_share_used < 0.6
    judged, alone = (tallies["equal, perfect judge", name].promoted.estimate for name in ("ours", "labels only"))
    assert judged > alone + 0.1, "a good judge has to earn its cost"


def test_the_same_seed_gives_the_same_tallies_whatever_the_batches() -> None:
    one, other = (list(simulate(3, margin=0.05, alpha=0.05, seed=4)) for _ in range(2))
    assert one == other
    assert sum(t.releases for t in simulate(BATCH + 1, margin=0.05, alpha=0.05, seed=4) if t.method == "ours") == 15 * (
        BATCH + 1
    )


def test_power_rises_with_the_true_difference() -> None:
    ours = [t.promoted.estimate for t in power_curve([-0.1, 0.0, 0.1], 200, margin=0.05, alpha=0.05, seed=1) if t.method == "ours"]  # fmt: skip
    assert ours == sorted(ours)
    assert ours[-1] > 0.95


def test_the_command_draws_the_curves(tmp_path: Path) -> None:
    path = tmp_path / "power.svg"
    done = CliRunner().invoke(app, ["simulate", "--releases", "20", "--plot", str(path), "--json"])
    assert done.exit_code == 0, done.output
    picture = ElementTree.fromstring(path.read_text())  # noqa: S314 - written two lines above
    assert sum(element.tag.endswith("polyline") for element in picture.iter()) == 4
