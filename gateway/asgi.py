"""The hot routes: ASGI in, pipeline, ASGI out. Dispatched on ``scope["path"]`` ahead of FastAPI's router.

Here and only here errors become responses, a hang-up becomes a cancellation, and a finished request becomes a log line, metrics and a
trace. A raw ASGI callable costs 0.13 ms a request with its upstream call, Starlette's router 0.23, FastAPI with Pydantic 3.3 (2026-11).
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Literal, Protocol

import structlog

from gateway.errors import BadRequest, CallgateError, NotFound, TooLarge, Unauthenticated, WrongMethod
from gateway.exchange import Exchange, Ids, Receive, Scope, Send
from gateway.metrics import Metrics
from gateway.pipeline import Call, Embedder, Pipeline, headers_of
from gateway.request_log import RequestLog
from gateway.routing import Router
from gateway.telemetry import TraceExporter
from gateway.types import Chunk, Endpoint, Json, Record
from gateway.wire.replies import ChunkWriter, Writer
from gateway.wire.responses_out import ResponseWriter
from gateway.wire.sse import encode_body

App = Callable[[Scope, Receive, Send], Awaitable[None]]

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
WATCH_AFTER_S = (
    0.03  # a hang-up is looked for from here on: a task for every request costs 20 microseconds, this timer 2
)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?\Z")
_Handler = Callable[[Exchange], Awaitable[None]]


class Recorder(Protocol):
    """Who keeps requests for replay (gateway/recorder.py)."""

    def submit(self, record: Record) -> None: ...


class Scorer(Protocol):
    """Fraud scoring as the gateway serves it (gateway/steps/fraud.py)."""

    async def handle(self, path: str, raw: bytes, record: Record) -> Json: ...


class HotRoutes:
    """An ASGI application for the routes that matter, and a door to ``cold`` for all the others."""

    def __init__(
        self,
        pipeline: Pipeline,
        router: Router,
        cold: App,
        exporter: TraceExporter,
        metrics: Metrics,
        *,
        embedder: Embedder | None,
        embedding_model: str,
        fraud: Scorer | None,
        recorder: Recorder | None = None,
        max_body_bytes: int,
        request_log: RequestLog | None,
        sample: float = 1.0,
    ) -> None:
        self._pipeline = pipeline
        self._router = router
        self._cold = cold
        self._exporter = exporter
        self._metrics = metrics
        self._embedder = embedder
        self._embedding_model = embedding_model
        self._fraud = fraud
        self._recorder = recorder
        self._max_body_bytes = max_body_bytes
        self._request_log = request_log
        self._loop = asyncio.get_running_loop()
        self._ids = Ids(sample)
        self._log = structlog.get_logger("request")
        self._hot: dict[str, tuple[str, str, _Handler]] = {
            "/v1/chat/completions": ("POST", "chat", self._chat),
            "/v1/completions": ("POST", "completion", self._completion),
            "/v1/responses": ("POST", "responses", self._responses),
            "/v1/embeddings": ("POST", "embeddings", self._embeddings),
            "/v1/redact": ("POST", "redact", self._redact),
            "/v1/models": ("GET", "models", self._models),
            "/v1/fraud/score": ("POST", "fraud", self._score),
            "/v1/fraud/labels": ("POST", "fraud", self._score),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        path: str = scope["path"]
        found = self._hot.get(path)
        if found is None and path.startswith("/v1/fraud/decisions/"):
            found = ("GET", "fraud", self._score)
        if found is None and path.startswith("/v1/models/"):
            found = ("GET", "models", self._model)
        exchange = Exchange(scope, receive, send, self._ids)
        if found is None:
            if _HOST.match(exchange.header(b"host") or b"localhost") is None:
                await self._fail(exchange, BadRequest("The Host header is malformed.", code="invalid_host"))
                return
            await self._cold(scope, receive, send)
            return
        method, exchange.record.endpoint, handler = found
        await self._serve(exchange, method, handler)

    async def _serve(self, exchange: Exchange, method: str, handler: _Handler) -> None:
        """One hot request, from its first byte to its record."""
        self._metrics.in_flight += 1
        watch: asyncio.TimerHandle | None = None
        try:
            if scope_method(exchange.scope) != method:
                raise WrongMethod(f"Use {method} here.")
            if _HOST.match(exchange.header(b"host") or b"localhost") is None:
                raise BadRequest("The Host header is malformed.", code="invalid_host")
            exchange.raw = await exchange.read(self._max_body_bytes) if method == "POST" else b""
            work = asyncio.current_task()
            watch = self._loop.call_later(WATCH_AFTER_S, exchange.watch_soon, work)
            await handler(exchange)
        except CallgateError as error:
            await self._fail(exchange, error)
        except asyncio.CancelledError:
            if not exchange.hung_up:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            exchange.record.status, exchange.record.error_code = 499, "client_hung_up"
        except Exception:  # noqa: BLE001
            # The one broad handler: an unknown fault is told by its request id only, and logged with its traceback, never with values.
            self._log.exception("unexpected", request_id=exchange.record.request_id)
            await self._fail(exchange, CallgateError(f"Internal error; quote request id {exchange.record.request_id}."))
        finally:
            if watch is not None:
                watch.cancel()
            if exchange.watcher is not None:
                exchange.watcher.cancel()
            self._metrics.in_flight -= 1
            self._finish(exchange.record)

    def _finish(self, record: Record) -> None:
        record.ended_ns = time.time_ns()
        record.sampled = (
            record.sampled or bool(record.error_code) or any(rail.outcome != "pass" for rail in record.rails)
        )
        self._metrics.observe(record)
        self._exporter.submit(record)
        if self._recorder is not None:
            self._recorder.submit(record)
        if self._request_log is not None:
            self._request_log.add(record)

    async def _chat(self, exchange: Exchange) -> None:
        await self._answer(exchange, "chat")

    async def _completion(self, exchange: Exchange) -> None:
        await self._answer(exchange, "completion")

    async def _responses(self, exchange: Exchange) -> None:
        await self._answer(exchange, "responses")

    async def _answer(self, exchange: Exchange, endpoint: Endpoint | Literal["responses"]) -> None:
        record = exchange.record
        call = Call(exchange.header(b"authorization"), exchange.raw, record)
        control = exchange.header(b"cache-control")
        call.fresh = control is not None and (b"no-cache" in control or b"no-store" in control)
        exchange.call = call
        whole: list[Chunk] = []
        writer: Writer | None = None
        async with aclosing(self._pipeline.answer(endpoint, call)) as chunks:
            async for chunk in chunks:
                if not record.stream:
                    whole.append(chunk)
                    continue
                if writer is None:
                    writer = exchange.writer = _writer(call)
                    await exchange.start(200, [*STREAM_HEADERS, *headers_of(record), *call.headers])
                    await exchange.send_piece(writer.begin() + writer.feed(chunk))
                    continue
                await exchange.send_piece(writer.feed(chunk))
        writer = writer or _writer(call)
        if not record.stream:
            response = writer.whole(whole, record.usage)
            await exchange.respond(200, encode_body(response), [*headers_of(record), *call.headers])
            return
        await exchange.end(writer.end(record.usage))

    async def _embeddings(self, exchange: Exchange) -> None:
        call = Call(exchange.header(b"authorization"), exchange.raw, exchange.record)
        exchange.call = call
        made = await self._pipeline.embed(call, self._embedding_model, self._embedder) if self._embedder else None
        if made is None:
            await self._answer(exchange, "embedding")
            return
        wanted, vectors = made
        coded = wanted.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(v.tobytes()).decode() if coded else v.tolist(),
            }
            for i, v in enumerate(vectors)
        ]
        used = max(1, len(exchange.raw) // 4)
        body = {
            "object": "list",
            "data": data,
            "model": wanted.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
        await exchange.respond(200, encode_body(body), [*headers_of(exchange.record), *call.headers])

    async def _redact(self, exchange: Exchange) -> None:
        call = exchange.call = Call(exchange.header(b"authorization"), exchange.raw, exchange.record)
        body = await self._pipeline.redact(call)
        await exchange.respond(200, encode_body(body), [*headers_of(exchange.record), *call.headers])

    async def _models(self, exchange: Exchange) -> None:
        await self._list_models(exchange, None)

    async def _model(self, exchange: Exchange) -> None:
        await self._list_models(exchange, exchange.scope["path"].removeprefix("/v1/models/"))

    async def _list_models(self, exchange: Exchange, name: str | None) -> None:
        call = Call(exchange.header(b"authorization"), b"", exchange.record)
        exchange.call = call
        caller = await self._pipeline.authenticate(call)
        names = [model for model in self._router.routes if caller.may_use(model)]
        if self._embedder is not None:
            names.append(self._embedding_model)
        listed = [{"id": model, "object": "model", "created": 0, "owned_by": "callgate"} for model in names]
        body: Json = {"object": "list", "data": listed}
        if name is not None:
            body = next((model for model in listed if model["id"] == name), {})
            if not body:
                raise NotFound(
                    "No such model here; GET /v1/models lists those there are.", param="model", code="model_not_found"
                )
        await exchange.respond(200, encode_body(body), headers_of(exchange.record))

    async def _score(self, exchange: Exchange) -> None:
        if self._fraud is None:
            raise NotFound("This gateway scores no transactions; set fraud.enabled.")
        call = Call(exchange.header(b"authorization"), exchange.raw, exchange.record)
        exchange.call = call
        await self._pipeline.admit(call)
        body = await self._fraud.handle(exchange.scope["path"], exchange.raw, exchange.record)
        await exchange.respond(200, encode_body(body), [*headers_of(exchange.record), *call.headers])

    async def _fail(self, exchange: Exchange, error: CallgateError) -> None:
        """The error as a response, or as the last event of a stream that has begun."""
        record = exchange.record
        record.error_code = error.code_now
        if exchange.started:
            record.status = record.status or error.status
            await exchange.end(exchange.writer.fail(error.body()) if exchange.writer else b"")
            return
        record.status = error.status
        earned = exchange.call.headers if exchange.call else []
        if isinstance(error, WrongMethod):
            earned = [*earned, (b"allow", b"POST" if scope_method(exchange.scope) == "GET" else b"GET")]
        if isinstance(error, (TooLarge, WrongMethod, Unauthenticated)) and not exchange.read_whole:
            earned = [*earned, (b"connection", b"close")]  # the rest of the body is not worth reading
        await exchange.respond(
            error.status, encode_body(error.body()), [*headers_of(record), *earned, *error.headers()]
        )


def scope_method(scope: Scope) -> str:
    method: str = scope["method"]
    return method


def _writer(call: Call) -> Writer:
    request = call.request
    if request is None:
        raise RuntimeError("an answer without a request")
    if call.asked is not None:
        created_s = call.record.started_ns // 1_000_000_000
        return ResponseWriter(call.asked, call.record.request_id, created_s, request.sources)
    return ChunkWriter(request.endpoint, request.include_usage, request.sources)
