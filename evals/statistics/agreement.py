"""How well a judge agrees with people: Cohen's kappa, balanced accuracy, sensitivity, specificity, each with bounds.

For verdicts of two kinds (pass or fail) by one judge against one human label a case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.statistics.differences import RULE_OF_THREE, group

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

    Kappa and balanced accuracy carry delete-one-conversation jackknife errors (Efron and Tibshirani 1993, chapter 11)
    plus the rule-of-three term of differences.py, so that perfect agreement on few labels does not look certain;
    sensitivity and specificity carry Clopper-Pearson bounds (Biometrika 1934;26:404-13).
    """
    if not len(judge) == len(human) == len(conversations):
        raise ValueError("judge, human and conversations must be of one length")
    if len(set(human)) < 2:
        raise ValueError("people must have said both pass and fail at least once for agreement to mean anything")
    groups, count = group(conversations)
    cells = np.array([(not j) * 2 + (not h) for j, h in zip(judge, human, strict=True)], dtype=np.int64)
    table = np.zeros((count, 4))
    np.add.at(table, (groups, cells), 1.0)
    total = table.sum(axis=0)
    found, false_pass, missed, rejected = (int(value) for value in total)
    return Agreement(
        labels=len(human),
        conversations=count,
        passes=found + missed,
        kappa=_jackknife(cohens_kappa, table, alpha, floor=-1.0),
        balanced_accuracy=_jackknife(_balanced_accuracy, table, alpha, floor=0.0),
        sensitivity=clopper_pearson(found, found + missed, alpha),
        specificity=clopper_pearson(rejected, rejected + false_pass, alpha),
    )


def cohens_kappa(counts: Counts) -> float:
    """Agreement beyond chance (Cohen 1960). 0 where chance alone explains all of it, also if one side never varies."""
    total = counts.sum()
    observed = (counts[0] + counts[3]) / total
    judged, human = (counts[0] + counts[1]) / total, (counts[0] + counts[2]) / total
    expected = judged * human + (1 - judged) * (1 - human)
    return 0.0 if expected >= 1 else float((observed - expected) / (1 - expected))


def _balanced_accuracy(counts: Counts) -> float:
    passes, failures = counts[0] + counts[2], counts[1] + counts[3]
    if passes == 0 or failures == 0:
        return 0.5
    return float((counts[0] / passes + counts[3] / failures) / 2)


def _jackknife(figure: Callable[[Counts], float], table: Counts, alpha: float, *, floor: float) -> Bounded:
    total, count = table.sum(axis=0), len(table)
    estimate = figure(total)
    if count < 2:
        return Bounded(estimate, floor, 1.0)
    without = np.array([figure(total - row) for row in table])
    variance = (count - 1) / count * float(np.square(without - without.mean()).sum())
    error = float(np.sqrt(variance + (RULE_OF_THREE / count) ** 2))
    reach = float(stats.t.ppf(1 - alpha, count - 1)) * error
    return Bounded(estimate, max(floor, estimate - reach), min(1.0, estimate + reach))


def clopper_pearson(successes: int, trials: int, alpha: float) -> Bounded:
    """A share with exact binomial bounds at one-sided error `alpha` each; NaN-free: no trial gives the bounds 0 and
    1.
    """
    if trials == 0:
        return Bounded(0.5, 0.0, 1.0)
    low = 0.0 if successes == 0 else float(stats.beta.ppf(alpha, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - alpha, successes + 1, trials - successes))
    return Bounded(successes / trials, low, high)


def labels_needed(agreement: Agreement, min_kappa: float) -> int | None:
    """About how many labels would lift kappa's lower bound to `min_kappa` if its estimate stays; None if none would."""
    gap = agreement.kappa.estimate - min_kappa
    if gap <= 0:
        return None
    reach = agreement.kappa.estimate - agreement.kappa.low
    return max(agreement.labels, int(np.ceil(agreement.labels * (reach / gap) ** 2)))
