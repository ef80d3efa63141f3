"""Fraud scores, labels and decisions as bodies of /v1/fraud/*: the translation between serving/fraud and the wire.

It scores nothing itself. A decision that cannot be put on record is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.errors import BadRequest, NotFound, Overloaded
from gateway.settings import SettingsError
from gateway.types import Json
from serving.fraud.build import build_scorer
from serving.fraud.journal import JournalUnavailable
from serving.fraud.score import FraudScorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import StoreUnavailable, open_redis
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


class FraudSteps:
    """Fraud scores, confirmed labels and past decisions, as bodies of /v1/fraud/*. ``aclose`` ends what was opened for it."""

    def __init__(self, scorer: FraudScorer, stack: AsyncExitStack) -> None:
        self._scorer = scorer
        self._stack = stack

    async def handle(self, path: str, raw: bytes) -> Json:
        """Raises: BadRequest naming the field, NotFound, Overloaded when a decision cannot be put on record."""
        try:
            if path == "/v1/fraud/score":
                return await self._score(raw)
            if path == "/v1/fraud/labels":
                return await self._label(raw)
            decision = await self._scorer.find(path.removeprefix("/v1/fraud/decisions/"))
        except InvalidTransaction as error:
            raise BadRequest(f"{error}.", param=error.path or None, code="invalid_transaction") from None
        except UnknownTransaction as error:
            raise NotFound(f"{error}.", param="transaction_id", code="unknown_transaction") from None
        except (StoreUnavailable, JournalUnavailable):
            raise Overloaded("The fraud service cannot answer now; try again soon.", retry_after_s=1.0) from None
        if decision is None:
            raise NotFound("No decision of that id is kept here.", param="transaction_id", code="unknown_transaction")
        return dict(decision.to_dict())

    async def risk(self, subject: str) -> tuple[float | None, str] | None:
        """The riskiest recent decision of `customer:ID` or `call:ID` (gateway/steps/risk.py). Raises: OSError."""
        try:
            return await self._scorer.risk_of(subject)
        except StoreUnavailable as error:
            raise ConnectionError(str(error)) from None

    async def aclose(self) -> None:
        await self._scorer.aclose()
        await self._stack.aclose()

    async def _score(self, raw: bytes) -> Json:
        wanted = parse_transaction(raw)
        if isinstance(wanted, list):
            return {"object": "list", "data": [one.to_dict() for one in await self._scorer.score_batch(wanted)]}
        return dict((await self._scorer.score(wanted)).to_dict())

    async def _label(self, raw: bytes) -> Json:
        labels = parse_label(raw)
        for label in labels:
            await self._scorer.label(label)
        return {"object": "fraud.labels", "accepted": len(labels)}


async def build_fraud(section: Mapping[str, Any], redis_url: str, folder: Path) -> FraudSteps:
    """Fraud scoring inside this process. Raises: SettingsError naming the key, or the model that cannot be served."""
    try:
        settings = FraudSettings.model_validate({"log_directory": folder, **section})
        stack = AsyncExitStack()
        store = await stack.enter_async_context(open_redis(redis_url, settings))
        return FraudSteps(await build_scorer(settings, store, time.time), stack)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(
            Path("callgate.yaml"), None, ".".join(("fraud.settings", *map(str, first["loc"]))), first["msg"]
        ) from None
    except ValueError as error:
        raise SettingsError(Path("callgate.yaml"), None, "fraud.settings", str(error)) from None
