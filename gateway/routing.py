"""Which deployment answers, and what happens when it fails: weights, one attempt after another, one deadline.

It knows deployments and faults, not texts, keys or HTTP. A failure after the first chunk is final: bytes may already have left.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from gateway.errors import Forbidden, ModelNotFound, UpstreamError, UpstreamTimeout
from gateway.types import Caller, ChatRequest, Chunk, Deployment, Endpoint, Json, Route


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
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        http: Backend,
        hosted: Backend | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random,
    ) -> None:
        self.routes = routes
        self._http = http
        self._hosted = hosted
        self._clock = clock
        self._rng = rng

    def find(self, caller: Caller, model: str) -> Route:
        """Raises: ModelNotFound, or Forbidden when this key may not use the model."""
        route = self.routes.get(model)
        if route is None:
            raise ModelNotFound("No such model here; GET /v1/models lists those there are.", param="model")
        if not caller.may_use(model):
            raise Forbidden("This key may not use this model.", param="model", code="model_not_allowed")
        return route

    async def call(self, route: Route, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The chunks of one answer. Another deployment is tried only before the first chunk, and only within the deadline.

        Raises: the last UpstreamError.
        """
        record = request.record
        failed: UpstreamError | None = None
        for deployment in self._order(route):
            left_s = request.deadline - self._clock()
            if left_s <= 0:
                break
            record.attempts += 1
            record.deployment, record.upstream_model = deployment.name, deployment.model or deployment.provider
            headers = {
                "traceparent": f"00-{record.trace_id.hex()}-{record.span_id.hex()}-{'01' if record.sampled else '00'}"
            }
            backend = self._http if not deployment.provider else self._hosted
            if backend is None:
                raise RuntimeError(f"deployment {deployment.name} needs a hosted provider, and none was built")
            begun = False
            try:
                chunks = backend.call(
                    deployment, request.endpoint, request.body, stream=request.stream, timeout_s=left_s, headers=headers
                )
                async with aclosing(chunks):
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except UpstreamError as error:
                if begun or not error.retryable:
                    raise
                failed = error
        raise failed or UpstreamTimeout("The request's deadline passed before a model could be asked.")

    def _order(self, route: Route) -> list[Deployment]:
        """Deployments by weighted chance without replacement, at most ``route.attempts`` of them; weight 0 is only a last resort."""
        if len(route.deployments) == 1:
            return list(route.deployments)
        # Efraimidis and Spirakis (2006), algorithm A: sorting by u^(1/w) draws without replacement in proportion to w.
        keyed = [(self._rng.random() ** (1 / d.weight) if d.weight > 0 else -1.0, d) for d in route.deployments]
        keyed.sort(key=lambda pair: pair[0], reverse=True)
        return [deployment for _, deployment in keyed[: route.attempts]]
