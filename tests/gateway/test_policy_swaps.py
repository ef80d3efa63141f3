"""Policies swapped under load in two workers: no request fails, none sees two versions, all workers follow."""

from __future__ import annotations

import pytest

from tests.bench.bench_policy import swap_figures

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.timeout(180)
async def test_swaps_under_load_fail_no_request_and_mix_no_verdict() -> None:
    found = await swap_figures(swaps=4, callers=4)
    assert found["swap.failed"] == 0
    assert found["swap.both_versions_answered"] == 1
    assert found["swap.converged_s"] != float("inf")
