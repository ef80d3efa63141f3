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
"""Extra standard error, in units of 1 / conversations. With no discordant conversation the plain standard error is 0
and
would promise certainty from a dozen cases; with this term the one-sided 95 % bound is 3.3 / conversations, the rule of
three (Hanley and Lippman-Hand, JAMA 1983;249:1743-5), and it stays at or above the exact binomial bound down to
alpha = 0.01, where ln(1/alpha) / z is 1.98. It fades as 1/n against a sampling error of 1/sqrt(n)."""


def paired_difference(
    differences: Sequence[float] | Array, conversations: Sequence[str], *, span: float = 1.0
) -> Difference:
    """Mean of `differences` (candidate minus baseline, one a pair) with the error of a cluster-robust mean.

    `span` is the largest possible absolute difference. The standard error is the linearised one over conversations
    with the G/(G-1) correction (Liang and Zeger 1986; for evals: Miller, "Adding Error Bars to Evals", 2024, section
    2.2), to which RULE_OF_THREE * span / G is added in squares. Read with Student's t on G - 1 degrees of freedom.
    Raises ValueError for NaN or for inputs of different length.
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
    totals = np.bincount(groups, weights=values - estimate, minlength=count)
    error = clustered_error(totals / values.size, count, span)
    return Difference(estimate, error, float(count - 1), int(values.size), count)


def clustered_error(influences: Array, conversations: int, span: float) -> float:
    """Standard error from the influence of each conversation on the estimate; `span` itself if there are fewer than
    two.
    """
    if conversations < 2:
        return span
    variance = float(np.square(influences).sum()) * conversations / (conversations - 1)
    return float(np.sqrt(variance + (RULE_OF_THREE * span / conversations) ** 2))


def group(conversations: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """An index for each conversation id, and how many there are."""
    index = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    return np.fromiter((index[name] for name in conversations), dtype=np.int64, count=len(conversations)), len(index)


def interval(difference: Difference, alpha: float, *, span: float = 1.0) -> tuple[float, float]:
    """The two one-sided bounds at error `alpha` each (together a 1 - 2 alpha interval), cut to [-span, span]."""
    if difference.degrees_of_freedom < 1:
        return -span, span
    reach = float(stats.t.ppf(1 - alpha, difference.degrees_of_freedom)) * difference.standard_error
    return max(-span, difference.estimate - reach), min(span, difference.estimate + reach)


def p_above(difference: Difference, bound: float) -> float:
    """One-sided p value for 'the true difference is above `bound`' (null: it is at most that)."""
    if difference.degrees_of_freedom < 1:
        return 1.0
    return float(stats.t.sf((difference.estimate - bound) / difference.standard_error, difference.degrees_of_freedom))


def p_below(difference: Difference, bound: float) -> float:
    """One-sided p value for 'the true difference is below `bound`' (null: it is at least that)."""
    if difference.degrees_of_freedom < 1:
        return 1.0
    return float(stats.t.cdf((difference.estimate - bound) / difference.standard_error, difference.degrees_of_freedom))


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
    picks = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    means = (picks @ totals) / (picks @ sizes)
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
