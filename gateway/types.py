"""The values that travel through the gateway. They know no vendor, no HTTP and no other module."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Json = dict[str, Any]
"""A parsed JSON object. Its shape is checked once, at the edge (gateway/wire)."""

Chunk = Json
"""One piece of an answer in OpenAI's stream shape: ``choices[*].delta`` (chat) or ``choices[*].text`` (completions).

A whole reply is a stream of one Chunk whose ``delta`` is the message."""

Endpoint = Literal["chat", "completion", "embedding"]
"""What a backend is asked for. The Responses API is asked by chat (gateway/wire/responses.py)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may spend. ``None`` is unlimited."""

    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: the holder of a key. ``models`` empty: every model."""

    key_id: str
    name: str
    limits: Limits
    models: frozenset[str] = frozenset()

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models


@dataclass(frozen=True, slots=True)
class Deployment:
    """One backend that can answer for a model: an OpenAI-compatible ``base_url``, or a LiteLLM ``provider`` string."""

    name: str
    model: str
    weight: float = 1.0
    base_url: str = ""
    provider: str = ""
    api_key: str = field(default="", repr=False)
    api_version: str = ""
    arm: str = ""
    max_concurrency: int | None = None
    max_queue: int = 0
    queue_timeout_s: float = 1.0
    engine: Literal["openai", "vllm"] = "openai"
    priority: int | None = None
    prefix_by_key: bool = False
    connect_timeout_s: float = 3.0
    first_byte_timeout_s: float = 60.0
    idle_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a backend said when it was asked whether it is alive: its own queue, where it tells (vLLM). ``cache_share``: of its KV cache, 0 to 1."""

    alive: bool
    running: int = 0
    waiting: int = 0
    cache_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """A model as callers name it, and everything that happens to a request for it. ``candidate`` answers by a rollout's share only."""

    model: str
    deployments: tuple[Deployment, ...]
    policy: str | None
    knowledge: str | None
    deadline_s: float
    max_tokens: int
    attempts: int
    created: int = 0
    strategy: Literal["weighted", "least_busy", "fastest", "prefix"] = "weighted"
    sticky: bool = True
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hedge_after_s: float | None = None
    cache_ttl_s: float = 0.0
    cache_similarity: float | None = None
    shadow: Deployment | None = None
    shadow_share: float = 1.0
    record_share: float = 0.0
    candidate: Deployment | None = None


class Usage(msgspec.Struct, frozen=True):
    """``cached`` of the prompt's tokens came from the backend's prefix cache; ``reasoning`` of the completion's were thought, not said.

    Both are None where the backend does not say.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cached: int | None = None
    reasoning: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> Json:
        told: Json = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        if self.cached is not None:
            told["prompt_tokens_details"] = {"cached_tokens": self.cached}
        if self.reasoning is not None:
            told["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
        return told


class RailResult(msgspec.Struct, frozen=True):
    """A rail's verdict as the gateway records it. ``outcome``: pass, rewrite, block or not_run."""

    rail: str
    stage: str
    outcome: str
    reason: str
    score: float | None
    threshold: float | None
    duration_s: float
    enforced: bool


@dataclass(slots=True)
class Recording:
    """What a replay needs of one request, redacted: what each stage read, in the pieces in which it came, and what it ruled.

    ``conversation``: as the input rails read it; ``grounded``: as the output rails read it. ``channels``: each text of the answer, by
    ``choice/field/call``, as the model said it, piece by piece, and whether it came to its end. ``passages``: what was retrieved.
    ``calls``: of tools that the model asked for, by name, and what was wrong with them under any policy. ``answered``: what the guard
    model said to the rails, by question. ``risk``: what the fraud service knew of the caller. ``rulings``: each stage's, as JSON.
    ``share``: how likely an ordinary request of this route is kept.
    """

    share: float
    conversation: list[Json] = field(default_factory=list)
    grounded: list[Json] = field(default_factory=list)
    channels: dict[str, list[str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    passages: list[str] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    risk: Json | None = None
    rulings: list[Json] = field(default_factory=list)
    refused_redaction: str = ""


@dataclass(slots=True)
class Span:
    """A step of a request that is worth a span of its own; times are UNIX nanoseconds. ``attributes`` hold no raw text."""

    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""


@dataclass(slots=True)
class Record:
    """What is remembered of one request: one value, turned into a trace, metrics and a log line off the path.

    ``input`` and ``output`` hold redacted text only; nothing here is ever restored. ``assigned``: the arm that a rollout gave the request to,
    ``arm`` the one that answered; they differ where the first one failed. ``drawn``: traced by chance or the caller's word, not since it failed.
    """

    request_id: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    started_ns: int
    endpoint: str
    sampled: bool = True
    drawn: bool = True
    call_id: str = ""
    ended_ns: int = 0
    status: int = 0
    error_code: str = ""
    key_id: str = ""
    model: str = ""
    stream: bool = False
    route: str = ""
    deployment: str = ""
    upstream_model: str = ""
    attempts: int = 0
    cache: str = ""
    arm: str = ""
    assigned: str = ""
    sticky_to: str = ""
    moved: bool = False
    fallbacks: list[str] = field(default_factory=list)
    policy: str = ""
    policy_digest: str = ""
    input: list[Json] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    parameters: Json = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    rails: list[RailResult] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    redacted: Mapping[str, int] = field(default_factory=dict)
    redacted_answer: Mapping[str, int] = field(default_factory=dict)
    unresolved_tokens: int = 0
    held_chars: int = 0
    call_started_ns: int = 0
    first_delta_ns: int = 0
    call_ended_ns: int = 0
    upstream_s: float = 0.0
    intent: str = ""
    recording: Recording | None = None


@dataclass(slots=True)
class ChatRequest:
    """A chat or legacy completion request on its way through the gateway. ``body`` is owned by it and changed in place.

    ``tokens`` maps redaction tokens to the caller's own values: it lives here and dies with the request.
    ``keep_masked``: tokens stay in the answer (gateway/steps/risk.py).
    ``refusal`` is set when a rail answers in the model's stead: no upstream call is then made.
    ``guard`` is the policy at work on this request, pinned once (gateway/policies.py): a swap meanwhile does not touch it.
    ``pending``: input rails that still run while the model is already being asked (a policy's ``speculative``).
    ``said``: the personal data found in it, as the caller wrote it; ``passages``: the text of a knowledge base that the model is shown.
    ``sources`` are the passages that the answer may cite: ``[{"n", "id", "title", "source"}]``.
    """

    endpoint: Endpoint
    model: str
    body: Json
    stream: bool
    include_usage: bool
    record: Record
    deadline: float
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    refusal: str | None = None
    keep_masked: bool = False
    guard: Any = field(default=None, repr=False)
    pending: asyncio.Task[None] | None = None
    rewritten: bool = False
    sources: list[Json] = field(default_factory=list)
    said: Sequence[str] = field(default=(), repr=False)
    passages: str = field(default="", repr=False)
