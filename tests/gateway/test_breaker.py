"""A breaker opens on real trouble, lets one probe through, and a retry budget keeps retries within their share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.breaker import CONSECUTIVE_FAILURES, Breaker, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_a_good_probe_closes_it() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(CONSECUTIVE_FAILURES):
        assert breaker.allow()
        breaker.failed()
    assert (breaker.state, breaker.allow()) == ("open", False)
    clock.now += 2.0
    assert breaker.state == "half_open"
    assert breaker.allow()
    assert not breaker.allow()  # one probe at a time
    breaker.succeeded()
    assert (breaker.state, breaker.allow()) == ("closed", True)


def test_a_failed_probe_doubles_the_wait_up_to_a_minute() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(CONSECUTIVE_FAILURES):
        breaker.failed()
    waits = []
    for _ in range(7):
        waits.append(breaker.opens_in_s)
        clock.now += breaker.opens_in_s
        assert breaker.allow()
        breaker.failed()
    assert waits == [2, 4, 8, 16, 32, 60, 60]


def test_half_of_many_calls_failing_opens_it_even_without_a_row() -> None:
    breaker = Breaker(Clock())
    for _ in range(10):
        breaker.succeeded()
        breaker.failed()
    assert breaker.state == "open"


def test_few_failures_among_many_calls_leave_it_closed() -> None:
    breaker = Breaker(Clock())
    for _ in range(200):
        breaker.failed()
        for _ in range(4):
            breaker.succeeded()
    assert breaker.state == "closed"


def test_a_probe_whose_caller_hung_up_leaves_room_for_the_next() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(CONSECUTIVE_FAILURES):
        breaker.failed()
    clock.now += 2
    assert breaker.allow()
    breaker.abandoned()
    assert breaker.allow()


@given(st.lists(st.booleans(), max_size=500), st.floats(0, 1))
def test_retries_never_exceed_their_share_of_requests_and_the_spare(tries: list[bool], share: float) -> None:
    budget, requests, retries = RetryBudget(share, spare=10), 0, 0
    for retry in tries:
        if retry:
            retries += budget.spend()
        else:
            requests += 1
            budget.earn()
        assert retries <= 10 + share * requests + 1e-6
