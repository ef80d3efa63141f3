"""The gateway under audit: a real process with the audited policies, before a model server and a trace collector that keep everything.

It starts and stops, and hands out what every place holds; it plants nothing and searches nothing. All of it is on loopback, in a folder of its own.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway import parts, ports
from gateway.audit.upstream import BEHAVIOURS, Upstream, upstream
from gateway.auth import KeyHasher
from gateway.children import Child, Part, answers_http
from gateway.model_settings import ModelSettings
from gateway.recorder import Recordings
from gateway.sealing import Sealer
from gateway.settings import Settings
from gateway.sql import Database
from gateway.steps.audited import Promise, promise_of
from gateway.stores import RedisStore

START_S = 180.0
_JUDGED = {
    "config.yml": """\
models:
  - {type: main, engine: openai, model: judge}
rails:
  input: {flows: [self check input]}
  output: {flows: [self check output]}
""",
    "prompts.yml": """\
prompts:
  - task: self_check_input
    content: 'Message: "{{ user_input }}". Should it be blocked (Yes or No)?'
  - task: self_check_output
    content: 'Answer: "{{ bot_response }}". Should it be blocked (Yes or No)?'
""",
}
_RAILS = {
    "asks": {"stage": "input", "flow": "self check input", "deadline_ms": 10_000},
    "says": {"stage": "output", "flow": "self check output", "deadline_ms": 10_000},
}


@dataclass(frozen=True, slots=True)
class Target:
    """One policy (with a knowledge base, where a model has one) as it is audited: ``name`` heads the names of the stand's models."""

    name: str
    policy: str
    knowledge: str | None
    promise: Promise


def targets_of(settings: Settings) -> list[Target]:
    """Every pair of policy and knowledge base that a model of the settings uses. Raises: SettingsError."""
    pairs = sorted({(model.policy, model.knowledge or "") for model in settings.models if model.policy is not None})
    found = []
    for place, (policy, knowledge) in enumerate(pairs, 1):
        promise = promise_of(settings.policies[policy], settings.policy_store.actions_dir)
        found.append(Target(f"audit-{place}", policy, knowledge or None, promise))
    return found


@dataclass(slots=True)
class Stand:
    """A running gateway: where it is, two keys of different callers, and what its places hold."""

    url: str
    keys: tuple[str, str]
    upstream: Upstream
    folder: Path
    gateway: Child
    redis_url: str
    sealer: Sealer

    async def redis(self) -> list[str]:
        """Every key of the store with all that it holds."""
        store = RedisStore(self.redis_url)
        try:
            return [entry.decode("utf-8", "replace") async for entry in store.everything()]
        finally:
            await store.aclose()

    async def stop_gateway(self) -> None:
        """So that what waits is written: spans, log lines, recordings."""
        await self.gateway.stop(asyncio.Event())

    def logs(self) -> list[str]:
        return [(self.folder / "logs/gateway.log").read_text(encoding="utf-8", errors="replace")]

    def recordings(self, targets: Sequence[Target]) -> list[str]:
        """Recordings as their holder reads them: unsealed."""
        database = Database(f"sqlite:///{self.folder / 'policies.db'}")
        try:
            opened = Recordings(database, self.sealer, 86_400.0)
            policies = {name for target in targets for name in (target.policy, _judged(target))}
            return [
                str(recording)
                for policy in sorted(policies)
                for digest, count in opened.counts(policy).items()
                for recording in opened.of_version(policy, digest, count)
            ]
        finally:
            database.close()

    def files(self) -> Iterator[str]:
        """Every file that the gateway and its Redis left in their folder, the log apart."""
        for file in sorted(self.folder.rglob("*")):
            if file.is_file() and "logs" not in file.relative_to(self.folder).parts and file.name != "callgate.yaml":
                yield file.read_bytes().decode("utf-8", "replace")


@asynccontextmanager
async def stand(settings: Settings, targets: Sequence[Target], folder: Path) -> AsyncIterator[Stand]:
    """Raises: PartFailedError with the last words of what did not start, PartMissingError."""
    async with AsyncExitStack() as stack:
        seen = await stack.enter_async_context(upstream())
        port, password, secret = ports.free_port(), secrets.token_urlsafe(24), secrets.token_hex(32)
        await _started(parts.redis(folder / "redis", port, password), folder, stack)
        redis_url = f"redis://:{password}@127.0.0.1:{port}/0"
        keys = (secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        recording_key = "audit:" + base64.b64encode(secrets.token_bytes(32)).decode()
        hasher, gateway_port = KeyHasher(secret.encode()), ports.free_port()
        hashes = [hasher.hash(key.encode()) for key in keys]
        config = folder / "callgate.yaml"
        config.write_text(yaml.safe_dump(_configuration(settings, targets, seen.url, hashes, folder)), encoding="utf-8")
        environment = {
            "CALLGATE_HOST": ports.LOOPBACK,
            "CALLGATE_PORT": str(gateway_port),
            "CALLGATE_REDIS_URL": redis_url,
            "CALLGATE_OTLP_ENDPOINT": f"{seen.url}/traces",
            "CALLGATE_STATE_DIR": str(folder),
            "CALLGATE_KEY_SECRET": secret,
            "CALLGATE_RECORDING_KEYS": recording_key,
            "OTEL_EXPORTER_OTLP_HEADERS": "",
        }
        url = f"http://127.0.0.1:{gateway_port}"
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        ready = answers_http(f"{url}/health/ready")
        part = Part("gateway", "The gateway", command, ready, environment, ready_within_s=START_S, grace_s=30.0)
        child = await _started(part, folder, stack)
        yield Stand(url, keys, seen, folder, child, redis_url, Sealer([recording_key]))


async def _started(part: Part, folder: Path, stack: AsyncExitStack) -> Child:
    child = await Child.start(part, folder / "logs" / f"{part.name}.log")
    stack.push_async_callback(child.stop, asyncio.Event())
    await child.ready()
    return child


def _configuration(
    settings: Settings, targets: Sequence[Target], url: str, hashes: Sequence[str], folder: Path
) -> dict[str, Any]:
    """The settings with every backend exchanged for the stand's own; policies, knowledge bases, rails and fraud stay as they are."""
    wanted = settings.model_dump(mode="json")
    policies = {target.policy: str(settings.policies[target.policy]) for target in targets}
    policies |= {_judged(target): str(_judged_policy(target, folder)) for target in targets}
    models = [_model(target, behaviour, url) for target in targets for behaviour in (*BEHAVIOURS, "judged")]
    judge = ModelSettings.model_validate(
        {"name": "judge", "policy": None, "deployments": [{"name": "judge", "base_url": url, "model": "judge"}]}
    )
    wanted |= {
        "models": [*models, judge.model_dump(mode="json")],
        "policies": policies,
        "keys": [{"id": f"caller-{place}", "hash": hashed} for place, hashed in enumerate(hashes, 1)],
        "auth": "keys",
        "limits": {"requests_per_minute": None, "tokens_per_minute": None},
        "guard_model": {"model": "judge", "tokens_per_minute": 100_000_000},
        "policy_store": {**wanted["policy_store"], "url": "", "follow": "files", "four_eyes": False},
        "recorder": {},
        "telemetry": {"record_texts": settings.telemetry.record_texts, "flush_s": 0.1},
        "fraud": {"enabled": settings.fraud.enabled, "settings": settings.fraud.settings},
        "key_secret_file": None,
    }
    wanted["server"] |= {"workers": 1, "shared_configuration": False, "reload_s": 0}
    return wanted


def _model(target: Target, behaviour: str, url: str) -> dict[str, Any]:
    asked = "echo" if behaviour == "judged" else behaviour
    own: dict[str, Any] = {"cache_ttl_s": 600.0, "cache_similarity": 0.99} if behaviour == "echo" else {}
    model = {
        "name": f"{target.name}-{behaviour}",
        "policy": _judged(target) if behaviour == "judged" else target.policy,
        "knowledge": target.knowledge if behaviour == "echo" else None,
        "deployments": [{"name": f"stand-{asked}", "base_url": url, "model": asked}],
        "deadline_s": 2.0 if behaviour == "hang" else 60.0,
        "attempts": 1,
        "record": 1.0,
    }
    return ModelSettings.model_validate(model | own).model_dump(mode="json")


def _judged(target: Target) -> str:
    return f"{target.name}-judged"


def _judged_policy(target: Target, folder: Path) -> Path:
    """A policy that redacts as the audited one does, and whose rails ask a model: what judges are told can be read there."""
    directory = folder / "policies" / _judged(target)
    directory.mkdir(parents=True)
    policy = {"version": 1, "name": _judged(target), "rails": _RAILS, "redaction": target.promise.settings}
    for name, text in (_JUDGED | {"policy.yaml": yaml.safe_dump(policy)}).items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory
