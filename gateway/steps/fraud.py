"""Fraud scores, labels and decisions as bodies of /v1/fraud/*: the translation between serving/fraud and the wire.

Scored inside this process (`FraudSteps`) or by a fraud service of its own (`RemoteFraud`); a caller cannot tell which. It scores nothing
itself. A decision that cannot be put on record is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from pydantic import ValidationError

from gateway.errors import BadRequest, NotFound, Overloaded
from gateway.http_client import HttpError, HttpPool, Patience, Target
from gateway.settings import SettingsError
from gateway.types import Json, Record, Span
from serving.fraud.build import build_scorer
from serving.fraud.gauges import Gauge
from serving.fraud.journal import JournalUnavailable
from serving.fraud.keeper import Keeper
from serving.fraud.score import FraudScorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import StoreUnavailable
from serving.fraud.stores import open_store
from serving.fraud.types import (
    InvalidTransaction,
    Label,
    Transaction,
    UnknownTransaction,
    parse_label,
    parse_transaction,
)

SHAPES: dict[str, type[Any]] = {"Transaction": Transaction, "Label": Label}
_PAYMENT = {
    "transaction_id": "t-1001",
    "customer_id": "c-17",
    "terminal_id": "m-204",
    "amount": "24.50",
    "currency": "EUR",
    "timestamp": "2026-11-25T10:00:00Z",
}
EXAMPLES: dict[str, Json] = {
    "Transaction": {
        "one": {"summary": "One payment", "value": _PAYMENT},
        "many": {
            "summary": "A list; decisions come in its order",
            "value": {"transactions": [_PAYMENT, _PAYMENT | {"transaction_id": "t-1002", "call_id": "call-9"}]},
        },
    },
    "Label": {
        "label": {"summary": "Confirmed fraud", "value": {"transaction_id": "t-1001", "fraud": True}},
        "labels": {
            "summary": "A list",
            "value": {
                "labels": [{"transaction_id": "t-1001", "fraud": True}, {"transaction_id": "t-1002", "fraud": False}]
            },
        },
    },
}
"""Bodies for the description, by the name of their shape. The time must be about now when they are sent."""

_DECISION: Json = {
    "object": "fraud.decision",
    "transaction_id": "t-1001",
    "decision": "review",
    "score": 0.31,
    "reasons": [{"code": "unusual_amount", "message": "The amount is larger than usual for this customer."}],
    "degraded": False,
    "model": "5889e9390592",
    "policy": "c055f0ab5e49",
    "decided_at": "2026-11-25T10:00:00.123+00:00",
}
ANSWERS: dict[str, Json] = {
    "/v1/fraud/score": {
        "one": {"summary": "Of one payment", "value": _DECISION},
        "many": {"summary": "Of a list", "value": {"object": "list", "data": [_DECISION]}},
        "degraded": {
            "summary": "The feature store was slow or away: the declared outcome",
            "value": _DECISION | {"score": None, "reasons": [], "degraded": True},
        },
    },
    "/v1/fraud/labels": {
        "labels": {"summary": "How many were taken", "value": {"object": "fraud.labels", "accepted": 2}}
    },
    "/v1/fraud/decisions/{transaction_id}": {"one": {"summary": "As it was given", "value": _DECISION}},
}
"""Answers for the description, by path."""


_AWAY = "The fraud service cannot answer now; try again soon."
_LARGEST_ANSWER = 4 << 20
_decode = msgspec.json.Decoder().decode


class Fraud(Protocol):
    """Fraud scoring, wherever it happens."""

    async def handle(self, path: str, raw: bytes, record: Record) -> Json:
        """Raises: BadRequest naming the field, NotFound, Overloaded when a decision cannot be put on record."""

    async def risk(self, subject: str) -> tuple[float | None, str] | None:
        """The riskiest recent decision of `customer:ID` or `call:ID` (gateway/steps/risk.py). Raises: OSError."""

    def gauges(self) -> list[Gauge]:
        """For /metrics; empty where a service of its own tells them."""

    async def aclose(self) -> None: ...


class FraudSteps:
    """Fraud scores, confirmed labels and past decisions, made here. ``aclose`` ends what was opened for it."""

    def __init__(self, scorer: FraudScorer, keeper: Keeper, stack: AsyncExitStack) -> None:
        self._scorer, self._keeper = scorer, keeper
        self._stack = stack

    async def handle(self, path: str, raw: bytes, record: Record) -> Json:
        begun_ns = time.time_ns()
        try:
            body = await self._answer(path, raw)
        except InvalidTransaction as error:
            raise BadRequest(f"{error}.", param=error.path or None, code="invalid_transaction") from None
        except UnknownTransaction as error:
            raise NotFound(f"{error}.", param=error.path, code="unknown_transaction") from None
        except (StoreUnavailable, JournalUnavailable):
            raise Overloaded(_AWAY, retry_after_s=1.0) from None
        record.spans.append(_span(path, begun_ns, body))
        return body

    async def risk(self, subject: str) -> tuple[float | None, str] | None:
        try:
            return await self._scorer.risk_of(subject)
        except StoreUnavailable as error:
            raise ConnectionError(str(error)) from None

    def gauges(self) -> list[Gauge]:
        return self._keeper.gauges()

    async def aclose(self) -> None:
        await self._keeper.aclose()
        await self._scorer.aclose()
        await self._stack.aclose()

    async def _answer(self, path: str, raw: bytes) -> Json:
        if path == "/v1/fraud/score":
            return await self._score(raw)
        if path == "/v1/fraud/labels":
            return await self._label(raw)
        if (decision := await self._scorer.find(path.removeprefix("/v1/fraud/decisions/"))) is None:
            raise NotFound("No decision of that id is kept here.", param="transaction_id", code="unknown_transaction")
        return dict(decision.to_dict())

    async def _score(self, raw: bytes) -> Json:
        wanted = parse_transaction(raw)
        if isinstance(wanted, list):
            return {"object": "list", "data": [one.to_dict() for one in await self._scorer.score_batch(wanted)]}
        return dict((await self._scorer.score(wanted)).to_dict())

    async def _label(self, raw: bytes) -> Json:
        labels = parse_label(raw)
        await self._scorer.label_batch(labels)
        return {"object": "fraud.labels", "accepted": len(labels)}


class RemoteFraud:
    """The same, made by a fraud service (`callgate fraud serve`) at ``url``; it has no keys, so it must be out of callers' reach."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Raises: ValueError for a URL that is none."""
        self._url, self._pool = url.rstrip("/"), HttpPool()
        self._patience = Patience(timeout_s, timeout_s, timeout_s, timeout_s)
        kind = {"content-type": "application/json"}
        self._posts = {path: Target.of("POST", self._url + path, kind) for path in ("/v1/fraud/score", "/v1/fraud/labels")}  # fmt: skip

    async def handle(self, path: str, raw: bytes, record: Record) -> Json:
        begun_ns = time.time_ns()
        target = self._posts.get(path) or Target.of("GET", self._url + quote(path, safe="/:"), {})
        try:
            status, body = await self._ask(target, raw)
        except OSError:
            raise Overloaded(_AWAY, retry_after_s=1.0) from None
        if status != 200:
            raise _failure(status, body)
        record.spans.append(_span(path, begun_ns, body))
        return body

    async def risk(self, subject: str) -> tuple[float | None, str] | None:
        target = Target.of("GET", f"{self._url}/risks/{quote(subject, safe=':')}", {})
        status, body = await self._ask(target, b"")
        if status != 200:
            raise ConnectionError(f"the fraud service answered {status}")
        return (body["score"], body["decision"]) if body["decision"] else None

    def gauges(self) -> list[Gauge]:
        return []

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _ask(self, target: Target, raw: bytes) -> tuple[int, Json]:
        """Raises: ConnectionError when there was no answer, or none that could be read."""
        try:
            async with self._pool.send(target, raw, self._patience) as exchange:
                return exchange.status, _decode(await exchange.read(_LARGEST_ANSWER))
        except (HttpError, msgspec.DecodeError) as error:
            raise ConnectionError(type(error).__name__) from None


def _failure(status: int, body: Json) -> BadRequest | Overloaded:
    told = body.get("error") or {}
    message, param, code = str(told.get("message", "")), told.get("param"), told.get("code")
    if status == 404:
        return NotFound(f"{message}.", param=param, code=code)
    if status == 400:
        return BadRequest(f"{param}: {message}." if param else f"{message}.", param=param, code=code)
    return Overloaded(_AWAY, retry_after_s=1.0)


def _span(path: str, begun_ns: int, body: Json) -> Span:
    """What was decided, without ids and amounts."""
    told = {
        f"fraud.{name}": body[name] for name in ("decision", "score", "degraded", "model", "policy") if name in body
    }
    many = body.get("data")
    if isinstance(many, list):
        told["fraud.decisions"] = len(many)
    return Span(f"fraud.{path.split('/')[3]}", "CHAIN", begun_ns, time.time_ns(), told)


def build_remote_fraud(url: str, timeout_s: float) -> RemoteFraud:
    """Raises: SettingsError naming the key."""
    try:
        return RemoteFraud(url, timeout_s)
    except ValueError as error:
        raise SettingsError(Path("callgate.yaml"), None, "fraud.url", str(error)) from None


async def build_fraud(section: Mapping[str, Any], redis_url: str, folder: Path) -> FraudSteps:
    """Fraud scoring inside this process. Raises: SettingsError naming the key, or the model that cannot be served."""
    try:
        settings = FraudSettings.model_validate({"log_directory": folder, **section})
        stack = AsyncExitStack()
        store = await stack.enter_async_context(open_store(redis_url, settings))
        scorer = await build_scorer(settings, store, time.time)
        keeper = Keeper(settings, scorer)
        keeper.start()
        return FraudSteps(scorer, keeper, stack)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(
            Path("callgate.yaml"), None, ".".join(("fraud.settings", *map(str, first["loc"]))), first["msg"]
        ) from None
    except ValueError as error:
        raise SettingsError(Path("callgate.yaml"), None, "fraud.settings", str(error)) from None
