"""Which policy is at work: one pointer a name, swapped whole, and what it pointed to is closed when its last request has ended.

It knows nothing of rails or of where policies come from (gateway/policy_follow.py, gateway/steps/versions.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    async def aclose(self) -> None: ...


G = TypeVar("G", bound=Closable)


class _Held(Generic[G]):
    """What a pointer points to, and how many requests use it."""

    __slots__ = ("guard", "retired", "uses")

    def __init__(self, guard: G) -> None:
        self.guard = guard
        self.uses = 0
        self.retired = False


class PolicyTable(Generic[G]):
    """The policies at work, by name. A request pins one for its whole life: no request sees half of a policy, none fails by a swap."""

    def __init__(self, guards: Mapping[str, G]) -> None:
        self._held = {name: _Held(guard) for name, guard in guards.items()}
        self._closing: set[asyncio.Task[None]] = set()

    def __getitem__(self, name: str) -> G:
        return self._held[name].guard

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def names(self) -> list[str]:
        return list(self._held)

    @contextmanager
    def pinned(self, name: str | None) -> Iterator[G | None]:
        """The policy of this name as it is now; None where there is none."""
        held = self._held.get(name) if name is not None else None
        if held is None:
            yield None
            return
        held.uses += 1
        try:
            yield held.guard
        finally:
            held.uses -= 1
            if held.retired and not held.uses:
                self._close(held)

    def swap(self, name: str, guard: G) -> None:
        """From here on requests pin the new one; those under way keep the old."""
        old = self._held.get(name)
        self._held[name] = _Held(guard)
        if old is not None:
            old.retired = True
            if not old.uses:
                self._close(old)

    async def aclose(self) -> None:
        await asyncio.gather(*(held.guard.aclose() for held in self._held.values()), *self._closing)

    def _close(self, held: _Held[G]) -> None:
        task = asyncio.ensure_future(held.guard.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
