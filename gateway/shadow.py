"""Copies of requests to a second deployment whose answers nobody sees: read to their end, timed, thrown away.

It can never touch the caller: copies run beside the request, a few at once, and are dropped when there are too many. Fails open.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway.errors import CallgateError
from gateway.types import ChatRequest, Deployment

if TYPE_CHECKING:
    from gateway.routing import Backend

MOST_AT_ONCE = 16


class Shadow:
    """``outcomes`` counts copies by deployment and end: answered, failed, dropped."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def send(self, backend: Backend, deployment: Deployment, request: ChatRequest, timeout_s: float) -> None:
        """Begins a copy and returns at once. Only redacted text is copied, since only that has reached this point."""
        if len(self._running) >= MOST_AT_ONCE:
            self.outcomes[deployment.name, "dropped"] += 1
            return
        body = copy.deepcopy(request.body)
        task = asyncio.create_task(self._copy(backend, deployment, request.endpoint, body, request.stream, timeout_s))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _copy(
        self,
        backend: Backend,
        deployment: Deployment,
        endpoint: object,
        body: dict[str, object],
        stream: bool,
        timeout_s: float,
    ) -> None:
        outcome = "failed"
        try:
            chunks = backend.call(deployment, endpoint, body, stream=stream, timeout_s=timeout_s, headers={})  # type: ignore[arg-type]
            async with aclosing(chunks):
                async for _ in chunks:
                    pass
            outcome = "answered"
        except CallgateError:
            pass  # counted below: a shadow's failure is a finding, not a fault of the request
        finally:
            self.outcomes[deployment.name, outcome] += 1
