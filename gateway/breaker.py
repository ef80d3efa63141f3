"""When to stop asking a backend that fails, and when to ask again: a circuit breaker and a budget of retries. Pure values and a clock.

It does not know what a backend is. State is each worker's own: a worker learns of an outage by its own first failures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Clock = Callable[[], float]
State = Literal["closed", "open", "half_open"]

CONSECUTIVE_FAILURES = 5
WINDOW_S = 30.0
LEAST_CALLS = 20  # below this a share says nothing
FAILING_SHARE = 0.5
OPEN_S, LONGEST_OPEN_S = 2.0, 60.0
PROBE_S = 30.0  # a probe that never reports back is given up after this long


class Breaker:
    """Closed: everybody passes. Open: nobody, for 2 s that double with each failed probe, up to 60. Half open: one probe at a time.

    It opens after five failures in a row, or when half of at least twenty calls of the last thirty seconds failed (outlier ejection).
    """

    __slots__ = ("_calls", "_clock", "_failures", "_in_a_row", "_open_s", "_probe_at", "_until", "_window_at")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._in_a_row = self._calls = self._failures = 0
        self._window_at = clock()
        self._until = 0.0
        self._open_s = OPEN_S
        self._probe_at: float | None = None

    @property
    def state(self) -> State:
        if not self._until:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    @property
    def opens_in_s(self) -> float:
        """Seconds until a probe may pass; 0 when calls pass now."""
        return max(0.0, self._until - self._clock()) if self._until else 0.0

    def allow(self) -> bool:
        """Whether a call may be made now; in the half-open state the one that is told yes is the probe."""
        if not self._until:
            return True
        now = self._clock()
        if now < self._until or (self._probe_at is not None and now - self._probe_at < PROBE_S):
            return False
        self._probe_at = now
        return True

    def succeeded(self) -> None:
        self._count(failed=False)
        self._in_a_row = 0
        if self._until:
            self._until, self._open_s, self._probe_at = 0.0, OPEN_S, None
            self._calls = self._failures = 0

    def failed(self) -> None:
        self._count(failed=True)
        self._in_a_row += 1
        if self._until:
            if self._clock() >= self._until:  # the probe failed; stragglers of the open time change nothing
                self._open_s = min(LONGEST_OPEN_S, self._open_s * 2)
                self._trip()
        elif self._in_a_row >= CONSECUTIVE_FAILURES or (
            self._calls >= LEAST_CALLS and self._failures >= FAILING_SHARE * self._calls
        ):
            self._trip()

    def abandoned(self) -> None:
        """A call ended without saying anything of the backend (its caller hung up)."""
        self._probe_at = None

    def _trip(self) -> None:
        self._until = self._clock() + self._open_s
        self._probe_at = None

    def _count(self, *, failed: bool) -> None:
        now = self._clock()
        if now - self._window_at > WINDOW_S:
            self._window_at, self._calls, self._failures = now, 0, 0
        self._calls += 1
        self._failures += failed


class RetryBudget:
    """Retries are at most a share of requests, so that a brown-out is not made worse.

    Every worker keeps its own; since each stays within the share, the fleet does. ``spare`` retries are there at the start.
    """

    __slots__ = ("_left", "_most", "_share")

    def __init__(self, share: float, spare: int = 10) -> None:
        self._share = share
        self._left = self._most = float(spare)

    def earn(self) -> None:
        """A request came in."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether a retry may be made; it is then paid for."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
