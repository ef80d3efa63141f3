"""Simulated releases with known truth: how often does each way of gating promote one that it should not?

Conversations share an effect (cases in them are correlated), both settings meet the same cases, and a judge with stated
sensitivity and specificity for each side errs on top, partly on the same conversations. A release is bad when its true
difference is not above minus the margin; here it lies exactly on it, the worst case. People label some conversations at random.
The gate's own formulas are written here for many releases at once; a test holds both to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.statistics.agreement import Bounded, clopper_pearson
from evals.statistics.differences import RESERVE, RULE_OF_THREE, one_sided_inverse
from evals.statistics.sequential import FIRST_LOOK, log_wealth

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Random = np.random.Generator
BATCH = 500  # releases held at once: about 30 MB


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
class Releases:
    """Means of paired differences, as people would see all of them and as the judge sees them; shape (releases, conversations).

    `labelled` says where people looked. `spread` is the judge's plain standard deviation over cases, shape (releases,);
    `squares` the sum of the squared true differences of each conversation.
    """

    truth: Array
    judged: Array
    labelled: Flags
    cases: int
    spread: Array
    squares: Array


@dataclass(frozen=True, slots=True)
class Outcome:
    """By release: promoted, rejected (neither is inconclusive), and the share of the conversations that was judged."""

    promoted: Flags
    rejected: Flags
    share_used: Array


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


Method = Callable[[Releases, float, float], Outcome]
"""(releases, margin, alpha) to what came of each."""

JUDGES = (
    ("perfect judge", (1.0, 1.0), (1.0, 1.0)),
    ("noisy judge", (0.85, 0.85), (0.8, 0.8)),
    ("judge favours candidate", (0.95, 0.85), (0.7, 0.85)),
    ("judge favours baseline", (0.85, 0.95), (0.85, 0.7)),
    ("judge near chance", (0.6, 0.6), (0.45, 0.45)),
)


def worlds(margin: float) -> tuple[World, ...]:
    """Bad releases on the margin under several judges, then harmless and good ones for power."""
    truths = (("bad", -margin), ("equal", 0.0), ("better", 0.05))
    return tuple(World(f"{label}, {name}", d, se, sp) for label, d in truths for name, se, sp in JUDGES)


def draw(world: World, random: Random, releases: int) -> Releases:
    """The latent scale is probit, so that the marginal pass rates are exactly those of the world."""
    group, shape = (releases, world.conversations, 1), (releases, world.conversations, world.cases)
    shared = random.standard_normal(group) * np.sqrt(world.cluster_share)
    shared = shared + random.standard_normal(shape) * np.sqrt((1 - world.cluster_share) * 0.6)
    own, mood = np.sqrt((1 - world.cluster_share) * 0.4), random.standard_normal(group) * np.sqrt(0.2)
    truth, judged = np.zeros(shape), np.zeros(shape)
    for side, sign, rate in ((0, 1, world.baseline_rate + world.difference), (1, -1, world.baseline_rate)):
        passed = shared + own * random.standard_normal(shape) < stats.norm.ppf(rate)
        yes, no = stats.norm.ppf(world.sensitivity[side]), stats.norm.ppf(1 - world.specificity[side])
        said = mood + np.sqrt(0.8) * random.standard_normal(shape) < np.where(passed, yes, no)
        truth += sign * passed
        judged += sign * said
    labelled = random.random((releases, world.conversations)) < world.labelled_share
    spread = judged.reshape(releases, -1).std(axis=1, ddof=1)
    return Releases(
        truth.mean(axis=2), judged.mean(axis=2), labelled, world.cases, spread, np.square(truth).sum(axis=2)
    )


def naive_mean(releases: Releases, margin: float, _alpha: float) -> Outcome:
    """Promote if the judged mean is not lower by the margin: what most gates do."""
    promoted = releases.judged.mean(axis=1) > -margin
    return Outcome(promoted, ~promoted, np.ones(len(promoted)))


def naive_interval(releases: Releases, margin: float, alpha: float) -> Outcome:
    """A t interval on judged differences that takes cases for independent and the judge for the truth."""
    cases = releases.judged.shape[1] * releases.cases
    reach = stats.t.ppf(1 - alpha, cases - 1) * releases.spread / np.sqrt(cases)
    mean = releases.judged.mean(axis=1)
    return _outcome(mean - reach, mean + reach, margin)


def ours(releases: Releases, margin: float, alpha: float) -> Outcome:
    """The gate's: clustered, and corrected by the labels of people (statistics/corrections.py for whole conversations)."""
    return _outcome(*corrected_bounds(releases, alpha), margin)


def corrected_bounds(releases: Releases, alpha: float) -> tuple[Array, Array]:
    """PPI++ bounds of each release; -1 and 1 where fewer than three conversations are labelled."""
    seen, judged = releases.labelled, releases.judged
    count, labels = judged.shape[1], np.maximum(seen.sum(axis=1), 1)
    human_mean = _where(seen, releases.truth).sum(axis=1) / labels
    judge_mean, judge_seen = judged.mean(axis=1), _where(seen, judged).sum(axis=1) / labels
    fixed = _where(seen, releases.truth - human_mean[:, None]) / labels[:, None]
    moving = (judged - judge_mean[:, None]) / count - _where(seen, judged - judge_seen[:, None]) / labels[:, None]
    power = np.einsum("rc,rc->r", moving, moving)
    product = np.einsum("rc,rc->r", fixed, moving)
    weight = np.where(power < 1e-300, 0.0, np.clip(-product / np.maximum(power, 1e-300), 0.0, 1.0))
    estimate = weight * judge_mean + human_mean - weight * judge_seen
    return _bounds(estimate, fixed + weight[:, None] * moving, releases, alpha)


def labels_only(releases: Releases, margin: float, alpha: float) -> Outcome:
    """What the labels alone would say: the judge earns its cost only where `ours` decides more often than this."""
    seen, labels = releases.labelled, np.maximum(releases.labelled.sum(axis=1), 1)
    mean = _where(seen, releases.truth).sum(axis=1) / labels
    influences = _where(seen, releases.truth - mean[:, None]) / labels[:, None]
    outcome = _outcome(*_bounds(mean, influences, releases, alpha), margin)
    return replace(outcome, share_used=seen.mean(axis=1))


def ours_sequential(releases: Releases, margin: float, alpha: float) -> Outcome:
    """Looks after every conversation and stops when it knows; corrected by labels with a weight of 1 for the judge.

    Each conversation's value is judged + (human - judged) / labelled share where people looked, so its mean is the truth. The bounds
    are those of statistics/sequential.py, asymptotic_sequence, tightest at the whole size.
    """
    share = np.maximum(releases.labelled.mean(axis=1, keepdims=True), 1e-9)
    values = releases.judged + _where(releases.labelled, releases.truth - releases.judged) / share
    size = values.shape[1]
    time = np.arange(1, size + 1)
    mean = np.cumsum(values, axis=1) / time
    spread = np.maximum(np.cumsum(np.square(values), axis=1) / time - np.square(mean), 0.0)
    spread = spread * time / np.maximum(time - 1, 1) + 1 / time
    level = 2 * alpha
    rho2 = (-2 * np.log(level) + np.log(-2 * np.log(level)) + 1) / size
    widening = 2 * (time * rho2 + 1) / (np.square(time) * rho2) * np.log(np.sqrt(time * rho2 + 1) / level)
    reach = np.sqrt(spread * widening)
    ready = np.cumsum(releases.labelled, axis=1) >= FIRST_LOOK
    return _stopped((mean - reach > -margin) & ready, (mean + reach < -margin) & ready)


def betting_sequential(releases: Releases, margin: float, alpha: float) -> Outcome:
    """The exact test by betting on judged differences (statistics/sequential.py), at the one bound that is asked about: for
    deterministic checks, whose judge makes no error.
    """
    up, down = log_wealth(releases.judged, -margin, alpha)
    return _stopped(up >= np.log(1 / alpha), down >= np.log(1 / alpha))


def _where(seen: Flags, values: Array) -> Array:
    return np.where(seen, values, 0.0)


def _bounds(estimate: Array, influences: Array, releases: Releases, alpha: float) -> tuple[Array, Array]:
    """As differences.interval, for many at once; the labelled conversations carry the doubt."""
    groups, cases = releases.labelled.sum(axis=1), releases.cases
    enough = np.maximum(groups, 2)
    squares = _where(releases.labelled, releases.squares).sum(axis=1)
    totals = np.square(_where(releases.labelled, releases.truth) * cases).sum(axis=1)
    design = np.clip((totals + cases) / (squares + 1), 1.0, cases)
    plain = RESERVE * np.sqrt(np.square(influences).sum(axis=1)) * enough / (enough - 1)
    error = np.maximum(plain, RULE_OF_THREE * design / (enough * cases))
    skew = np.power(influences, 3).sum(axis=1) / error**3 * enough**2 / ((enough - 1) * np.maximum(enough - 2, 1))
    fourth = np.power(influences, 4).sum(axis=1) / np.maximum(np.square(influences).sum(axis=1), 1e-150) ** 2
    most = np.maximum(enough - 2, 1)
    freedom = np.where(
        fourth > 0, np.clip(2 * most / np.maximum(influences.shape[1] * fourth - 1, 1e-9), most / 2, most), most
    )
    reach = stats.t.ppf(1 - alpha, freedom)
    low, high = (estimate - one_sided_inverse(sign * reach, skew) * error for sign in (1, -1))
    few = groups < 3
    return np.where(few, -1.0, np.maximum(low, -1.0)), np.where(few, 1.0, np.minimum(high, 1.0))


def _stopped(above: Flags, below: Flags) -> Outcome:
    """The first time either holds decides; where neither ever does, all was looked at."""
    size = above.shape[1]
    first_up = np.where(above.any(axis=1), above.argmax(axis=1), size)
    first_down = np.where(below.any(axis=1), below.argmax(axis=1), size)
    used = np.minimum(np.minimum(first_up, first_down) + 1, size) / size
    return Outcome((first_up < size) & (first_up <= first_down), (first_down < size) & (first_down < first_up), used)


def _outcome(low: Array, high: Array, margin: float) -> Outcome:
    promoted = low > -margin
    return Outcome(promoted, ~promoted & (high < -margin), np.ones(len(promoted)))


def simulate(releases: int, *, margin: float, alpha: float, seed: int) -> Iterator[Tally]:
    """`releases` releases of every world through every method; a Tally a world and method, as each world is done.

    The betting test takes the judge for the truth, so it is shown only where the judge is perfect.
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
        yield from _play(world, methods, random, releases, margin, alpha)


def power_curve(
    differences: Sequence[float], releases: int, *, margin: float, alpha: float, seed: int, judge: int = 2
) -> Iterator[Tally]:
    """The share promoted at each true difference, under one of JUDGES (by default the one that favours the candidate)."""
    name, sensitivity, specificity = JUDGES[judge]
    methods: dict[str, Method] = {
        "naive mean": naive_mean, "naive interval": naive_interval, "labels only": labels_only, "ours": ours,
    }  # fmt: skip
    for number, difference in enumerate(differences):
        world = World(name, difference, sensitivity, specificity)
        yield from _play(world, methods, np.random.default_rng([seed, 1000 + number]), releases, margin, alpha)


def _play(
    world: World, methods: dict[str, Method], random: Random, releases: int, margin: float, alpha: float
) -> list[Tally]:
    found: dict[str, list[Outcome]] = {name: [] for name in methods}
    for first in range(0, releases, BATCH):
        batch = draw(world, random, min(BATCH, releases - first))
        for name, method in methods.items():
            found[name].append(method(batch, margin, alpha))
    return [_tally(world, name, outcomes, margin) for name, outcomes in found.items()]


def _tally(world: World, method: str, outcomes: Sequence[Outcome], margin: float) -> Tally:
    promoted, rejected = (np.concatenate([getattr(o, name) for o in outcomes]) for name in ("promoted", "rejected"))
    return Tally(
        world=world.name,
        method=method,
        difference=world.difference,
        bad=world.difference <= -margin,
        releases=promoted.size,
        promoted=clopper_pearson(int(promoted.sum()), promoted.size, 0.025),
        rejected=int(rejected.sum()),
        mean_share_used=float(np.concatenate([o.share_used for o in outcomes]).mean()),
    )
