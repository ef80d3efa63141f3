"""Mean paired differences, clustered by conversation, with closed-form and bootstrap intervals and Holm's correction.

Takes a judge's scores as the truth; corrections.py does not. Looked at once, at the planned size; sequential.py may
peek.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.types import Difference

Array = npt.NDArray[np.float64]

RULE_OF_THREE = 2.0
"""Least standard error, in units of 1 / effective cases. With no discordant case the plain standard error is 0 and would
promise certainty from a dozen cases; with this floor the one-sided 95 % bound is 3.3 / cases, the rule of three (Hanley and
Lippman-Hand, JAMA 1983;249:1743-5), and it stays at or above the exact binomial bound down to alpha = 0.01, where
ln(1/alpha) / z is 1.98. A floor and no addend: four discordant cases reach it, and added in squares, counted in
conversations, it made intervals half as wide again and false promotions .5 % where 5 % were accepted. What is lopsided among
few is left to the skewness (see one_sided)."""


RESERVE = 1.02
"""Factor on the standard error for what the corrections below leave: without it 5.0 % (4.8 to 5.2 by judge) of the bad releases of
`callgate eval simulate` were promoted at alpha 5 % (2026-11-25, 50,000 of them, 60 labelled conversations each)."""


def paired_difference(
    differences: Sequence[float] | Array, conversations: Sequence[str], *, span: float = 1.0
) -> Difference:
    """Mean of `differences` (candidate minus baseline, one a pair) with the error of a cluster-robust mean.

    `span` is the largest possible absolute difference. The standard error is the linearised one over conversations
    with the jackknife's correction, G/(G-1) on the error itself and more for a long conversation (see imbalance; CR3; Liang and Zeger 1986, Bell and McCaffrey 2002; for evals: Miller, "Adding Error Bars to Evals", 2024, section
    2.2), and at least RULE_OF_THREE * span / effective cases. Read with Student's t on at most effective conversations - 1 degrees of freedom,
    corrected for skewness. Raises ValueError for NaN or for inputs of different length.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size != len(conversations):
        raise ValueError(f"{values.size} differences but {len(conversations)} conversation ids")
    if not np.isfinite(values).all():
        raise ValueError("a difference is NaN or infinite: leave out what is not scored, do not pass it on")
    if values.size == 0:
        return Difference(0.0, span, 0.0, 0, 0)
    groups, count = group(conversations)
    estimate = float(values.mean())
    totals = np.bincount(groups, weights=values - estimate, minlength=count) / values.size
    totals *= imbalance(groups, count)
    error = clustered_error(totals, count, effective_cases(values, groups, count), span)
    freedom = degrees_of_freedom(totals, effective_conversations(groups) - 1)
    return Difference(estimate, error, freedom, int(values.size), count, skewness(totals, error, count))


def clustered_error(influences: Array, conversations: int, effective: float, span: float) -> float:
    """Standard error from the influence of each conversation on the estimate; `span` itself if there are fewer than
    two.
    """
    if conversations < 2:
        return span
    deviation = RESERVE * float(np.sqrt(np.square(influences).sum())) * conversations / (conversations - 1)
    return max(deviation, RULE_OF_THREE * span / effective)


def imbalance(groups: npt.NDArray[np.int64], conversations: int) -> Array:
    """By how much a conversation with share h of the cases moves the estimate more than one of average length, (1 - 1/G) / (1 - h) and
    at least 1: what leaving it out would show. `groups` are those of the cases that carry the doubt; 1 where all are of one length.
    """
    sizes = np.bincount(groups, minlength=conversations)
    filled = int(np.count_nonzero(sizes))
    share = np.minimum(sizes / max(1, groups.size), 1 - 1e-9)
    return np.asarray(np.maximum(1.0, (1 - 1 / max(1, filled)) / (1 - share)), dtype=np.float64)


def effective_conversations(groups: npt.NDArray[np.int64]) -> float:
    """Conversations of one length that would be worth as much: (sum of sizes)^2 / sum of their squares (Carter, Schnepel and
    Steigerwald, Rev. Econ. Stat. 2017;99:698-709). Without it twenty conversations of which one in five holds ten cases instead of one, and
    loses more often, were promoted 11.6 % of the time at alpha 5 % (2026-11-27; losses only, so the most lopsided case; now 5.7 %).
    """
    sizes = np.bincount(groups).astype(np.float64)
    return float(np.square(sizes.sum()) / max(1.0, np.square(sizes).sum()))


def effective_cases(values: Array, groups: npt.NDArray[np.int64], conversations: int) -> float:
    """Cases over their design effect (Kish 1965), the sum of squared totals by conversation over the sum of squares: between
    the number of conversations and that of cases, and the former where nothing differs, since then nothing is known of it.

    To both sums comes as much as one case of a conversation that differs as a whole: a single case that differs says hardly more of the
    others of its conversation than none. Taken at its word, it let 48 to 59 % of bad candidates through where a failure takes whole
    conversations (8 of them of 30 cases, .02 to .05 fail as a whole and 1 % of the other cases; alpha 5 %, 2026-11-27), now none.
    """
    squares = float(np.square(values).sum())
    totals = float(np.square(np.bincount(groups, weights=values, minlength=1)).sum())
    length = values.size / max(1, conversations)
    return max(float(conversations), values.size / max(1.0, (totals + length) / (squares + 1)))


def skewness(influences: Array, error: float, conversations: int) -> float:
    """Of the estimate: the sum of the cubes of the influences over the cube of its standard error, by n^2 / ((n-1) (n-2)) as for
    any third moment of a sample.
    """
    if conversations < 3 or error <= 0:
        return 0.0
    unbiased = conversations**2 / ((conversations - 1) * (conversations - 2))
    return unbiased * float(np.power(influences, 3).sum()) / error**3


def degrees_of_freedom(influences: Array, most: float) -> float:
    """Those of the variance estimate, 2 n / (kurtosis - 1) by Satterthwaite (Biometrics 1946;2:110-4): a variance that a few
    conversations carry is less known than their number says. Between half of `most` and `most`, below which the skewness has
    said the same already.
    """
    squares = float(np.square(influences).sum())
    if most < 2 or squares == 0:
        return float(max(0, most))
    excess = influences.size * float(np.power(influences, 4).sum()) / squares**2 - 1
    return float(np.clip(2 * most / max(excess, 1e-9), most / 2, most))


def one_sided(t: Array, skew: Array) -> Array:
    """Student's t with the skewness taken out: Hall, "On the removal of skewness by transformation", JRSS B 1992;54:221-8, the
    monotone cubic T + s T^2 / 3 + s^2 T^3 / 27 + s / 6, s the skewness of the estimate.

    Without it a plain t promotes what is lopsided too often: losses only, ten expected among hundred cases, 7 % at alpha 5 %.
    """
    return t + skew * np.square(t) / 3 + np.square(skew) * np.power(t, 3) / 27 + skew / 6


def one_sided_inverse(value: Array, skew: Array) -> Array:
    """The t that `one_sided` sends to `value`."""
    safe = np.where(np.abs(skew) < 1e-9, 1.0, skew)
    found = 3 / safe * (np.cbrt(1 + safe * (value - safe / 6)) - 1)
    return np.asarray(np.where(np.abs(skew) < 1e-9, value, found), dtype=np.float64)


def group(conversations: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """An index for each conversation id, and how many there are."""
    index = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    return np.fromiter((index[name] for name in conversations), dtype=np.int64, count=len(conversations)), len(index)


def interval(difference: Difference, alpha: float, *, span: float = 1.0) -> tuple[float, float]:
    """The two one-sided bounds at error `alpha` each (together a 1 - 2 alpha interval), cut to [-span, span]."""
    if difference.degrees_of_freedom < 1:
        return -span, span
    reach = stats.t.ppf(1 - alpha, difference.degrees_of_freedom)
    low, high = (
        one_sided_inverse(np.array([reach, -reach]), np.full(2, difference.skewness)) * difference.standard_error
    )
    return max(-span, difference.estimate - float(low)), min(span, difference.estimate - float(high))


def p_above(difference: Difference, bound: float) -> float:
    """One-sided p value for 'the true difference is above `bound`' (null: it is at most that)."""
    if difference.degrees_of_freedom < 1:
        return 1.0
    return float(stats.t.sf(_t(difference, bound), difference.degrees_of_freedom))


def p_below(difference: Difference, bound: float) -> float:
    """One-sided p value for 'the true difference is below `bound`' (null: it is at least that)."""
    if difference.degrees_of_freedom < 1:
        return 1.0
    return float(stats.t.cdf(_t(difference, bound), difference.degrees_of_freedom))


def _t(difference: Difference, bound: float) -> float:
    t = (difference.estimate - bound) / difference.standard_error
    return float(one_sided(np.array(t), np.array(difference.skewness)))


def bootstrap_interval(
    differences: Sequence[float] | Array,
    conversations: Sequence[str],
    alpha: float,
    random: np.random.Generator,
    *,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bounds at error `alpha` each from resampling whole conversations (Davison and Hinkley 1997, section
    3.8).

    Narrow below about 30 conversations and empty of doubt when all differences are equal, so the gate reads the closed
    form and this is shown beside it. Needs at least two conversations, else the bounds are -1 and 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    groups, count = group(conversations)
    if count < 2:
        return -1.0, 1.0
    totals = np.bincount(groups, weights=values, minlength=count)
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    means, at_once = np.empty(resamples), max(1, 1_000_000 // count)  # 8 MB of places at a time
    for first in range(0, resamples, at_once):
        picks = random.integers(count, size=(min(at_once, resamples - first), count))
        means[first : first + at_once] = totals[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [alpha, 1 - alpha])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p values, in the order given: claiming every one at most alpha keeps the chance of any false claim at
    alpha.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979;6:65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)
