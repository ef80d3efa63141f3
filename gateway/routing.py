"""Which deployment answers, and what happens when it fails: an order, attempts within one deadline, fallbacks by reason.

It knows deployments and faults, not texts, keys or HTTP. A failure after the first chunk is final: bytes may already have left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Protocol

from gateway import balance, vllm
from gateway.breaker import RetryBudget
from gateway.errors import (
    CallgateError,
    Forbidden,
    ModelNotFound,
    UpstreamBusy,
    UpstreamCut,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.fleet import DeploymentState, Fleet
from gateway.shadow import Shadow
from gateway.types import Caller, ChatRequest, Chunk, Deployment, Endpoint, Json, Route

BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 2.0


class Backend(Protocol):
    def call(
        self,
        deployment: Deployment,
        endpoint: Endpoint,
        body: Json,
        *,
        stream: bool,
        timeout_s: float,
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Chunk]: ...


class Router:
    """The table of routes and the way to their backends.

    ``http`` serves deployments with a base URL, ``hosted`` those with a provider string; ``hosted`` may be None when there are none.
    ``retry_share``: retries for each request, at most. ``sleep`` waits between two attempts at one backend.
    ``shares``: what share of its calls a model's candidate answers now, by the names of both (gateway/rollouts.py); none: not one.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        http: Backend,
        hosted: Backend | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random,
        retry_share: float = 0.2,
        sleep: Callable[[float], object] = asyncio.sleep,
    ) -> None:
        self.routes = routes
        self.shares: Mapping[tuple[str, str], float] = {}
        self.fleet = Fleet(deployments_of(routes), clock)
        self.shadow = Shadow()
        self._http = http
        self._hosted = hosted
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._budget = RetryBudget(retry_share)

    def replace(self, routes: Mapping[str, Route]) -> None:
        """Puts a new table in place, whole: requests that began keep the route they were given."""
        self.fleet.replace(deployments_of(routes))
        self.routes = routes

    def find(self, caller: Caller, model: str) -> Route:
        """Raises: ModelNotFound, or Forbidden when this key may not use the model."""
        route = self.routes.get(model)
        if route is None:
            raise ModelNotFound("No such model here; GET /v1/models lists those there are.", param="model")
        if not caller.may_use(model):
            raise Forbidden("This key may not use this model.", param="model", code="model_not_allowed")
        return route

    async def call(self, route: Route, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The chunks of one answer. Something else is tried only before the first chunk, and only within the deadline.

        Raises: the last UpstreamError.
        """
        self._budget.earn()
        if route.shadow is not None and self._rng.random() < route.shadow_share:
            self.shadow.send(self._backend(route.shadow), route.shadow, request, route.deadline_s)
        tried = {route.model}
        current = route
        while True:
            begun = False
            try:
                async with aclosing(self._attempts(current, request)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except UpstreamError as error:
                fallback = None if begun else self._fallback(current, error, tried)
                if fallback is None:
                    raise
                tried.add(fallback.model)
                request.record.fallbacks.append(f"{_reason(error)}:{fallback.model}")
                current = fallback

    async def _attempts(self, route: Route, request: ChatRequest) -> AsyncGenerator[Chunk]:
        order = self._order(route, request)
        failed: UpstreamError | None = None
        last: Deployment | None = None
        for number in range(route.attempts):
            deployment = order[number % len(order)]
            state = self.fleet[deployment]
            if failed is not None and not await self._may_retry(failed, request, same=deployment is last):
                break
            if request.deadline - self._clock() <= 0:
                break
            if not state.breaker.allow():
                wait_s = state.breaker.opens_in_s
                failed = failed or UpstreamUnavailable("The model is not available.", retry_after_s=wait_s or 1.0)
                continue
            begun = False
            last = deployment
            rivals = order[number + 1 :] if route.hedge_after_s is not None else []
            attempt = (
                self._race(route.hedge_after_s or 0.0, request, state, rivals) if rivals else self._ask(state, request)
            )
            try:
                async with aclosing(attempt) as chunks:
                    async for chunk in chunks:
                        if (
                            not begun
                            and request.record.sticky_to
                            and request.record.deployment != request.record.sticky_to
                        ):
                            request.record.moved = True
                        begun = True
                        yield chunk
                return
            except UpstreamError as error:
                if begun or not error.retryable:
                    raise
                failed = error
        raise failed or UpstreamTimeout("The request's deadline passed before a model could be asked.")

    async def _race(
        self, patience_s: float, request: ChatRequest, state: DeploymentState, rivals: list[Deployment]
    ) -> AsyncGenerator[Chunk]:
        """Hedging: a second deployment joins when the first is slow to begin, and the first to begin wins."""
        racers = [self._ask(state, request)]
        heads = {asyncio.ensure_future(anext(racers[0])): racers[0]}
        try:
            done, _ = await asyncio.wait(heads, timeout=patience_s)
            rival = self.fleet[rivals[0]]
            if not done and self._budget.spend() and rival.breaker.allow():
                racers.append(self._ask(rival, request))
                heads[asyncio.ensure_future(anext(racers[1]))] = racers[1]
            winner, chunk = await _first(heads)
            request.record.deployment = winner_name(request, heads, winner, state, rival)
            yield chunk
            async for chunk in winner:
                yield chunk
        finally:
            for head in heads:
                head.cancel()
            await asyncio.gather(*heads, return_exceptions=True)
            for racer in racers:
                await racer.aclose()

    async def _ask(self, state: DeploymentState, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """One call of one deployment, and what it teaches about it."""
        deployment, record = state.deployment, request.record
        record.attempts += 1
        record.deployment, record.upstream_model = deployment.name, deployment.model or deployment.provider
        record.arm = deployment.arm or deployment.name
        traced = "01" if record.sampled else "00"
        headers = {"traceparent": f"00-{record.trace_id.hex()}-{record.span_id.hex()}-{traced}"}
        told = entered = False
        try:
            await state.enter()
            entered = True
            begun_s = self._clock()
            body = request.body
            if deployment.engine == "vllm":
                body = {**body, **vllm.fields(deployment, record.key_id)}
            chunks = self._backend(deployment).call(
                deployment,
                request.endpoint,
                body,
                stream=request.stream,
                timeout_s=max(0.001, request.deadline - begun_s),
                headers=headers,
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    if not told:
                        told = True
                        state.answered(self._clock() - begun_s)
                        state.breaker.succeeded()
                    yield chunk
        except UpstreamError as error:
            told = True
            _learn(state, error)
            raise
        finally:
            if entered:
                state.leave()
            if not told:
                state.breaker.abandoned()

    def _backend(self, deployment: Deployment) -> Backend:
        backend = self._http if not deployment.provider else self._hosted
        if backend is None:
            raise RuntimeError(f"deployment {deployment.name} needs a hosted provider, and none was built")
        return backend

    async def _may_retry(self, failed: UpstreamError, request: ChatRequest, *, same: bool) -> bool:
        """Whether the budget has one more; before the same backend is asked again, a wait with full jitter."""
        if not self._budget.spend():
            return False
        if not same:
            return True
        most_s = min(LONGEST_BACKOFF_S, BACKOFF_S * 2**request.record.attempts)
        wait_s = max(failed.retry_after_s or 0.0, self._rng.uniform(0, most_s))
        if wait_s >= request.deadline - self._clock() or wait_s > LONGEST_BACKOFF_S:
            return False
        waited = self._sleep(wait_s)
        if asyncio.iscoroutine(waited):
            await waited
        return True

    def _fallback(self, route: Route, error: UpstreamError, tried: set[str]) -> Route | None:
        for name in route.fallbacks.get(_reason(error), ()):
            if name not in tried and name in self.routes:
                return self.routes[name]
        return None

    def _order(self, route: Route, request: ChatRequest) -> list[Deployment]:
        """The deployments of a route as they will be tried; those that are down or cooling come last."""
        candidate = route.candidate
        if candidate is not None and (share := self.share(route)) > 0:
            return self._split(route, candidate, share, request)
        return self._order_of(route, request)

    def share(self, route: Route) -> float:
        """Of this model's calls, the share that its candidate answers now."""
        return self.shares.get((route.model, route.candidate.name), 0.0) if route.candidate is not None else 0.0

    def _split(self, route: Route, candidate: Deployment, share: float, request: ChatRequest) -> list[Deployment]:
        """Both arms of a rollout, the one that the request is given first, the other one behind it in case that fails."""
        call_id = request.record.call_id
        key = f"{candidate.name}/{call_id}".encode() if route.sticky and call_id else None
        others = self._order_of(route, request)
        to_candidate = (balance.place(key) if key is not None else self._rng.random()) < share
        order = [candidate, *others] if to_candidate else [*others, candidate]
        if not request.record.fallbacks:  # what a model is asked in another one's stead is no call of its own rollout
            request.record.assigned = order[0].arm or order[0].name
        if key is not None:
            request.record.sticky_to = order[0].name
        order.sort(key=self._is_down)
        return order

    def _order_of(self, route: Route, request: ChatRequest) -> list[Deployment]:
        if len(route.deployments) == 1:
            return list(route.deployments)
        call_id = request.record.call_id
        if route.sticky and call_id:
            order = balance.sticky(route.deployments, call_id.encode())
            request.record.sticky_to = order[0].name
        elif route.strategy == "least_busy":
            order = balance.least_busy(route.deployments, self._load, self._rng)
        elif route.strategy == "fastest":
            order = balance.fastest(route.deployments, lambda d: self.fleet[d].latency_s, self._load, self._rng)
        elif route.strategy == "prefix":
            order = balance.sticky(route.deployments, balance.prefix_key(request.body))
            order = balance.with_bounded_load(order, self._load)
        else:
            order = balance.weighted(route.deployments, self._rng)
        # A stable sort: usable ones keep their order before those that are open, cooling or down.
        order.sort(key=self._is_down)
        return order

    def _is_down(self, deployment: Deployment) -> bool:
        state = self.fleet[deployment]
        return not state.usable() or state.breaker.state == "open"

    def _load(self, deployment: Deployment) -> float:
        return self.fleet[deployment].load


def deployments_of(routes: Mapping[str, Route]) -> Iterable[Deployment]:
    return [d for route in routes.values() for d in (*route.deployments, route.candidate) if d is not None]


def winner_name(
    request: ChatRequest,
    heads: Mapping[asyncio.Task[Chunk], AsyncGenerator[Chunk]],
    winner: AsyncGenerator[Chunk],
    first: DeploymentState,
    second: DeploymentState,
) -> str:
    """The name of the deployment whose answer won, also on the record's arm."""
    won = first if winner is next(iter(heads.values())) else second
    request.record.upstream_model = won.deployment.model or won.deployment.provider
    request.record.arm = won.deployment.arm or won.deployment.name
    return won.deployment.name


async def _first(
    heads: Mapping[asyncio.Task[Chunk], AsyncGenerator[Chunk]],
) -> tuple[AsyncGenerator[Chunk], Chunk]:
    """The racer that begins first, and its first chunk. Raises: the last fault when all fail."""
    left = set(heads)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for head in done:
            if head.exception() is None:
                return heads[head], head.result()
        if not left:
            raise next(error for head in heads if (error := head.exception()) is not None)


def _learn(state: DeploymentState, error: UpstreamError) -> None:
    """What a fault says of the backend: a refusal or a full queue of our own says nothing against it."""
    if isinstance(error, UpstreamRateLimited):
        state.cool(min(60.0, error.retry_after_s or 1.0))
        state.breaker.abandoned()
    elif isinstance(error, UpstreamBusy):
        state.breaker.abandoned()
    elif isinstance(error, UpstreamRejected):
        state.breaker.succeeded()
    else:
        state.breaker.failed()


def _reason(error: CallgateError) -> str:
    """The reason under which a fallback is configured."""
    if isinstance(error, (UpstreamRateLimited, UpstreamBusy)):
        return "rate_limit"
    code = error.code_now
    if code == "context_length_exceeded":
        return "context_length"
    if code in ("content_filter", "content_policy_violation"):
        return "content_filter"
    return "rejected" if isinstance(error, (UpstreamRejected, UpstreamCut)) else "outage"
