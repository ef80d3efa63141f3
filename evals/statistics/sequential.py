"""Confidence sequences: intervals that stay valid however often one looks, so that a run may stop as soon as it knows.

One value a conversation (the mean of its paired differences), in random order. Wider than a fixed-size interval looked
at once: that is the price of peeking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evals.statistics.differences import Array

INSIDE = 1 - 1e-12  # a bet at the very end of the range has a factor without bounds
FIRST_LOOK = (
    30  # values that carry the doubt before the asymptotic sequence may be read: its limit theorem needs some dozens
)


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


def log_wealth(values: Array, bound: float, alpha: float, *, span: float = 1.0) -> tuple[Array, Array]:
    """Logarithm of what bets against 'the mean is at most `bound`' and against 'it is at least that' have made, after each value
    (last axis). Either exceeds log(1/p) at some look with chance at most p where its hypothesis holds. As betting_sequence, at one bound.
    """
    scaled, at = (np.clip(np.asarray(values) / span, -1, 1) + 1) / 2, (bound / span + 1) / 2
    time = np.arange(1, scaled.shape[-1] + 1)
    mean = (0.5 + np.cumsum(scaled, axis=-1)) / (time + 1)
    variance = (0.25 + np.cumsum(np.square(scaled - mean), axis=-1)) / (time + 1)
    before = np.concatenate([np.full((*scaled.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    bets = np.sqrt(2 * np.log(1 / alpha) / (before * time * np.log(time + 1)))
    up = np.cumsum(np.log1p(np.minimum(bets, 0.5 / at) * (scaled - at)), axis=-1)
    down = np.cumsum(np.log1p(-np.minimum(bets, 0.5 / (1 - at)) * (scaled - at)), axis=-1)
    return up, down


def betting_p(values: Array, bound: float, alpha: float, *, above: bool, span: float = 1.0) -> float:
    """A p value for 'the mean is above (below) `bound`' that stays valid however often one looks. Most powerful at level `alpha`."""
    wealth = log_wealth(values, bound, alpha, span=span)[0 if above else 1]
    return float(np.exp(-max(0.0, wealth.max(initial=0.0))))


def asymptotic_p(values: Array, bound: float, alpha: float, *, above: bool, first: int = FIRST_LOOK) -> float:
    """As betting_p for values of any range, by inverting asymptotic_sequence; 1 before the `first` value."""
    mean, spread, time = _moments(values, 1.0)
    distance = np.maximum(mean - bound if above else bound - mean, 0.0)
    rho2 = _rho2(2 * alpha, 100)
    log_level = np.log(time * rho2 + 1) / 2 - np.square(distance * time) * rho2 / (2 * (time * rho2 + 1) * spread)
    return float(np.exp(min(0.0, log_level[first - 1 :].min(initial=np.inf))) / 2) if time.size >= first else 1.0


def _moments(values: Array, floor: float) -> tuple[Array, Array, Array]:
    """Running mean, running variance with the floor in it, and count."""
    points = np.asarray(values, dtype=np.float64)
    time = np.arange(1, points.size + 1, dtype=np.float64)
    mean = np.cumsum(points) / time
    spread = np.maximum(np.cumsum(np.square(points)) / time - np.square(mean), 0.0)
    return mean, spread * time / np.maximum(time - 1, 1) + np.square(floor) / time, time


def _rho2(level: float, tightest_at: int) -> float:
    return float((-2 * np.log(level) + np.log(-2 * np.log(level)) + 1) / tightest_at)


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


def betting_bounds(values: Array, alpha: float, *, span: float = 1.0, grid: int = 401) -> tuple[float, float]:
    """The last bounds of betting_sequence, for many values: wealth falls as its bound rises, so they are found by halving."""
    candidates = np.linspace(-span, span, grid)
    limit = np.log(1 / alpha)

    def refuted(at: int, side: int) -> bool:
        """Whether the mean is shown to be above (side 0) or below (side 1) this candidate."""
        bound = float(np.clip(candidates[at], -INSIDE * span, INSIDE * span))
        return bool(log_wealth(values, bound, alpha, span=span)[side].max(initial=-np.inf) >= limit)

    def last(side: int, order: range) -> float:
        """The last candidate in this order that is refuted; they are refuted up to some place, and from there on not."""
        known, unknown = -1, len(order)
        while unknown - known > 1:
            middle = (known + unknown) // 2
            if refuted(order[middle], side):
                known = middle
            else:
                unknown = middle
        return float(candidates[order[max(known, 0)]])

    return last(0, range(grid)), last(1, range(grid - 1, -1, -1))


def asymptotic_sequence(
    values: Array, alpha: float, *, tightest_at: int = 100, floor: float = 1.0, first: int = 1
) -> Sequence:
    """For values of any range, in large samples: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central
    limit theory and asymptotic confidence sequences", Ann. Statist. 2024;52:2613-40, equation (10), two-sided at 2
    alpha.

    `tightest_at` is the number of values at which the bounds are to be narrowest. Trust it only from some dozens of
    values on: before the `first` the bounds are infinite. `floor` / count is added to the standard error, as in differences.py, in
    squares.
    """
    mean, spread, time = _moments(values, floor)
    level = 2 * alpha
    rho2 = _rho2(level, tightest_at)
    reach = np.sqrt(
        spread * 2 * (time * rho2 + 1) / (np.square(time) * rho2) * np.log(np.sqrt(time * rho2 + 1) / level)
    )
    reach[: first - 1] = np.inf
    return Sequence(np.maximum.accumulate(mean - reach), np.minimum.accumulate(mean + reach))
