"""Confidence sequences: intervals that stay valid however often one looks, so that a run may stop as soon as it knows.

One value a conversation (the mean of its paired differences), in random order. Wider than a fixed-size interval looked
at once: that is the price of peeking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evals.statistics.differences import Array


@dataclass(frozen=True, slots=True)
class Sequence:
    """Running bounds after each value; `low` only rises and `high` only falls (running intersection)."""

    low: Array
    high: Array

    def stop(self, *, above: float, below: float, first: int = 1) -> tuple[int, str] | None:
        """The number of values after which low > `above` ('above') or high < `below` ('below'), or None if neither."""
        up = np.flatnonzero(self.low[first - 1 :] > above)
        down = np.flatnonzero(self.high[first - 1 :] < below)
        hits = [(int(hit[0]) + first, name) for hit, name in ((up, "above"), (down, "below")) if hit.size]
        return min(hits) if hits else None


def betting_sequence(values: Array, alpha: float, *, span: float = 1.0, grid: int = 401) -> Sequence:
    """Exact for values in [-span, span], whatever their distribution: one-sided error at most `alpha` at every look.

    The hedged capital process with predictable plug-in bets: Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", JRSS B 2024;86:1-27, theorem 3 and section 4.2, each side at 1/alpha. Bounds are
    rounded outwards to a grid of 2 * span / (grid - 1).
    """
    scaled = np.clip((np.asarray(values, dtype=np.float64) / span + 1) / 2, 0.0, 1.0)
    candidates = np.linspace(0.0, 1.0, grid)
    size = scaled.size
    time = np.arange(1, size + 1)
    mean = (0.5 + np.cumsum(scaled)) / (time + 1)
    variance = (0.25 + np.cumsum(np.square(scaled - mean))) / (time + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.sqrt(2 * np.log(1 / alpha) / (before * time * np.log(time + 1)))
    with np.errstate(divide="ignore"):
        up_bets = np.minimum(bets[:, None], 0.5 / candidates)
        down_bets = np.minimum(bets[:, None], 0.5 / (1 - candidates))
    gain = scaled[:, None] - candidates
    # 0.5/0 is infinite only where the other factor is >= 0, so min() above has already made it finite.
    up = np.cumsum(np.log1p(up_bets * gain), axis=0)
    down = np.cumsum(np.log1p(-down_bets * gain), axis=0)
    limit = np.log(1 / alpha)
    refuted_up, refuted_down = up >= limit, down >= limit
    low_at = np.where(refuted_up.all(axis=1), grid - 1, np.argmin(refuted_up, axis=1))
    high_at = np.where(refuted_down.all(axis=1), grid - 1, np.argmin(refuted_down[:, ::-1], axis=1))
    low = candidates[np.maximum(low_at - 1, 0)]
    high = candidates[::-1][np.maximum(high_at - 1, 0)]
    return Sequence(np.maximum.accumulate((2 * low - 1) * span), np.minimum.accumulate((2 * high - 1) * span))


def asymptotic_sequence(values: Array, alpha: float, *, tightest_at: int = 100, floor: float = 1.0) -> Sequence:
    """For values of any range, in large samples: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central
    limit theory and asymptotic confidence sequences", Ann. Statist. 2024;52:2613-40, equation (10), two-sided at 2
    alpha.

    `tightest_at` is the number of values at which the bounds are to be narrowest. Trust it only from some dozens of
    values on (use `first` of Sequence.stop). `floor` / count is added to the standard error, as in differences.py, in
    squares.
    """
    points = np.asarray(values, dtype=np.float64)
    time = np.arange(1, points.size + 1)
    mean = np.cumsum(points) / time
    spread = np.maximum(np.cumsum(np.square(points)) / time - np.square(mean), 0.0)
    spread = spread * time / np.maximum(time - 1, 1) + np.square(floor) / time
    level = 2 * alpha
    rho2 = (-2 * np.log(level) + np.log(-2 * np.log(level)) + 1) / tightest_at
    reach = np.sqrt(
        spread * 2 * (time * rho2 + 1) / (np.square(time) * rho2) * np.log(np.sqrt(time * rho2 + 1) / level)
    )
    return Sequence(np.maximum.accumulate(mean - reach), np.minimum.accumulate(mean + reach))
