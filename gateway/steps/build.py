"""Builds the steps of a gateway: guards, knowledge bases, fraud, the life of policies. Only what the settings ask for is imported."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import settings as configuration
from gateway.guard_model import GuardModel
from gateway.metrics import Metrics
from gateway.settings import Settings, SettingsError
from gateway.stores import RedisStore
from gateway.types import Route

if TYPE_CHECKING:
    from gateway.policy_life import PolicyLife
    from gateway.recorder import Recorder
    from gateway.sql import Database
    from gateway.steps.fraud import Fraud
    from gateway.steps.guarded import GuardedSteps
    from rag.retrieve import Knowledge
    from serving.embedding.minilm import EmbeddingBatcher

Embed = Callable[[Sequence[str]], Awaitable[Any]]


async def build_embedder(settings: Settings, stack: AsyncExitStack) -> EmbeddingBatcher | None:
    """The embedder of this process, or None. Raises: SettingsError."""
    needed = any(model.knowledge for model in settings.models)
    if not settings.embedding.enabled:
        if needed:
            raise SettingsError(
                Path("callgate.yaml"), None, "embedding.enabled", "knowledge bases need it; set it to true"
            )
        return None
    from serving.embedding.minilm import EmbeddingBatcher, MiniLM

    model = await asyncio.to_thread(MiniLM, settings.embedding.threads)
    embedder = EmbeddingBatcher(model)
    stack.push_async_callback(embedder.aclose)
    return embedder


async def build_steps(
    settings: Settings,
    store: RedisStore,
    metrics: Metrics,
    embed: Embed | None,
    guard_model: GuardModel,
    stack: AsyncExitStack,
) -> tuple[GuardedSteps | NoSteps, PolicyLife | None]:
    """The steps of all routes. Without a policy or knowledge base anywhere, neither package is imported: start-up is seconds shorter."""
    policies = sorted({model.policy for model in settings.models if model.policy})
    bases = sorted({model.knowledge for model in settings.models if model.knowledge})
    if not policies and not bases:
        return NoSteps(), None
    from gateway.policy_life import PolicyLife
    from gateway.steps.guard import GuardBuilder
    from gateway.steps.guarded import GuardedSteps
    from gateway.steps.versions import read_version, unpack

    actions = settings.policy_store.actions_dir
    life = PolicyLife(
        settings,
        store,
        read=partial(read_version, actions=actions),
        build=GuardBuilder(embed, ask=guard_model.ask if settings.guard_model.model else None, actions=actions).build,
        unpack=partial(unpack, actions=actions),
        swapped=metrics.policy_swapped,
    )
    stack.push_async_callback(life.aclose)
    _, knowledge = await asyncio.gather(
        life.open(policies), asyncio.gather(*(_knowledge(settings, name, embed, stack) for name in bases))
    )
    if any(model.record for model in settings.models):
        life.open_recorder(lambda database: _recorder(settings, metrics, database))
    steps = GuardedSteps(
        life.table, dict(zip(bases, knowledge, strict=True)), record_texts=settings.telemetry.record_texts
    )
    return steps, life


def _recorder(settings: Settings, metrics: Metrics, database: Database) -> Recorder:
    from gateway.recorder import Recorder
    from gateway.sealing import Sealer, SealError

    wanted = settings.recorder
    try:
        sealer = Sealer(configuration.recording_keys(wanted, settings.state_dir))
    except SealError as error:
        message = f"{error}; set {wanted.keys_env} or recorder.keys_file"
        raise SettingsError(Path("callgate.yaml"), None, "recorder", message) from None
    return Recorder(
        database,
        sealer,
        engine=engine_of(),
        retention_s=wanted.retention_days * 86_400,
        queue_size=wanted.queue_size,
        flush_s=wanted.flush_s,
        draw=random.Random().random,  # noqa: S311 (a sample, not a secret)
        dropped=metrics.recording_dropped,
    )


def engine_of() -> str:
    """What computes verdicts besides the policy: our code and the libraries under it."""
    return " ".join(f"{name}=={version(name)}" for name in ("callgate", "nemoguardrails", "google-re2", "onnxruntime"))


async def check_policies(settings: Settings, names: Sequence[str]) -> list[dict[str, Any]]:
    """Builds the named policies as a gateway would, and says what each is. Raises: SettingsError."""
    from gateway.steps.guard import GuardBuilder
    from guardrails.asked import ask_nobody

    async with AsyncExitStack() as stack:
        embedder = await build_embedder(settings, stack)
        asked = ask_nobody if settings.guard_model.model else None
        builder = GuardBuilder(
            embedder.embed if embedder else None, ask=asked, actions=settings.policy_store.actions_dir
        )
        described = []
        for name in names:
            guard = await builder.build(settings.policies[name])
            described.append(guard.describe())
            await guard.aclose()
        return described


async def _knowledge(settings: Settings, name: str, embed: Embed | None, stack: AsyncExitStack) -> Knowledge:
    from rag.retrieve import Knowledge

    if embed is None:
        raise SettingsError(Path("callgate.yaml"), None, "embedding.enabled", "knowledge bases need it; set it to true")
    knowledge = Knowledge(embed, settings.state_dir / "knowledge" / name)
    stack.push_async_callback(knowledge.aclose)
    await knowledge.start(settings.knowledge[name])
    return knowledge


async def build_fraud_steps(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Fraud | None:
    wanted = settings.fraud
    if not wanted.enabled:
        return None
    from gateway.steps.fraud import build_fraud, build_remote_fraud

    fraud: Fraud
    if wanted.url:
        fraud = build_remote_fraud(wanted.url, wanted.timeout_s)
    else:
        fraud = await build_fraud(wanted.settings, settings.redis.url, settings.state_dir / "fraud")
    stack.push_async_callback(fraud.aclose)
    metrics.watch_figures(fraud.gauges)
    return fraud


class NoSteps:
    """The steps of a gateway without any policy or knowledge base: none."""

    risk: Any = None

    @contextmanager
    def pin(self, route: Route, request: Any) -> Iterator[None]:  # noqa: ARG002
        yield

    async def redact(self, route: Route, request: Any) -> None: ...
    async def check_input(self, route: Route, request: Any) -> None: ...
    async def ground(self, route: Route, request: Any) -> None: ...

    def redact_answer(self, route: Route, request: Any, reply: Any) -> Any:  # noqa: ARG002
        return reply

    def check_output(self, route: Route, request: Any, reply: Any) -> Any:  # noqa: ARG002
        return reply

    def restore(self, route: Route, request: Any, reply: Any) -> Any:  # noqa: ARG002
        return reply
