"""The parts of callgate.yaml about models: their backends, and how one of them is chosen. Values only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeploymentSettings(_Strict):
    """One backend: an OpenAI-compatible ``base_url`` (ends in /v1), or a LiteLLM ``provider`` string such as anthropic/claude-...

    ``arm`` names the side of a rollout (champion, canary). ``max_concurrency`` caps requests in flight in one worker; ``max_queue`` more wait
    up to ``queue_timeout_s``, the rest are told to come back. ``api_version`` is for providers that version their wire by a parameter (Azure).
    ``engine: vllm`` turns on what only vLLM has: its own queue and cache are read (GET /metrics) and count for least_busy, ``model`` (a LoRA
    adapter's name too) must be among those it serves, ``priority`` orders its queue (lower goes first; it needs --scheduling-policy priority), and
    ``prefix_cache: by_key`` keeps the prefixes of one key from being guessed by another through their speed.
    """

    name: Name
    base_url: str = ""
    provider: str = ""
    model: str = ""
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    api_key_env: str = ""
    api_key_file: Path | None = None
    api_version: Annotated[str, Field(max_length=40)] = ""
    connect_timeout_s: Seconds = 3.0
    first_byte_timeout_s: Seconds = 60.0
    idle_timeout_s: Seconds = 30.0
    arm: Name | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = 0
    queue_timeout_s: Seconds = 1.0
    engine: Literal["openai", "vllm"] = "openai"
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    prefix_cache: Literal["shared", "by_key"] = "shared"

    @model_validator(mode="after")
    def _one_backend(self) -> DeploymentSettings:
        if not self.provider and not self.base_url:
            raise ValueError("needs base_url (an OpenAI-compatible server) or provider (a LiteLLM string)")
        if not self.provider and not self.model:
            raise ValueError("needs model: the name that the server at base_url knows")
        if self.base_url and not re.match(r"https?://[^/@\\\s]+(/|$)", self.base_url):
            raise ValueError("base_url must look like http://host:port/v1, without user or password")
        if self.engine != "vllm" and (self.priority is not None or self.prefix_cache != "shared"):
            raise ValueError("priority and prefix_cache need engine: vllm")
        return self


class FallbackSettings(_Strict):
    """Models asked instead, in order, by the reason for which a model's own deployments failed."""

    rate_limit: tuple[Name, ...] = ()
    context_length: tuple[Name, ...] = ()
    content_filter: tuple[Name, ...] = ()
    outage: tuple[Name, ...] = ()


class ModelSettings(_Strict):
    """A model as callers name it. ``policy`` is required: the name of a policy, or null for none at all.

    ``strategy`` orders its deployments; a request with an ``x-call-id`` goes by that id when ``sticky``. ``attempts``: calls of its deployments for
    one request, before its first byte. ``hedge_after_s``: a second deployment is asked when the first has said nothing for so long.
    ``cache_ttl_s``: how long answers are kept and given again (0: never), to the same key only; ``cache_similarity``: also for questions whose
    sentence vectors are at least so close (cosine), off by default. ``record``: the share of
    requests kept for replay (0: none; above 0 blocked and canary ones always are). ``shadow``: a deployment that is sent copies (``shadow_share`` of them) and never answers the caller.
    ``candidate``: a deployment that answers only while a rollout gives it a share of the calls (``callgate rollout``), or once one has promoted it.
    """

    name: Name
    policy: str | None
    deployments: Annotated[tuple[DeploymentSettings, ...], Field(min_length=1)]
    knowledge: str | None = None
    deadline_s: Seconds = 120.0
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    strategy: Literal["weighted", "least_busy", "fastest", "prefix"] = "weighted"
    sticky: bool = True
    fallbacks: FallbackSettings = FallbackSettings()
    hedge_after_s: Seconds | None = None
    cache_ttl_s: Annotated[float, Field(ge=0, le=30 * 86400)] = 0.0
    cache_similarity: Annotated[float, Field(ge=0.8, le=1)] | None = None
    shadow: DeploymentSettings | None = None
    candidate: DeploymentSettings | None = None
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    record: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _two_arms(self) -> ModelSettings:
        """Traces tell the arms of a rollout apart by these names."""
        arm = (self.candidate.arm or "canary") if self.candidate is not None else None
        if arm in {deployment.arm or deployment.name for deployment in self.deployments}:
            raise ValueError(f"'{arm}' is the arm of the candidate and of a deployment; give the candidate another arm")
        return self


class RoutingSettings(_Strict):
    """``retry_share``: retries for each request at most, in every worker and so in the fleet. Health checks cost no tokens (GET /v1/models).
    ``max_connections``: to all backends together, in every worker; beyond it requests are told that the backend cannot be reached.
    """

    retry_share: Annotated[float, Field(ge=0, le=10)] = 0.2
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    health_interval_s: Seconds = 5.0
