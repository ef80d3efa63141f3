"""Any OpenAI-compatible URL asked for answers: bounded, retried under one deadline, and never paid for twice.

A fault of one request becomes a Reply with an error and is never retried for ever. Knows nothing of scores. Errors
carry statuses and codes, never text of a request or a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import aiohttp
import msgspec

from evals.digests import digest
from evals.errors import TargetError
from evals.journal import Journal
from evals.types import BUDGET_SPENT, Answer, Sample, Setting, ToolCall

_BLOCK_CODES = frozenset({"content_policy_violation", "content_filter"})
_RETRY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_REPLY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    text: str = field(default="", repr=False)
    blocked: bool = False
    finish_reason: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    from_cache: bool = False
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens; both 0 for a model of one's own."""

    prompt_usd: Decimal = Decimal(0)
    completion_usd: Decimal = Decimal(0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> Decimal:
        return (self.prompt_usd * prompt_tokens + self.completion_usd * completion_tokens) / 1_000_000


class Budget:
    """A hard limit on requests and dollars: reserved before a request at its worst case, settled at what it cost."""

    def __init__(self, *, max_requests: int | None = None, max_cost_usd: Decimal | None = None) -> None:
        self._max_requests = max_requests
        self._max_cost = max_cost_usd
        self._reserved = Decimal(0)
        self.requests = 0
        self.cost_usd = Decimal(0)

    def share(self, count: int) -> Budget:
        """What one of `count` shards may spend, so that together they keep the limit. Raises ValueError for fewer requests than shards."""
        if self._max_requests is not None and self._max_requests < count:
            raise ValueError(f"max_requests {self._max_requests} cannot be shared by {count} shards")
        requests = None if self._max_requests is None else self._max_requests // count
        return Budget(max_requests=requests, max_cost_usd=None if self._max_cost is None else self._max_cost / count)

    def reserve(self, worst_usd: Decimal) -> bool:
        """False, and nothing reserved, if the request could break a limit."""
        if self._max_requests is not None and self.requests >= self._max_requests:
            return False
        if self._max_cost is not None and self.cost_usd + self._reserved + worst_usd > self._max_cost:
            return False
        self.requests += 1
        self._reserved += worst_usd
        return True

    def count(self, cost_usd: Decimal) -> None:
        """A request that an earlier process of this run paid for: it is part of the run's limits, and refused to nobody."""
        self.requests += 1
        self.cost_usd += cost_usd

    def settle(self, worst_usd: Decimal, cost_usd: Decimal) -> None:
        self._reserved -= worst_usd
        self.cost_usd += cost_usd


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a request is tried. `deadline_s` spans all attempts of one request."""

    attempts: int = 4
    deadline_s: float = 120.0
    backoff_s: float = 0.5
    max_backoff_s: float = 20.0


class Surroundings(Protocol):
    """Time and chance, handed in: seconds of a clock that never goes back, a pause, a number in [0, 1)."""

    def now_s(self) -> float: ...
    async def pause(self, seconds: float) -> None: ...
    def chance(self) -> float: ...


class ChatClient:
    """POST {url}/chat/completions. At most `concurrency` requests are under way at once."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        journal: Journal,
        surroundings: Surroundings,
        *,
        key: str | None = None,
        concurrency: int = 4,
        patience: Patience | None = None,
        budget: Budget | None = None,
        kept_for_later_runs: bool = False,
        calls: str | None = None,
    ) -> None:
        """`calls`: what the id begins with under which the gateway is told each question (x-call-id); the rest is the question's own, so that calls
        are spread over its deployments. `kept_for_later_runs`: what the journal holds was paid by other runs, and is no part of this one's budget."""
        self._kept_for_later_runs = kept_for_later_runs
        self._url = url.rstrip("/")
        self._session = session
        self._journal = journal
        self._around = surroundings
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._calls = calls
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = patience or Patience()
        self.budget = budget or Budget()
        self.from_journal = 0

    async def check_reachable(self, key_name: str = "CALLGATE_API_KEY", option: str = "--url") -> None:
        """Raises TargetError with what to do if nothing answers at the URL, or if the key is not accepted."""
        try:
            timeout = aiohttp.ClientTimeout(total=10)
            async with self._session.get(f"{self._url}/models", headers=self._headers, timeout=timeout) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TargetError(
                f"nothing answers at {self._url} ({type(error).__name__}); start the gateway with `callgate up`, "
                f"or pass the address of any OpenAI-compatible server, /v1 included, as {option}"
            ) from error
        if status in (401, 403):
            raise TargetError(f"{self._url} refused the key (HTTP {status}); set {key_name} to a valid one")
        if status == 404 and not self._url.endswith("/v1"):
            raise TargetError(f"{self._url}/models is not there (HTTP 404); is /v1 missing at the end of {option}?")

    async def ask(self, body: dict[str, Any], *, version: str, repeat: int, price: Price | None = None) -> Reply:
        """The reply to `body`, from the journal if this very question was answered before. Never raises for a fault."""
        key = digest({"url": self._url, "version": version, "repeat": repeat, "body": body})
        price = price or Price()
        known = self._journal.get(key)
        if known is not None:
            return self._recalled(key, known)
        # A token is at least one byte, so bytes bound the prompt.
        worst = price.of(len(json.dumps(body).encode()), _most_completion_tokens(body))
        async with self._slots:
            if not self.budget.reserve(worst):
                return Reply(error=BUDGET_SPENT)
            return await self._persist(key, body, price, worst)

    def _recalled(self, key: str, known: Mapping[str, Any]) -> Reply:
        self.from_journal += 1
        calls = tuple(
            ToolCall(c["name"], tuple((k, v) for k, v in c["arguments"])) for c in known.get("tool_calls", ())
        )
        reply = Reply(**{**known, "from_cache": True, "tool_calls": calls})
        paid_usd = self._journal.count_once(key)
        if paid_usd is not None and not self._kept_for_later_runs:
            self.budget.count(paid_usd)
        return reply

    async def embed(self, model: str, texts: Sequence[str], *, version: str) -> list[list[float]] | str:
        """Vectors of the texts, in order, from POST {url}/embeddings; or why there are none. Never raises for a fault."""
        key = digest({"url": self._url, "version": version, "model": model, "embed": list(texts)})
        known = self._journal.get(key)
        if known is not None:
            return list(known["vectors"])
        if not self.budget.reserve(Decimal(0)):
            return BUDGET_SPENT
        timeout = aiohttp.ClientTimeout(total=self._patience.deadline_s)
        body = {"model": model, "input": list(texts)}
        try:
            async with (
                self._slots,
                self._session.post(
                    f"{self._url}/embeddings", json=body, headers=self._headers, timeout=timeout
                ) as response,
            ):
                document = json.loads(await response.content.read(_MAX_REPLY_BYTES * 4))
            rows = sorted(document["data"], key=lambda row: row["index"])
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            return f"embeddings: {type(error).__name__}"
        if len(vectors) != len(texts):
            return f"embeddings: {len(vectors)} vectors for {len(texts)} texts"
        self._journal.put(key, {"vectors": vectors})
        return vectors

    async def _persist(self, key: str, body: dict[str, Any], price: Price, worst: Decimal) -> Reply:
        """Attempts under one deadline, with full jitter between them and Retry-After obeyed; the first one is reserved already."""
        end_s = self._around.now_s() + self._patience.deadline_s
        reply = Reply(error="no attempt was made")
        for attempt in range(self._patience.attempts):
            if attempt and not self.budget.reserve(worst):
                return Reply(error=BUDGET_SPENT)
            retry_after: float | None = None
            cost = worst  # an attempt that broke off half way may have been billed in full
            self._journal.begin(key, worst)
            try:
                reply, retry_after = await self._attempt(body, end_s)
                cost = worst if _usage_is_unknown(reply) else price.of(reply.prompt_tokens, reply.completion_tokens)
            finally:
                self.budget.settle(worst, cost)
            if reply.error is None:
                self._journal.put(key, asdict(reply), cost)
            else:
                self._journal.end(key, cost)
            if retry_after is None:
                return reply
            ceiling = min(self._patience.max_backoff_s, self._patience.backoff_s * 2**attempt)
            wait_s = max(retry_after, ceiling * self._around.chance())
            if attempt + 1 == self._patience.attempts or self._around.now_s() + wait_s >= end_s:
                return reply
            await self._around.pause(wait_s)
        return reply

    async def _attempt(self, body: dict[str, Any], end_s: float) -> tuple[Reply, float | None]:
        """One attempt, and after how many seconds at least another makes sense (None: never)."""
        started_s = self._around.now_s()
        left_s = end_s - started_s
        if left_s <= 0:
            return Reply(error="deadline: no time left"), None
        timeout = aiohttp.ClientTimeout(total=left_s)
        target = f"{self._url}/chat/completions"
        headers = self._headers | ({"x-call-id": f"{self._calls}.{digest(body)[-16:]}"} if self._calls else {})
        try:
            async with self._session.post(target, json=body, headers=headers, timeout=timeout) as response:
                raw = await response.content.read(_MAX_REPLY_BYTES + 1)
                while not response.content.at_eof() and len(raw) <= _MAX_REPLY_BYTES:
                    raw += await response.content.read(_MAX_REPLY_BYTES)
                status, retry_after = response.status, response.headers.get("retry-after", "")
        except TimeoutError:
            return Reply(error=f"timeout: no reply within {self._patience.deadline_s:g} s"), None
        except aiohttp.ClientError as error:
            return Reply(error=f"connection: {type(error).__name__}"), 0.0
        reply = _read(status, raw, (self._around.now_s() - started_s) * 1000)
        if reply.error is None or status not in _RETRY:
            return reply, None
        return reply, float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _most_completion_tokens(body: Mapping[str, Any]) -> int:
    """What the request allows, for each of its choices; where it sets no limit the models' usual one is assumed."""
    limits = [int(body.get(name) or 0) for name in ("max_tokens", "max_completion_tokens")]
    return (max(limits) or 4096) * int(body.get("n") or 1)


def _usage_is_unknown(reply: Reply) -> bool:
    """Whether the model may have answered, and nobody says how much of it: a hard limit takes that for the worst."""
    if reply.error is None:
        return not reply.blocked and reply.prompt_tokens == 0 == reply.completion_tokens
    return reply.error.startswith(("timeout:", "http 200:")) or (
        reply.error.startswith("connection:") and "Connector" not in reply.error
    )


def _read(status: int, raw: bytes, latency_ms: float) -> Reply:
    if len(raw) > _MAX_REPLY_BYTES:
        return Reply(error=f"reply of more than {_MAX_REPLY_BYTES >> 20} MiB")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return Reply(error=f"http {status}: the reply is not JSON")
    if status >= 400:
        error = document.get("error") if isinstance(document, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        if code in _BLOCK_CODES:
            return Reply(blocked=True, finish_reason="content_filter", latency_ms=latency_ms)
        return Reply(error=f"http {status}: {code if isinstance(code, str) and len(code) <= 60 else 'no code'}")
    try:
        choice = document["choices"][0]
        calls = tuple(_tool_call(call) for call in choice["message"].get("tool_calls") or ())
        text, reason = choice["message"].get("content") or "", choice["finish_reason"]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
        return Reply(error=f"http {status}: the reply is not an OpenAI chat completion")
    if not isinstance(text, str):
        return Reply(error=f"http {status}: the content of the reply is not a text")
    tokens = _tokens(document.get("usage"))
    reply = Reply(text, reason == "content_filter", reason, None, *tokens, latency_ms, tool_calls=calls)
    return reply if _can_be_kept(reply) else Reply(error=f"http {status}: the reply holds what JSON cannot")


def _tokens(usage: Any) -> tuple[int, int]:
    """Of prompt and completion; none of both where the server does not say, or says what cannot be: a count below 0 would make money."""
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if type(count) is int and 0 <= count < 1 << 53 else None for count in counts)
    return (0, 0) if prompt is None or completion is None else (prompt, completion)


def _can_be_kept(reply: Reply) -> bool:
    """False for half a character or NaN, which would stop the run when it is written down."""
    try:
        return msgspec.json.decode(msgspec.json.encode(reply), type=Reply) == reply
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return False


def _tool_call(call: Any) -> ToolCall:
    """Raises ValueError where the arguments are no JSON object: a call that no tool could take."""
    arguments = json.loads(call["function"]["arguments"] or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call are no object")  # noqa: TRY004 - read as a malformed reply
    return ToolCall(str(call["function"]["name"]), tuple(sorted(arguments.items())))


@dataclass(frozen=True, slots=True)
class Target:
    """One Setting behind a client."""

    setting: Setting
    client: ChatClient
    price: Price = field(default_factory=Price)

    async def answer(self, sample: Sample, repeat: int) -> Answer:
        reply = await self.client.ask(
            self.body(sample, repeat), version=self.setting.version, repeat=repeat, price=self.price
        )
        fields = {name: getattr(reply, name) for name in Reply.__dataclass_fields__}
        cost = self.price.of(reply.prompt_tokens, reply.completion_tokens)
        return Answer(sample.id, self.setting.name, repeat, cost_usd=cost, **fields)

    def body(self, sample: Sample, repeat: int = 0) -> dict[str, Any]:
        """The request; where the setting has a seed, every case and repeat is drawn with one of its own."""
        system = [{"role": "system", "content": self.setting.system}] if self.setting.system else []
        messages = system + [{"role": message.role, "content": message.content} for message in sample.messages]
        tools = {"tools": list(sample.tools)} if sample.tools else {}
        body = {**dict(self.setting.parameters), "model": self.setting.model, "messages": messages, **tools}
        return with_own_seed(body, f"{repeat}/{sample.digest}")


def with_own_seed(body: dict[str, Any], about: str) -> dict[str, Any]:
    """`body` with a seed that follows from its own and from what it is about; as it is where it has none. Servers take 31 bits.

    One seed for all cases would let chance favour them all together: they would not be independent, and intervals too narrow
    (16 cases of the embedded model at temperature .6: means of .47, .69 and .84 at three seeds; measured 2026-11-27).
    """
    if not isinstance(body.get("seed"), int):
        return body
    drawn = hashlib.sha256(f"{body['seed']}/{about}".encode()).digest()
    return {**body, "seed": int.from_bytes(drawn[:4], "big") >> 1}


@contextlib.asynccontextmanager
async def open_session(concurrency: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A pooled session that ignores proxies and cookies of the machine, closed on exit."""
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session
