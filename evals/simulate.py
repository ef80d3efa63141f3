"""Simulated releases with known truth: how often does each way of gating promote one that it should not?

Conversations share an effect (cases in them are correlated), both settings meet the same cases, and a judge with stated
sensitivity and specificity for each side errs on top, partly on the same conversations. A release is bad when its true
difference is not above minus the margin; here it lies exactly on it, the worst case. People label some pairs at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.statistics.agreement import Bounded, clopper_pearson
from evals.statistics.corrections import ppi_difference
from evals.statistics.differences import interval, paired_difference
from evals.statistics.sequential import asymptotic_sequence, betting_sequence
from evals.types import Verdict

Array = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class World:
    """One kind of release. Sensitivity and specificity are (candidate, baseline): unequal ones are a biased judge.

    `cluster_share` is the share of the latent variance (probit scale) that the cases of a conversation have in common.
    """

    name: str
    difference: float
    sensitivity: tuple[float, float] = (1.0, 1.0)
    specificity: tuple[float, float] = (1.0, 1.0)
    baseline_rate: float = 0.8
    conversations: int = 150
    cases: int = 4
    cluster_share: float = 0.3
    labelled_share: float = 0.4


@dataclass(frozen=True, slots=True)
class Release:
    """Paired differences as people would see all of them and as the judge sees them; `labelled` is what people did
    see.
    """

    truth: Array
    judged: Array
    labelled: npt.NDArray[np.bool_]
    conversations: tuple[str, ...]
    cases: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How one method did on all releases of one world. `promoted` carries exact 95 % bounds."""

    world: str
    method: str
    difference: float
    bad: bool
    releases: int
    promoted: Bounded
    rejected: int
    mean_share_used: float


Method = Callable[[Release, float, float], tuple[Verdict, float]]
"""(release, margin, alpha) to a verdict and the share of the conversations it looked at."""


def worlds(margin: float) -> tuple[World, ...]:
    """Bad releases on the margin under several judges, then harmless and good ones for power."""
    judges = (
        ("perfect judge", (1.0, 1.0), (1.0, 1.0)),
        ("noisy judge", (0.85, 0.85), (0.8, 0.8)),
        ("judge favours candidate", (0.95, 0.85), (0.7, 0.85)),
        ("judge favours baseline", (0.85, 0.95), (0.85, 0.7)),
        ("judge near chance", (0.6, 0.6), (0.45, 0.45)),
    )
    truths = (("bad", -margin), ("equal", 0.0), ("better", 0.05))
    return tuple(World(f"{label}, {name}", d, se, sp) for label, d in truths for name, se, sp in judges)


def draw(world: World, random: Random) -> Release:
    """One release. The latent scale is probit, so that the marginal pass rates are exactly those of the world."""
    shape = (world.conversations, world.cases)
    shared = random.standard_normal((world.conversations, 1)) * np.sqrt(world.cluster_share)
    case = random.standard_normal(shape) * np.sqrt((1 - world.cluster_share) * 0.6)
    own = np.sqrt((1 - world.cluster_share) * 0.4)
    mood = random.standard_normal((world.conversations, 1)) * np.sqrt(0.2)
    sides = []
    for side, rate in enumerate((world.baseline_rate + world.difference, world.baseline_rate)):
        passed = shared + case + own * random.standard_normal(shape) < stats.norm.ppf(rate)
        says_yes = np.where(passed, world.sensitivity[side], 1 - world.specificity[side])
        judged = mood + np.sqrt(0.8) * random.standard_normal(shape) < stats.norm.ppf(says_yes)
        sides.append((passed.astype(np.float64), judged.astype(np.float64)))
    seen = random.random(world.conversations) < world.labelled_share
    return Release(
        truth=(sides[0][0] - sides[1][0]).ravel(),
        judged=(sides[0][1] - sides[1][1]).ravel(),
        labelled=np.repeat(seen, world.cases),
        conversations=tuple(str(number) for number in np.repeat(np.arange(world.conversations), world.cases)),
        cases=world.cases,
    )


def naive_mean(release: Release, margin: float, _alpha: float) -> tuple[Verdict, float]:
    """Promote if the judged mean is not lower by the margin: what most gates do."""
    return (Verdict.PROMOTE if release.judged.mean() > -margin else Verdict.REJECT), 1.0


def naive_interval(release: Release, margin: float, alpha: float) -> tuple[Verdict, float]:
    """A t interval on judged differences that takes cases for independent and the judge for the truth."""
    error = float(release.judged.std(ddof=1) / np.sqrt(release.judged.size))
    reach = float(stats.t.ppf(1 - alpha, release.judged.size - 1)) * error
    mean = float(release.judged.mean())
    return _verdict(mean - reach, mean + reach, margin), 1.0


def ours(release: Release, margin: float, alpha: float) -> tuple[Verdict, float]:
    """The gate's: clustered, and corrected by the labels of people."""
    if not release.labelled.any():
        return Verdict.INCONCLUSIVE, 1.0
    human = np.where(release.labelled, release.truth, np.nan)
    low, high = interval(ppi_difference(release.judged, human, release.conversations), alpha)
    return _verdict(low, high, margin), 1.0


def labels_only(release: Release, margin: float, alpha: float) -> tuple[Verdict, float]:
    """What the labels alone would say: the judge earns its cost only where `ours` decides more often than this."""
    seen = release.labelled
    conversations = [name for name, labelled in zip(release.conversations, seen, strict=True) if labelled]
    low, high = interval(paired_difference(release.truth[seen], conversations), alpha)
    return _verdict(low, high, margin), float(seen.mean())


def ours_sequential(release: Release, margin: float, alpha: float) -> tuple[Verdict, float]:
    """Looks after every conversation and stops when it knows; corrected by labels with a weight of 1 for the judge.

    Each conversation's value is judged + (human - judged) / labelled share where people looked, so its mean is the
    truth.
    """
    judged, truth = (values.reshape(-1, release.cases).mean(axis=1) for values in (release.judged, release.truth))
    seen = release.labelled.reshape(-1, release.cases)[:, 0]
    share = max(float(seen.mean()), 1e-9)
    values = judged + np.where(seen, (truth - judged) / share, 0.0)
    sequence = asymptotic_sequence(values, alpha, tightest_at=values.size)
    return _stopped(sequence.stop(above=-margin, below=-margin, first=30), values.size)


def betting_sequential(release: Release, margin: float, alpha: float) -> tuple[Verdict, float]:
    """The exact sequence on judged differences: for deterministic checks, whose judge makes no error."""
    values = release.judged.reshape(-1, release.cases).mean(axis=1)
    return _stopped(betting_sequence(values, alpha).stop(above=-margin, below=-margin), values.size)


def _stopped(stop: tuple[int, str] | None, size: int) -> tuple[Verdict, float]:
    if stop is None:
        return Verdict.INCONCLUSIVE, 1.0
    return (Verdict.PROMOTE if stop[1] == "above" else Verdict.REJECT), stop[0] / size


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > -margin:
        return Verdict.PROMOTE
    return Verdict.REJECT if high < -margin else Verdict.INCONCLUSIVE


def simulate(releases: int, *, margin: float, alpha: float, seed: int) -> Iterator[Tally]:
    """`releases` releases of every world through every method; a Tally a world and method, as each world is done.

    The betting sequence takes the judge for the truth, so it is shown only where the judge is perfect.
    """
    for number, world in enumerate(worlds(margin)):
        methods: dict[str, Method] = {
            "naive mean": naive_mean,
            "naive interval": naive_interval,
            "labels only": labels_only,
            "ours": ours,
            "ours, sequential": ours_sequential,
        }
        if "perfect judge" in world.name:
            methods["betting, sequential"] = betting_sequential
        random = np.random.default_rng([seed, number])
        results: dict[str, list[tuple[Verdict, float]]] = {name: [] for name in methods}
        for _ in range(releases):
            release = draw(world, random)
            for name, method in methods.items():
                results[name].append(method(release, margin, alpha))
        for name, found in results.items():
            yield _tally(world, name, found, margin)


def _tally(world: World, method: str, found: list[tuple[Verdict, float]], margin: float) -> Tally:
    promoted = sum(verdict is Verdict.PROMOTE for verdict, _ in found)
    return Tally(
        world=world.name,
        method=method,
        difference=world.difference,
        bad=world.difference <= -margin,
        releases=len(found),
        promoted=clopper_pearson(promoted, len(found), 0.025),
        rejected=sum(verdict is Verdict.REJECT for verdict, _ in found),
        mean_share_used=float(np.mean([share for _, share in found])),
    )
