"""What a judge's scores are worth once some were also judged by people: PPI++ and Rogan-Gladen, with intervals.

Assumes that the labelled cases were drawn at random from the same population as the rest; it cannot see if they were
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.statistics.differences import (
    Array,
    clustered_error,
    degrees_of_freedom,
    effective_cases,
    effective_conversations,
    group,
    imbalance,
    interval,
    skewness,
)
from evals.types import Difference

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CorrectedMean:
    """A share or a mean, corrected, with bounds at one-sided error alpha each."""

    estimate: float
    low: float
    high: float


def ppi_difference(
    judge: Sequence[float] | Array,
    human: Sequence[float] | Array,
    conversations: Sequence[str],
    *,
    assumed: Sequence[float] | Array | None = None,
    span: float = 1.0,
) -> Difference:
    """Mean of the human value over all pairs, from a judge who saw all and people who saw some (`human` NaN elsewhere).

    Where the judge is NaN, `assumed` is the value taken for the pair (the worst or the best there is) and counts in full: labels speak for the
    pairs that were judged, and a judge who is given little weight must not take the missing ones with him.

    Given paired differences on both sides, this is the corrected difference: a judge who favours one side is corrected
    for exactly that, because people saw both sides of a labelled pair. The estimate is
    mean(lambda * judge) + mean over labelled (human - lambda * judge), with the lambda in [0, 1] of least variance:
    PPI++ (Angelopoulos, Duchi, Zrnic 2023, arXiv:2311.01453, sections 2 and 6). The variance is clustered: the
    influence of a conversation is summed over its labelled and unlabelled pairs, so a conversation may hold both. The
    degrees of freedom are those of the labelled conversations, which carry the doubt, less one for lambda. Raises ValueError for a NaN from
    the judge without an assumed value, or no label.
    """
    predictions = np.asarray(judge, dtype=np.float64)
    truth = np.asarray(human, dtype=np.float64)
    if not predictions.size == truth.size == len(conversations):
        raise ValueError("judge, human and conversations must be of one length")
    judged = np.isfinite(predictions)
    taken = np.full(truth.shape, np.nan) if assumed is None else np.where(np.isfinite(truth), truth, assumed)
    if not np.isfinite(taken[~judged]).all():
        raise ValueError("a judge's value is NaN or infinite: leave out what is not scored, do not pass it on")
    labelled = judged & np.isfinite(truth)
    if not labelled.any():
        raise ValueError("no judged pair has a human label: nothing can be corrected")
    groups, count = group(conversations)
    corrected, influences = _corrected(predictions, truth, judged, labelled, groups, count)
    values = np.where(judged, corrected, taken)
    estimate = float(values.mean())
    influences = influences * judged.mean() + _totals(groups, (values - estimate) / values.size, count)
    influences *= imbalance(groups[labelled], count)
    labelled_conversations = int(np.unique(groups[labelled]).size)
    effective = effective_cases(truth[labelled], groups[labelled], labelled_conversations)
    error = clustered_error(influences, labelled_conversations, effective, span)
    freedom = degrees_of_freedom(influences, effective_conversations(groups[labelled]) - 2)
    return Difference(
        estimate, error, freedom, int(predictions.size), count, skewness(influences, error, labelled_conversations)
    )


def _corrected(
    predictions: Array, truth: Array, judged: Flags, labelled: Flags, groups: npt.NDArray[np.int64], count: int
) -> tuple[float, Array]:
    """The corrected mean over the judged pairs, and the influence of each conversation on it."""
    judge_mean, judge_labelled = predictions[judged].mean(), predictions[labelled].mean()
    human_mean, labels = truth[labelled].mean(), labelled.sum()
    fixed = _totals(groups[labelled], (truth[labelled] - human_mean) / labels, count)
    moving = _totals(groups[judged], (predictions[judged] - judge_mean) / judged.sum(), count)
    moving -= _totals(groups[labelled], (predictions[labelled] - judge_labelled) / labels, count)
    weight = _least_variance(fixed, moving)
    return float(weight * judge_mean + human_mean - weight * judge_labelled), fixed + weight * moving


def _totals(groups: npt.NDArray[np.int64], values: Array, count: int) -> Array:
    return np.asarray(np.bincount(groups, values, minlength=count), dtype=np.float64)


def _least_variance(fixed: Array, moving: Array) -> float:
    power = float(moving @ moving)
    return 0.0 if power < 1e-300 else float(np.clip(-(fixed @ moving) / power, 0.0, 1.0))


def ppi_mean(
    judge: Sequence[float] | Array, human: Sequence[float] | Array, conversations: Sequence[str], alpha: float
) -> CorrectedMean:
    """The human mean of values in [0, 1] by PPI++ (see ppi_difference), cut to [0, 1]."""
    result = ppi_difference(judge, human, conversations)
    if result.degrees_of_freedom < 1:
        return CorrectedMean(min(1.0, max(0.0, result.estimate)), 0.0, 1.0)
    bounds = interval(result, alpha)
    low, middle, high = np.clip([bounds[0], result.estimate, bounds[1]], 0.0, 1.0)
    return CorrectedMean(float(middle), float(low), float(high))


def rogan_gladen(
    judged_passes: int,
    judged: int,
    *,
    true_passes_found: int,
    true_passes: int,
    true_failures_found: int,
    true_failures: int,
    alpha: float,
) -> CorrectedMean:
    """The true pass rate from the judged one, the sensitivity (found / true passes) and the specificity of the judge.

    Point: Rogan and Gladen, Am. J. Epidemiol. 1978;107:71-6, cut to [0, 1]. Interval: Lang and Reiczigel, Prev. Vet.
    Med. 2014;113:13-22, which carries the doubt in all three rates. Independent cases; where they are clustered use
    ppi_mean. Raises ValueError if sensitivity + specificity is not above 1: a judge at chance cannot be corrected,
    only refused.
    """
    if min(judged, true_passes, true_failures) < 1:
        raise ValueError("judged cases and labels of both kinds are needed: at least one pass and one failure")
    sensitivity, specificity = true_passes_found / true_passes, true_failures_found / true_failures
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"the judge is no better than chance (sensitivity {sensitivity:.2f} + specificity {specificity:.2f} <= 1)"
        )
    estimate = (judged_passes / judged + specificity - 1) / (sensitivity + specificity - 1)
    z = float(stats.norm.ppf(1 - alpha))
    n, n_se, n_sp = judged + z * z, true_passes + 2, true_failures + 2
    p, se, sp = (judged_passes + z * z / 2) / n, (true_passes_found + 1) / n_se, (true_failures_found + 1) / n_sp
    youden = se + sp - 1
    if youden <= 0:
        return CorrectedMean(min(1.0, max(0.0, estimate)), 0.0, 1.0)
    centre = (p + sp - 1) / youden
    doubt_se, doubt_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (centre * doubt_se - (1 - centre) * doubt_sp)
    reach = z * np.sqrt(p * (1 - p) / n + centre**2 * doubt_se + (1 - centre) ** 2 * doubt_sp) / youden
    low, middle, high = np.clip([centre + shift - reach, estimate, centre + shift + reach], 0.0, 1.0)
    return CorrectedMean(float(middle), float(low), float(high))
