"""What this worker knows of every deployment: requests in flight, who waits, how fast it answers, its breaker, and whether it is alive.

It calls nobody but for the health checks, which cost no tokens. It does not choose (gateway/routing.py) or read answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

from gateway.breaker import Breaker
from gateway.errors import UpstreamBusy
from gateway.types import Deployment, Health

_SMOOTHING = 0.2
Probe = Callable[[Deployment], Awaitable[Health]]


class DeploymentState:
    """One deployment, as this worker sees it."""

    def __init__(self, deployment: Deployment, clock: Callable[[], float]) -> None:
        self.deployment = deployment
        self.breaker = Breaker(clock)
        self.in_flight = 0
        self.latency_s = 0.0
        self.cool_until = 0.0
        self.alive: bool | None = None
        self.said = Health(True)
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def load(self) -> float:
        """Requests at the backend or waiting for it: those of this worker, or what the backend says of all, whichever is more."""
        return float(max(self.in_flight + self.waiting, self.said.running + self.said.waiting))

    def usable(self) -> bool:
        """Not known to be down or over its own limit; the breaker is asked at the call itself."""
        return self.alive is not False and self._clock() >= self.cool_until

    def cool(self, seconds: float) -> None:
        """The backend said to come back later."""
        self.cool_until = max(self.cool_until, self._clock() + seconds)

    def answered(self, seconds: float) -> None:
        """Its first byte came after this long."""
        self.latency_s = seconds if not self.latency_s else self.latency_s + _SMOOTHING * (seconds - self.latency_s)

    async def enter(self) -> None:
        """Takes one of its places, waited for in a short queue when it has a cap; ``leave`` gives it back. Raises: UpstreamBusy."""
        cap = self.deployment.max_concurrency
        if cap is None or self.in_flight < cap:
            self.in_flight += 1
            return
        if len(self._queue) >= self.deployment.max_queue:
            raise UpstreamBusy("The model is busy; try again soon.", retry_after_s=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self.deployment.queue_timeout_s):
                await turn  # whoever leaves hands its place over, so in_flight already counts it
        except TimeoutError:
            raise UpstreamBusy("The model is busy; try again soon.", retry_after_s=1.0) from None
        finally:
            if not turn.done() or turn.cancelled():
                self._forget(turn)
            elif asyncio.current_task() is not None and _cancelling():
                self.leave()  # its place came and its caller went at the same moment

    def _forget(self, turn: asyncio.Future[None]) -> None:
        if turn in self._queue:
            self._queue.remove(turn)

    def leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Fleet:
    """The states of all deployments by name. ``watch`` begins the health checks, ``aclose`` ends them."""

    def __init__(self, deployments: Iterable[Deployment], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, DeploymentState] = {}
        self._watcher: asyncio.Task[None] | None = None
        self.replace(deployments)

    def replace(self, deployments: Iterable[Deployment]) -> None:
        """A new table: what is known of deployments that stay is kept."""
        old = self._states
        self._states = {}
        for deployment in deployments:
            state = old.get(deployment.name)
            if state is None:
                state = DeploymentState(deployment, self._clock)
            state.deployment = deployment
            self._states[deployment.name] = state

    def __getitem__(self, deployment: Deployment) -> DeploymentState:
        state = self._states.get(deployment.name)
        if state is None:  # of a table that was just replaced, still being tried by an older request
            state = DeploymentState(deployment, self._clock)
        return state

    def __iter__(self) -> Iterator[DeploymentState]:
        return iter(list(self._states.values()))

    def watch(self, probe: Probe, interval_s: float) -> None:
        self._watcher = asyncio.create_task(self._watch(probe, interval_s))

    async def check(self, probe: Probe) -> None:
        """Asks every backend once whether it is alive."""
        states = [state for state in self._states.values() if not state.deployment.provider]
        alive = await asyncio.gather(*(probe(state.deployment) for state in states))
        for state, answer in zip(states, alive, strict=True):
            state.alive, state.said = answer.alive, answer

    async def aclose(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch(self, probe: Probe, interval_s: float) -> None:
        while True:
            await self.check(probe)
            await asyncio.sleep(interval_s)
