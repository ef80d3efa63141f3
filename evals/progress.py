"""Many questions asked at once, and somebody told after each answer. How many are really under way is the client's to bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from typing import TypeVar

Result = TypeVar("Result")
Progress = Callable[[str, int, int, Decimal | None], None]
"""Called as (stage, done, total, dollars spent so far) after every answer and score; None where they are not known."""


def say_nothing(_stage: str, _done: int, _total: int, _cost_usd: Decimal | None) -> None:
    return None


async def together(stage: str, jobs: Iterable[Awaitable[Result]], progress: Progress) -> list[Result]:
    """What comes of the jobs, in their order."""
    waiting, done = list(jobs), 0

    async def one(job: Awaitable[Result]) -> Result:
        nonlocal done
        found = await job
        done += 1
        progress(stage, done, len(waiting), None)
        return found

    return await asyncio.gather(*map(one, waiting))
