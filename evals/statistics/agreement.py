"""How well a judge agrees with people: Cohen's kappa, balanced accuracy, sensitivity, specificity, each with bounds.

For verdicts of two kinds (pass or fail) by one judge against one human label a case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.statistics.differences import group

Counts = npt.NDArray[np.float64]  # true pass, false pass, false fail, true fail


@dataclass(frozen=True, slots=True)
class Bounded:
    """A figure with its bounds at one-sided error alpha each."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    labels: int
    conversations: int
    passes: int
    kappa: Bounded
    balanced_accuracy: Bounded
    sensitivity: Bounded
    specificity: Bounded


def measure_agreement(
    judge: Sequence[bool], human: Sequence[bool], conversations: Sequence[str], alpha: float
) -> Agreement:
    """Raises ValueError unless people said both pass and fail at least once: agreement on one kind says nothing.

    Sensitivity and specificity carry exact binomial bounds (Clopper and Pearson, Biometrika 1934;26:404-13) of their effective number of
    cases, clustered by conversation (Korn and Graubard, Survey Methodology 1998;24:193-201). Kappa and balanced accuracy are functions of
    the two and of the share of passes, and carry what each bound alone would move them by, squared and added (Newcombe, Amer. Statist. 2001;55:200-2;
    Zou and Donner, Stat. Med. 2008;27:1693-702). Jackknife errors, as here before, took a judge who had seen two failures for known: at 95 %
    passes and 100 labels the lower bound of balanced accuracy lay above the truth 45 % of the time, that of kappa 7 to 35 % (2026-11-27).
    """
    if not len(judge) == len(human) == len(conversations):
        raise ValueError("judge, human and conversations must be of one length")
    if len(set(human)) < 2:
        raise ValueError("people must have said both pass and fail at least once for agreement to mean anything")
    groups, count = group(conversations)
    said, truth = np.asarray(judge, dtype=np.bool_), np.asarray(human, dtype=np.bool_)
    rates = (_rate(said[truth], groups[truth]), _rate(~said[~truth], groups[~truth]), _rate(truth, groups))
    likely = [_jeffreys(rate, alpha) for rate in rates]
    return Agreement(
        labels=len(human),
        conversations=count,
        passes=int(truth.sum()),
        kappa=_combined(_kappa_of, likely, floor=-1.0),
        balanced_accuracy=_combined(lambda given: (given[0] + given[1]) / 2, likely, floor=0.0),
        sensitivity=_exact(rates[0], alpha),
        specificity=_exact(rates[1], alpha),
    )


def _kappa_of(rates: Sequence[float]) -> float:
    sensitivity, specificity, passes = rates
    found, rejected = passes * sensitivity, (1 - passes) * specificity
    return cohens_kappa(np.array([found, 1 - passes - rejected, passes - found, rejected]))


@dataclass(frozen=True, slots=True)
class _Rate:
    """A share of cases and how many independent ones these are worth."""

    share: float
    worth: float


def _rate(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> _Rate:
    """A conversation is worth one case where nothing differs, since then nothing is known of it; one alone is worth none."""
    _, places = np.unique(groups, return_inverse=True)
    sizes = np.bincount(places)
    conversations, share = sizes.size, float(hits.mean())
    if conversations < 2:
        return _Rate(share, 0.0)
    if conversations == hits.size:
        return _Rate(share, float(hits.size))
    totals, alone = np.bincount(places, weights=hits) - share * sizes, hits.size * share * (1 - share)
    together = float(np.square(totals).sum()) * conversations / (conversations - 1)
    worth = hits.size / max(1.0, together / alone) if alone > 0 else conversations
    few = (stats.norm.ppf(0.95) / stats.t.ppf(0.95, conversations - 1)) ** 2
    return _Rate(share, max(float(conversations), worth) * float(few))


def _combined(figure: Callable[[Sequence[float]], float], rates: Sequence[Bounded], *, floor: float) -> Bounded:
    """`figure` of the estimates, and what the bounds of each would move it by, one at a time, squared and added."""
    middle = [rate.estimate for rate in rates]
    estimate = figure(middle)
    down = up = 0.0
    for number, rate in enumerate(rates):
        moved = [figure([*middle[:number], end, *middle[number + 1 :]]) - estimate for end in (rate.low, rate.high)]
        down += min(0.0, *moved) ** 2
        up += max(0.0, *moved) ** 2
    return Bounded(estimate, max(floor, estimate - down**0.5), min(1.0, estimate + up**0.5))


def cohens_kappa(counts: Counts) -> float:
    """Agreement beyond chance (Cohen 1960). 0 where chance alone explains all of it, also if one side never varies."""
    total = counts.sum()
    observed = (counts[0] + counts[3]) / total
    judged, human = (counts[0] + counts[1]) / total, (counts[0] + counts[2]) / total
    expected = judged * human + (1 - judged) * (1 - human)
    return 0.0 if expected >= 1 else float((observed - expected) / (1 - expected))


def clopper_pearson(successes: int, trials: int, alpha: float) -> Bounded:
    """A share with exact binomial bounds at one-sided error `alpha` each; NaN-free: no trial gives the bounds 0 and 1."""
    if trials == 0:
        return Bounded(0.5, 0.0, 1.0)
    return _exact(_Rate(successes / trials, trials), alpha)


def _exact(rate: _Rate, alpha: float) -> Bounded:
    return _bounds(rate, alpha, 0.0, 1.0)


def _jeffreys(rate: _Rate, alpha: float) -> Bounded:
    """Right on average and not at the worst, which three bounds that are combined need not be (Brown, Cai and DasGupta, Statist. Sci.
    2001;16:101-33).
    """
    return _bounds(rate, alpha, 0.5, 0.5)


def _bounds(rate: _Rate, alpha: float, inner: float, outer: float) -> Bounded:
    """Quantiles of beta distributions: `inner` and `outer` are what is added to hits and misses, towards the bound and away from it."""
    if rate.worth == 0:
        return Bounded(rate.share, 0.0, 1.0)
    hits, misses = rate.share * rate.worth, (1 - rate.share) * rate.worth
    low = 0.0 if rate.share == 0 else float(stats.beta.ppf(alpha, hits + inner, misses + outer))
    high = 1.0 if rate.share == 1 else float(stats.beta.ppf(1 - alpha, hits + outer, misses + inner))
    return Bounded(rate.share, low, high)


def labels_needed(agreement: Agreement, min_kappa: float) -> int | None:
    """About how many labels would lift kappa's lower bound to `min_kappa` if its estimate stays; None if none would."""
    gap = agreement.kappa.estimate - min_kappa
    if gap <= 0:
        return None
    reach = agreement.kappa.estimate - agreement.kappa.low
    return max(agreement.labels, int(np.ceil(agreement.labels * (reach / gap) ** 2)))
