"""How many conversations a question needs, and what difference a given number can show.

Normal approximation, read with the gate's own t and least error; knows nothing of prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from evals.statistics.differences import RESERVE, RULE_OF_THREE


@dataclass(frozen=True, slots=True)
class Design:
    """`discordance` is the share of pairs on which the two settings differ; `icc` the correlation within a
    conversation.

    `labelled_share` and `judge_correlation` (of judged and human paired differences) describe a corrected judge; a
    share of 1 is a check or a human for every case.
    """

    discordance: float
    alpha: float = 0.05
    power: float = 0.8
    cases_per_conversation: float = 1.0
    icc: float = 0.0
    labelled_share: float = 1.0
    judge_correlation: float = 1.0

    def __post_init__(self) -> None:
        shares = {"discordance": self.discordance, "labelled_share": self.labelled_share}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} is a share above 0 and at most 1, not {value}")
        if not (0 < self.alpha < 0.5 and 0.5 <= self.power < 1):
            raise ValueError("alpha lies in (0, 0.5) and power in [0.5, 1)")
        if not (0 <= self.icc <= 1 and 0 <= self.judge_correlation <= 1 and self.cases_per_conversation >= 1):
            raise ValueError("icc and judge_correlation lie in [0, 1]; a conversation has at least 1 case")


def standard_error(design: Design, conversations: float, difference: float) -> float:
    """Of the mean paired difference. Design effect 1 + (m - 1) icc (Kish 1965); PPI++ variance (1 - r^2 (1 - f)) /
    f; at least what the gate takes for labelled cases over their design effect.
    """
    variance = max(design.discordance - difference**2, 0.0)
    per_conversation = (1 + (design.cases_per_conversation - 1) * design.icc) / design.cases_per_conversation
    judge = (1 - design.judge_correlation**2 * (1 - design.labelled_share)) / design.labelled_share
    labelled = conversations * design.labelled_share
    differing = labelled * design.cases_per_conversation * design.discordance
    effective = labelled / ((per_conversation * differing + 1) / (differing + 1))
    return max(RESERVE * math.sqrt(variance * per_conversation * judge / conversations), RULE_OF_THREE / effective)


def power_at(design: Design, conversations: float, *, distance: float, difference: float = 0.0) -> float:
    """The chance to clear a bound that lies `distance` (margin + true difference) below the true difference."""
    error = standard_error(design, conversations, difference)
    freedom = max(1.0, conversations * design.labelled_share - (1 if design.labelled_share == 1 else 2))
    return float(stats.norm.cdf(distance / error - stats.t.ppf(1 - design.alpha, freedom)))


def conversations_needed(
    design: Design, *, margin: float, difference: float = 0.0, most: int = 10_000_000
) -> int | None:
    """Fewest conversations for the wanted power to show 'not worse by `margin`' if the truth is `difference`.

    For 'better', pass margin 0 and a positive difference. None where the truth lies on the wrong side, or beyond
    `most`. Raises ValueError for a margin below 0, or a difference that so few discordant pairs cannot have.
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is a share from 0 to 1 (.05: five points worse is still accepted), not {margin:g}")
    if abs(difference) > design.discordance:
        raise ValueError(
            f"a difference of {difference:g} needs at least that share of cases on which the two differ; "
            f"discordance is {design.discordance:g}"
        )
    distance = margin + difference
    if distance <= 0:
        return None
    low, high = 2, 4
    while power_at(design, high, distance=distance, difference=difference) < design.power:
        low, high = high, high * 2
        if high > most:
            return None
    while low < high:
        middle = (low + high) // 2
        if power_at(design, middle, distance=distance, difference=difference) >= design.power:
            high = middle
        else:
            low = middle + 1
    return low


def detectable_difference(design: Design, conversations: int) -> float | None:
    """The smallest true difference from a bound that `conversations` would show with the wanted power; None above 1."""
    low, high = 0.0, 1.0
    if power_at(design, conversations, distance=1.0) < design.power:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        if power_at(design, conversations, distance=middle) >= design.power:
            high = middle
        else:
            low = middle
    return high
