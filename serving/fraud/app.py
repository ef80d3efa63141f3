"""The fraud service as a process of its own: routes over a FraudScorer and its gauges, on loopback, behind the gateway.

It has no keys or limits of its own: the gateway's stand in front. Errors have OpenAI's shape, so that the gateway may
pass them on. Knows nothing of the gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from serving.fraud.build import build_scorer
from serving.fraud.gauges import exposition
from serving.fraud.journal import JournalUnavailable
from serving.fraud.keeper import Keeper
from serving.fraud.score import FraudScorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import StoreUnavailable
from serving.fraud.types import InvalidTransaction, UnknownTransaction, parse_label, parse_transaction

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LARGEST_BODY = 1 << 20
_DECISIONS = "/v1/fraud/decisions/"
_RISKS = (
    "/risks/"  # for the gateway, which asks for the risk of a customer or call: not among the routes that it offers
)
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
encode_json = msgspec.json.Encoder().encode


class FraudApp:
    """The ASGI application. `open_store` gives an async context manager over a FeatureStore, entered at start.

    Routes are dispatched on the path, without a framework: with FastAPI a score cost 0.25 ms more (2026-11-25).
    """

    def __init__(self, settings: FraudSettings, open_store: Callable[[], Any], clock: Callable[[], float]) -> None:
        self._settings, self._open_store, self._clock = settings, open_store, clock
        self._scorer: FraudScorer | None = None
        self._keeper: Keeper | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            kind = b"application/json"
            if scope["path"] == "/metrics" and self._keeper is not None:
                status, data, kind = 200, exposition(self._keeper.gauges()), _METRICS_TYPE
            else:
                status, body = await self._answer(scope["method"], scope["path"], receive)
                data = encode_json(body)
            headers = [(b"content-type", kind), (b"content-length", b"%d" % len(data))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": data})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From here to the end of the block it can score."""
        async with self._open_store() as store:
            scorer = self._scorer = await build_scorer(self._settings, store, self._clock)
            keeper = self._keeper = Keeper(self._settings, scorer)
            keeper.start()
            try:
                yield
            finally:
                await keeper.aclose()
                await scorer.aclose()
                self._scorer = self._keeper = None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except ValueError as error:  # a model that cannot be served, or a store that cannot be opened
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, method: str, path: str, receive: Receive) -> tuple[int, dict[str, object]]:
        scorer = self._scorer
        if scorer is None:
            return 503, _error("the fraud service is not up", "server_error", "unavailable", None)
        wanted = "GET" if path.startswith((_DECISIONS, _RISKS, "/health/")) else "POST"
        if method != wanted:
            return 405, _error(f"use {wanted} here", "invalid_request_error", "wrong_method", None)
        try:
            if path == "/v1/fraud/score":
                found = parse_transaction(await _body(receive))
                if isinstance(found, list):
                    return 200, {"object": "list", "data": [one.to_dict() for one in await scorer.score_batch(found)]}
                return 200, (await scorer.score(found)).to_dict()
            if path == "/v1/fraud/labels":
                labels = parse_label(await _body(receive))
                await scorer.label_batch(labels)
                return 200, {"object": "fraud.labels", "accepted": len(labels)}
            if path.startswith(_DECISIONS):
                if (decision := await scorer.find(path.removeprefix(_DECISIONS))) is None:
                    raise UnknownTransaction
                return 200, decision.to_dict()
            if path.startswith(_RISKS):
                score, outcome = await scorer.risk_of(path.removeprefix(_RISKS)) or (None, None)
                return 200, {"object": "fraud.risk", "score": score, "decision": outcome}
        except _FAILURES as error:
            return describe_failure(error)
        if path == "/health/ready":
            return 200, {"status": "ok", "waiting": scorer.waiting}
        return 404, _error("there is nothing at this address", "invalid_request_error", "not_found", None)


_FAILURES = (InvalidTransaction, UnknownTransaction, StoreUnavailable, JournalUnavailable)


def describe_failure(error: Exception) -> tuple[int, dict[str, object]]:
    """A status and OpenAI's error body."""
    if isinstance(error, InvalidTransaction):
        return 400, _error(error.message, "invalid_request_error", "invalid_transaction", error.path or None)
    if isinstance(error, UnknownTransaction):
        return 404, _error(str(error), "invalid_request_error", "unknown_transaction", error.path)
    return 503, _error("the fraud service cannot answer now; try again", "server_error", "unavailable", None)


def _error(message: str, kind: str, code: str, param: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


async def _body(receive: Receive) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > _LARGEST_BODY:
            raise InvalidTransaction("", f"the body is larger than {_LARGEST_BODY} bytes")
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def run(settings: FraudSettings, redis_url: str, host: str, port: int) -> None:
    """Serves until interrupted."""
    import uvicorn

    from serving.fraud.stores import open_store

    app = FraudApp(settings, lambda: open_store(redis_url, settings), time.time)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, proxy_headers=False)


if __name__ == "__main__":
    from serving.fraud.cli import app as command

    command(["serve", *sys.argv[1:]])
