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
    group,
    interval,
    skewness,
)
from evals.types import Difference


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
    span: float = 1.0,
) -> Difference:
    """Mean of the human value over all pairs, from a judge who saw all and people who saw some (`human` NaN elsewhere).

    Given paired differences on both sides, this is the corrected difference: a judge who favours one side is corrected
    for exactly that, because people saw both sides of a labelled pair. The estimate is
    mean(lambda * judge) + mean over labelled (human - lambda * judge), with the lambda in [0, 1] of least variance:
    PPI++ (Angelopoulos, Duchi, Zrnic 2023, arXiv:2311.01453, sections 2 and 6). The variance is clustered: the
    influence of a conversation is summed over its labelled and unlabelled pairs, so a conversation may hold both. The
    degrees of freedom are those of the labelled conversations, which carry the doubt, less one for lambda. Raises ValueError for a NaN from
    the judge or no label.
    """
    predictions = np.asarray(judge, dtype=np.float64)
    truth = np.asarray(human, dtype=np.float64)
    if not predictions.size == truth.size == len(conversations):
        raise ValueError("judge, human and conversations must be of one length")
    if not np.isfinite(predictions).all():
        raise ValueError("a judge's value is NaN or infinite: leave out what is not scored, do not pass it on")
    labelled = np.isfinite(truth)
    labels = int(labelled.sum())
    if labels == 0:
        raise ValueError("no pair has a human label: nothing can be corrected")
    groups, count = group(conversations)
    human_mean, judge_mean, judge_labelled = truth[labelled].mean(), predictions.mean(), predictions[labelled].mean()
    fixed = _totals(groups[labelled], (truth[labelled] - human_mean) / labels, count)
    moving = _totals(groups, (predictions - judge_mean) / predictions.size, count)
    moving -= _totals(groups[labelled], (predictions[labelled] - judge_labelled) / labels, count)
    weight = _least_variance(fixed, moving)
    estimate = float(weight * judge_mean + human_mean - weight * judge_labelled)
    labelled_conversations = int(np.unique(groups[labelled]).size)
    influences = fixed + weight * moving
    effective = effective_cases(truth[labelled], groups[labelled], labelled_conversations)
    error = clustered_error(influences, labelled_conversations, effective, span)
    return Difference(
        estimate, error, degrees_of_freedom(influences, labelled_conversations - 2), int(predictions.size), count,
        skewness(influences, error, labelled_conversations),
    )  # fmt: skip


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
