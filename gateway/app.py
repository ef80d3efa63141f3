"""The one place that builds things: settings in, a wired ASGI application out. Its lifespan opens and closes what it built.

It decides nothing about a request; it knows who needs what.
"""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gateway import settings as configuration
from gateway import shared_configuration
from gateway.admin.rollouts import RolloutDesk, add_rollout_routes
from gateway.asgi import HotRoutes
from gateway.auth import KeyHasher, KeyTable, StoredKey, read_secret
from gateway.cache import Cache
from gateway.docs import describe
from gateway.errors import CallgateError, NotFound, Overloaded, WrongMethod
from gateway.fleet import Probe
from gateway.guard_model import GuardModel
from gateway.limits import Limiter
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.model_settings import DeploymentSettings, ModelSettings
from gateway.pipeline import Pipeline
from gateway.reload import Reloader
from gateway.request_log import RequestLog
from gateway.rollouts import RolloutFollower, Rollouts
from gateway.rollouts import figures as rollout_figures
from gateway.routing import Backend, Router, deployments_of
from gateway.settings import Settings, SettingsError
from gateway.steps.build import build_embedder, build_fraud_steps, build_steps
from gateway.stores import RedisStore, StoreError
from gateway.telemetry import TraceExporter
from gateway.types import Caller, Deployment, Limits, Route
from gateway.upstream import HttpBackends

if TYPE_CHECKING:
    from serving.embedding.minilm import EmbeddingBatcher


def create_app(settings: Settings, file: Path | None = None) -> FastAPI:
    """The gateway as an ASGI application. Nothing is opened before its lifespan starts. ``file`` is watched for changes.

    Raises: SettingsError.
    """
    secret = configuration.key_secret(settings)
    hasher = KeyHasher(read_secret(secret) if isinstance(secret, Path) else secret)
    routes = {model.name: _route(model) for model in settings.models}
    app = FastAPI(
        title="Callgate",
        version=version("callgate"),
        description="An OpenAI-compatible gateway with guardrails. Point any OpenAI client's base_url at /v1.",
        lifespan=lambda app: _remembered(app, _lifespan(app, settings, hasher, routes, file)),
    )
    describe(app)
    _cold_routes(app, policies=bool(settings.policies))
    return app


@asynccontextmanager
async def _remembered(app: FastAPI, lifespan: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Keeps the reason of a failed start, which the server would only log."""
    try:
        async with lifespan:
            yield
    except Exception as error:
        app.state.failure = error
        raise


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings, hasher: KeyHasher, routes: dict[str, Route], file: Path | None
) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        metrics = Metrics(configuration.shared_metrics())
        store = RedisStore(settings.redis.url, settings.redis.timeout_s)
        stack.push_async_callback(store.aclose)
        exporter = _exporter(settings, metrics)
        exporter.start()
        stack.push_async_callback(exporter.aclose)
        limits = Limits(settings.limits.requests_per_minute, settings.limits.tokens_per_minute)
        configured = [StoredKey(**key.model_dump()) for key in settings.keys]
        keys = KeyTable(hasher, configured, store, limits) if settings.auth == "keys" else None
        if keys is not None:
            await keys.refresh()
            stack.push_async_callback(keys.aclose)
            _refuse_open_door(settings, keys)
        limiter = Limiter(store, settings.redis.when_down)
        stack.push_async_callback(limiter.aclose)
        embedder = await build_embedder(settings, stack)
        guard_model = GuardModel(settings.guard_model)
        steps, life = await build_steps(
            settings, store, metrics, embedder.embed if embedder else None, guard_model, stack
        )
        http, hosted = _backends(routes, settings.routing.max_connections, stack)
        rng = random.Random()  # noqa: S311 (weights and jitter, not secrets)
        router = Router(routes, http, hosted, rng=rng, retry_share=settings.routing.retry_share)
        guard_model.router = router
        app.state.rollouts = await _rollouts(store, router, metrics, stack)
        stack.push_async_callback(router.shadow.aclose)
        stack.push_async_callback(router.fleet.aclose)
        router.fleet.watch(http.health, settings.routing.health_interval_s)
        metrics.watch(router.fleet, router.shadow)
        fraud = await build_fraud_steps(settings, metrics, stack)
        steps.risk = fraud
        cache = Cache(store, embedder.embed if embedder else None)
        pipeline = Pipeline(keys, limiter, router, steps, cache, anonymous=Caller("anonymous", "anonymous", limits))
        app.state.hot = HotRoutes(
            pipeline,
            router,
            app,
            exporter,
            metrics,
            embedder=_Embeddings(embedder) if embedder else None,
            embedding_model=settings.embedding.model,
            fraud=fraud,
            recorder=life.recorder if life else None,
            max_body_bytes=settings.server.max_body_bytes,
            request_log=_request_log(settings, stack),
            sample=settings.telemetry.sample,
        )
        app.state.metrics = metrics
        app.state.policies, app.state.admin_tokens = life, configuration.admin_tokens(settings.policy_store)
        if file is not None:
            reloader = _reloader(file, settings, router, keys, hosted is not None, metrics, store)
            app.state.reload = reloader.now
            if settings.server.shared_configuration:
                await reloader.now()  # before the first request
            app.state.look_at_policies = life.start(settings.server.reload_s) if life is not None else None
            stack.push_async_callback(reloader.aclose)
            if settings.server.reload_s:
                reloader.start()
        # What was built lives as long as the process; the collector need not walk it again, and requests make little garbage.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        app.state.draining = False
        app.state.ready = lambda: _readiness(store, router, http.health)
        yield


class Door:
    """What the server runs: hot routes when the lifespan has built them, else FastAPI (which also runs the lifespan)."""

    def __init__(self, settings: Settings, file: Path | None = None) -> None:
        self._cold = create_app(settings, file)
        self._hot: HotRoutes | None = None  # looking it up in the application's state costs 4 microseconds a request

    def drain(self) -> None:
        """Readiness goes down; requests are still taken."""
        self._cold.state.draining = True

    async def reload(self) -> None:
        """Looks at the settings file now."""
        for work in ("reload", "look_at_policies"):
            if (look := getattr(self._cold.state, work, None)) is not None:
                await look()

    @property
    def failure(self) -> Exception | None:
        """Why the lifespan did not start, if it did not."""
        failure: Exception | None = getattr(self._cold.state, "failure", None)
        return failure

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._hot is None:
            self._hot = getattr(self._cold.state, "hot", None)
        await (self._hot or self._cold)(scope, receive, send)


def _route(model: ModelSettings) -> Route:
    return Route(
        model.name,
        tuple(map(_deployment, model.deployments)),
        model.policy,
        model.knowledge,
        model.deadline_s,
        model.max_tokens,
        model.attempts,
        strategy=model.strategy,
        sticky=model.sticky,
        fallbacks=model.fallbacks.model_dump(),
        hedge_after_s=model.hedge_after_s,
        cache_ttl_s=model.cache_ttl_s,
        cache_similarity=model.cache_similarity,
        shadow=_deployment(model.shadow) if model.shadow else None,
        shadow_share=model.shadow_share,
        record_share=model.record,
        candidate=_candidate(model.candidate) if model.candidate else None,
    )


def _candidate(d: DeploymentSettings) -> Deployment:
    return replace(_deployment(d), arm=d.arm or "canary")


def _deployment(d: DeploymentSettings) -> Deployment:
    return Deployment(
        name=d.name,
        model=d.model,
        weight=d.weight,
        base_url=d.base_url.rstrip("/"),
        provider=d.provider,
        api_key=configuration.api_key(d),
        api_version=d.api_version,
        arm=d.arm or "",
        connect_timeout_s=d.connect_timeout_s,
        first_byte_timeout_s=d.first_byte_timeout_s,
        idle_timeout_s=d.idle_timeout_s,
        max_concurrency=d.max_concurrency,
        max_queue=d.max_queue,
        queue_timeout_s=d.queue_timeout_s,
        engine=d.engine,
        priority=d.priority,
        prefix_by_key=d.prefix_cache == "by_key",
    )


def _reloader(
    file: Path,
    settings: Settings,
    router: Router,
    keys: KeyTable | None,
    hosted: bool,
    metrics: Metrics,
    store: RedisStore,
) -> Reloader:
    async def shared() -> str | None:
        pushed = await shared_configuration.current(store)
        return pushed.text if pushed is not None else None

    def apply(wanted: Settings) -> None:
        routes = {model.name: _route(model) for model in wanted.models}
        built = {(r.policy, r.knowledge) for r in router.routes.values()}
        for route in routes.values():
            if route.policy not in {p for p, _ in built} | {None} or route.knowledge not in {k for _, k in built} | {
                None
            }:
                message = "uses a policy or knowledge base that no model used at the start; restart the gateway"
                raise SettingsError(file, None, f"models.{route.model}", message)
            if not hosted and any(d.provider for d in deployments_of({route.model: route})):
                raise SettingsError(file, None, f"models.{route.model}", "is the first hosted one; restart the gateway")
        router.replace(routes)
        if keys is not None:
            limits = Limits(wanted.limits.requests_per_minute, wanted.limits.tokens_per_minute)
            keys.configure([StoredKey(**key.model_dump()) for key in wanted.keys], limits)

    return Reloader(
        file,
        settings,
        apply,
        lambda outcome: metrics.reloads.labels(outcome).inc(),
        settings.server.reload_s,
        shared if settings.server.shared_configuration else None,
    )


async def _rollouts(store: RedisStore, router: Router, metrics: Metrics, stack: AsyncExitStack) -> RolloutDesk:
    metrics.watch_figures(lambda: rollout_figures(router))
    follower = RolloutFollower(store, router)
    await follower.look()  # before the first request
    follower.start()
    stack.push_async_callback(follower.aclose)
    return RolloutDesk(Rollouts(store), router)


def _exporter(settings: Settings, metrics: Metrics) -> TraceExporter:
    t = settings.telemetry
    return TraceExporter(
        t.otlp_endpoint,
        metrics,
        project=t.project,
        headers=configuration.otlp_headers(t),
        queue_size=t.queue_size,
        flush_s=t.flush_s,
        timeout_s=t.export_timeout_s,
        version=version("callgate"),
    )


def _request_log(settings: Settings, stack: AsyncExitStack) -> RequestLog | None:
    if settings.telemetry.log_level not in ("debug", "info"):
        return None
    log = RequestLog()
    stack.callback(log.flush)
    return log


def _refuse_open_door(settings: Settings, keys: KeyTable) -> None:
    if settings.server.host not in ("127.0.0.1", "::1", "localhost") and len(keys) == 0:
        message = f"{settings.server.host} is beyond loopback and no key exists yet; make one first with 'callgate keys create'"
        raise SettingsError(Path("callgate.yaml"), None, "server.host", message)


def _backends(
    routes: dict[str, Route], max_connections: int, stack: AsyncExitStack
) -> tuple[HttpBackends, Backend | None]:
    http = HttpBackends(max_connections)
    stack.push_async_callback(http.aclose)
    if not any(deployment.provider for deployment in deployments_of(routes)):
        return http, None
    from gateway.providers import HostedProviders

    hosted = HostedProviders()
    stack.push_async_callback(hosted.aclose)
    return http, hosted


async def _readiness(store: RedisStore, router: Router, probe: Probe) -> dict[str, Any]:
    """What readiness rests on: the store answers and at least one backend of any route is alive, as the last health checks found."""
    states = [state for state in router.fleet if not state.deployment.provider]
    if any(state.alive is None for state in states):  # just started or configured anew
        await router.fleet.check(probe)
    try:
        await store.ping()
        redis = "ok"
    except StoreError as error:
        redis = f"away ({error})"
    upstreams = {state.deployment.name: "ok" if state.alive else "away" for state in states}
    hosted = any(state.deployment.provider for state in router.fleet)
    answering = {deployment.name for route in router.routes.values() for deployment in route.deployments}
    ready = redis == "ok" and (hosted or any(s.alive for s in states if s.deployment.name in answering))
    return {"status": "ready" if ready else "not_ready", "redis": redis, "deployments": upstreams}


def _cold_routes(app: FastAPI, *, policies: bool) -> None:
    async def live() -> dict[str, str]:
        return {"status": "live"}

    async def ready() -> Response:
        if app.state.draining:
            return JSONResponse({"status": "draining"}, 503)
        state = await app.state.ready()
        return JSONResponse(state, 200 if state["status"] == "ready" else 503)

    async def metrics() -> Response:
        return Response(app.state.metrics.exposition(), media_type=CONTENT_TYPE.decode())

    async def failed(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        shown: CallgateError = {
            404: NotFound("There is nothing at this address; the API is under /v1, its description at /docs."),
            405: WrongMethod("This address does not take this method."),
        }.get(status) or CallgateError("Internal error.")
        return JSONResponse(shown.body(), shown.status)

    app.add_api_route("/health/live", live, tags=["health"])
    app.add_api_route("/health/liveliness", live, include_in_schema=False)  # LiteLLM's spelling
    app.add_api_route("/health/ready", ready, tags=["health"])
    app.add_api_route("/metrics", metrics, tags=["health"])
    add_rollout_routes(app)
    if policies:  # with SQLAlchemy behind them: half a second of a start that needs none
        from gateway.admin.policies import add_policy_routes

        add_policy_routes(app)
    app.add_exception_handler(HTTPException, failed)
    app.add_exception_handler(Exception, failed)


class _Embeddings:
    """The embedder as /v1/embeddings serves it: a full queue is told to the caller."""

    def __init__(self, batcher: EmbeddingBatcher) -> None:
        self._batcher = batcher

    async def embed(self, texts: Sequence[str]) -> Any:
        """Raises: Overloaded."""
        from serving.embedding.minilm import EmbeddingsBusy

        try:
            return await self._batcher.embed(texts)
        except EmbeddingsBusy:
            raise Overloaded("Too many texts wait to be embedded; try again soon.", retry_after_s=1.0) from None
