"""Pointers to policies: a request keeps what it pinned, and what nobody uses any more is closed once."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policies import PolicyTable


class Fake:
    """Something that may be used until it is closed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["begin", "end", "swap"]), max_size=40))
def test_whatever_the_order_of_requests_and_swaps_nothing_in_use_is_closed_and_all_else_is(steps: list[str]) -> None:
    async def live() -> None:
        made = [Fake(0)]
        table: PolicyTable[Fake] = PolicyTable({"p": made[0]})
        open_requests = []
        for step in steps:
            if step == "begin":
                pin = table.pinned("p")
                guard = pin.__enter__()
                assert guard is made[-1]
                open_requests.append((pin, guard))
            elif step == "end" and open_requests:
                pin, guard = open_requests.pop(0)
                assert guard is not None
                assert guard.closed == 0
                pin.__exit__(None, None, None)
            elif step == "swap":
                made.append(Fake(len(made)))
                table.swap("p", made[-1])
            await asyncio.sleep(0)
        for pin, _ in open_requests:
            pin.__exit__(None, None, None)
        await table.aclose()
        assert [one.closed for one in made] == [1] * len(made)

    asyncio.run(live())


def test_a_route_without_a_policy_pins_nothing() -> None:
    with PolicyTable[Fake]({}).pinned(None) as guard:
        assert guard is None
