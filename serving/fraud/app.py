"""The fraud service as a process of its own: three routes over a FraudScorer, on loopback, behind the gateway.

It has no keys or limits of its own: the gateway's stand in front. Errors have OpenAI's shape, so that the gateway may
pass them on. Knows nothing of the gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from serving.fraud.journal import JournalUnavailable
from serving.fraud.score import FraudScorer, build_scorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import FeatureStore, StoreUnavailable
from serving.fraud.types import InvalidTransaction, UnknownTransaction, parse_label, parse_transaction

_LARGEST_BODY = 1 << 20


def build_app(settings: FraudSettings, open_store: Callable[[], Any], clock: Callable[[], float]) -> FastAPI:
    """The FastAPI application. `open_store` gives an async context manager over a FeatureStore, entered at start."""
    scorers: list[FraudScorer] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with open_store() as store:
            scorers.append(await build_scorer(settings, store, clock))
            try:
                yield
            finally:
                await scorers.pop().aclose()

    app = FastAPI(title="Callgate fraud", lifespan=lifespan)

    @app.post("/v1/fraud/score")
    async def score(request: Request) -> Response:
        try:
            found = parse_transaction(await _body(request))
            if isinstance(found, list):
                decisions = await scorers[0].score_batch(found)
                return JSONResponse({"object": "list", "data": [one.to_dict() for one in decisions]})
            return JSONResponse((await scorers[0].score(found)).to_dict())
        except _FAILURES as error:
            return JSONResponse(*describe_failure(error))

    @app.post("/v1/fraud/labels")
    async def label(request: Request) -> Response:
        try:
            labels = parse_label(await _body(request))
            for one in labels:
                await scorers[0].label(one)
            return JSONResponse({"object": "fraud.labels", "accepted": len(labels)})
        except _FAILURES as error:
            return JSONResponse(*describe_failure(error))

    @app.get("/v1/fraud/decisions/{transaction_id}")
    async def find(transaction_id: str) -> Response:
        try:
            decision = await scorers[0].find(transaction_id)
            if decision is None:
                raise UnknownTransaction
            return JSONResponse(decision.to_dict())
        except _FAILURES as error:
            return JSONResponse(*describe_failure(error))

    @app.get("/health/ready")
    async def ready() -> dict[str, object]:
        return {"status": "ok", "waiting": scorers[0].waiting}

    return app


_FAILURES = (InvalidTransaction, UnknownTransaction, StoreUnavailable, JournalUnavailable)


def describe_failure(error: Exception) -> tuple[dict[str, object], int]:
    """OpenAI's error body and a status."""
    if isinstance(error, InvalidTransaction):
        return _error(error.message, "invalid_request_error", "invalid_transaction", error.path or None), 400
    if isinstance(error, UnknownTransaction):
        return _error(str(error), "invalid_request_error", "unknown_transaction", "transaction_id"), 404
    return _error("the fraud service cannot answer now; try again", "server_error", "unavailable", None), 503


def _error(message: str, kind: str, code: str, param: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise InvalidTransaction("", f"the body is larger than {_LARGEST_BODY} bytes")
    return bytes(body)


def run(settings: FraudSettings, redis_url: str, host: str, port: int) -> None:
    """Serves until interrupted."""
    import uvicorn

    from serving.fraud.store import open_redis

    @asynccontextmanager
    async def open_store() -> AsyncIterator[FeatureStore]:
        async with open_redis(redis_url, settings) as store:
            yield store

    uvicorn.run(build_app(settings, open_store, time.time), host=host, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    from serving.fraud.cli import app as command

    command(["serve", *sys.argv[1:]])
