"""The model that rails ask (self-checks and the like): one of this gateway's models, by its deployments, within a budget of its own.

It goes straight to routing: no key, no policy, no rail on the way, so a rail can never set off another. Fails closed by raising: the rail did
not run, and its fail mode decides. What is asked is redacted text, and neither it nor the answer is logged or recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from gateway.policy_settings import GuardModelSettings
from gateway.routing import Router
from gateway.types import ChatRequest, Record
from gateway.wire.replies import read_usage
from gateway.wire.texts import chunk_texts


class GuardModelUnavailable(Exception):
    """Nobody was asked: no router yet, or the budget of this minute is spent."""


class GuardModel:
    """Asks the model of the settings. ``router`` is set once there is one. ``clock`` counts seconds, monotonically."""

    def __init__(self, settings: GuardModelSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._left = float(settings.tokens_per_minute)
        self._filled = clock()
        self.router: Router | None = None
        self.tokens = 0

    async def ask(self, messages: Sequence[dict[str, str]], most: int) -> str:
        """The answer's words. Raises: GuardModelUnavailable, or an error of gateway/errors.py."""
        if self.router is None:
            raise GuardModelUnavailable("the gateway is still starting")
        wanted = sum(len(message["content"]) for message in messages) // 4 + most
        self._spend(wanted)
        route = self.router.routes[self._settings.model]
        body: dict[str, Any] = {
            "model": route.model,
            "messages": list(messages),
            "max_tokens": most,
            "temperature": 0,
        }
        record = Record("guard-model", b"", b"", b"", time.time_ns(), "chat", model=route.model, route=route.model)
        request = ChatRequest("chat", route.model, body, False, False, record, self._clock() + self._settings.timeout_s)
        said: list[str] = []
        used = wanted
        async with aclosing(self.router.call(route, request)) as chunks:
            async for chunk in chunks:
                usage = read_usage(chunk)
                used = usage.total_tokens if usage is not None else used
                said += [holder[key] for (_, field, _), holder, key in chunk_texts(chunk) if field == "content"]
        self.tokens += used
        self._left += wanted - used
        return "".join(said)

    def _spend(self, tokens: int) -> None:
        now = self._clock()
        budget = self._settings.tokens_per_minute
        self._left = min(float(budget), self._left + (now - self._filled) * budget / 60)
        self._filled = now
        if tokens > self._left:
            raise GuardModelUnavailable(f"the rails' budget of {budget} tokens a minute is spent")
        self._left -= tokens
