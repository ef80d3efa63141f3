"""What goes into the fraud service and what comes out: a transaction, a label, a decision.

Knows nothing of HTTP status codes, of Redis or of the model. Times are aware; amounts are exact.
Customer and terminal ids are pseudonyms chosen by the caller; they never appear in an error message here.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

import msgspec

Outcome = Literal["approve", "review", "decline"]

LARGEST_AMOUNT_CENTS = 100_000_000  # 512 events of this size squared still fit 63 bits, so window sums are exact
LARGEST_BATCH = 1_000
MINOR_DIGITS = {  # ISO 4217; all others have two
    **dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "VND", "XAF", "XOF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}

_ID = msgspec.Meta(
    min_length=1,
    max_length=64,
    pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:-]*\Z",
    description="1 to 64 letters, digits or . _ : - starting with a letter or digit",
)
Id = Annotated[str, _ID]


class InvalidTransaction(Exception):
    """The body cannot be scored. `path` names the field (`transactions[3].amount`), `message` what would be right."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class UnknownTransaction(Exception):
    """A label names a transaction that was never scored here, or whose record has expired. `path` names the field."""

    def __init__(self, path: str = "transaction_id") -> None:
        super().__init__("no decision is known for this transaction_id; score it first")
        self.path = path


class Transaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One payment attempt, as the caller tells it."""

    transaction_id: Id
    customer_id: Id
    terminal_id: Id
    amount: Annotated[Decimal, msgspec.Meta(description='major units, exact: "24.50" or 24.50')]
    currency: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z", description="ISO 4217, e.g. EUR")]
    timestamp: Annotated[datetime, msgspec.Meta(tz=True, description="RFC 3339 with an offset")]
    call_id: Id | None = None

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or not 0 <= self.amount <= LARGEST_AMOUNT_CENTS // 100:
            raise ValueError(f"amount: must be between 0 and {LARGEST_AMOUNT_CENTS // 100}")
        digits = MINOR_DIGITS.get(self.currency, 2)
        exponent = self.amount.as_tuple().exponent
        if exponent == "n" or int(exponent) < -12 or self.amount != round(self.amount, digits):
            raise ValueError(f"amount: has more than the {digits} decimals of its currency")
        if not 1971 <= self.timestamp.year <= 2100:
            raise ValueError("timestamp: must be between 1971 and 2100")

    @property
    def at_s(self) -> int:
        """Unix time in whole seconds, rounded down: the resolution of every feature."""
        return int(self.timestamp.timestamp() // 1)

    def cents(self, rate_ppm: int) -> int:
        """Hundredths of the settlement currency at a rate of millionths of it a unit, rounded half up, exact in Decimal."""
        return int((self.amount * rate_ppm / 10_000).quantize(Decimal(1), ROUND_HALF_UP))


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of a transaction: confirmed fraud or not. It may arrive days late; the last label wins."""

    transaction_id: Id
    fraud: bool


class Reason(msgspec.Struct, frozen=True):
    """Why a decision is not a plain approval, in words that a call-centre agent can say."""

    code: str
    message: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one transaction.

    `probability` is the calibrated chance of fraud, None where no score was made (`degraded`); on the wire it is `score`.
    `model` and `policy` are digests: the same transaction, features, model and policy give the same decision, bit for bit.
    """

    transaction_id: str
    outcome: Outcome
    probability: float | None
    reasons: tuple[Reason, ...]
    degraded: bool
    model: str
    policy: str
    decided_s: float

    def to_dict(self) -> dict[str, object]:
        """The JSON shape of the API."""
        return {
            "object": "fraud.decision",
            "transaction_id": self.transaction_id,
            "decision": self.outcome,
            "score": self.probability,
            "reasons": [{"code": reason.code, "message": reason.message} for reason in self.reasons],
            "degraded": self.degraded,
            "model": self.model,
            "policy": self.policy,
            "decided_at": datetime.fromtimestamp(self.decided_s, UTC).isoformat(timespec="milliseconds"),
        }


class _Transactions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transactions: Annotated[list[Transaction], msgspec.Meta(min_length=1)]


class _Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: Annotated[list[Label], msgspec.Meta(min_length=1)]


class _Shape(msgspec.Struct, frozen=True):
    """Only enough of a body to tell one from many, and to count before anything is built."""

    transactions: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    labels: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_WHERE = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_UNEXPECTED = re.compile(r"contains unknown field `")


def parse_transaction(body: bytes) -> Transaction | list[Transaction]:
    """One transaction, or the list under `transactions`. Strict: no unknown fields, no coercion.

    Raises:
        InvalidTransaction: naming the path of the first wrong field. Whether the time lies in the future and the
            currency is served is the scorer's to say, who has the clock and the settings.
    """
    try:
        shape = msgspec.json.decode(body, type=_Shape)
        if isinstance(shape.transactions, list):
            _limit("transactions", len(shape.transactions))
            many = msgspec.json.decode(body, type=_Transactions).transactions
            _unique([one.transaction_id for one in many])
            return many
        return msgspec.json.decode(body, type=Transaction)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error, body) from None


def parse_label(body: bytes) -> list[Label]:
    """The labels of a body: a single one, or the list under `labels`.

    Raises:
        InvalidTransaction: naming the path of the first wrong field.
    """
    try:
        shape = msgspec.json.decode(body, type=_Shape)
        if isinstance(shape.labels, list):
            _limit("labels", len(shape.labels))
            return msgspec.json.decode(body, type=_Labels).labels
        return [msgspec.json.decode(body, type=Label)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error, body) from None


def _limit(path: str, count: int) -> None:
    if count > LARGEST_BATCH:
        raise InvalidTransaction(path, f"at most {LARGEST_BATCH} in one request, got {count}")


def _unique(ids: list[str]) -> None:
    seen: set[str] = set()
    for index, one in enumerate(ids):
        if one in seen:
            raise InvalidTransaction(f"transactions[{index}].transaction_id", "appears twice in this batch")
        seen.add(one)


def _not_a_number(body: bytes) -> str:
    """The path of the first field that is NaN or Infinity, which many encoders write and JSON has not; else nothing."""
    mark = object()
    try:
        found = json.loads(body, parse_constant=lambda _: mark)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    many = found.get("transactions")
    places = [
        ("", found),
        *((f"transactions[{n}].", one) for n, one in enumerate(many if isinstance(many, list) else ())),
    ]
    paths = (f"{path}{name}" for path, one in places if isinstance(one, dict) for name in Transaction.__struct_fields__ if one.get(name) is mark)  # fmt: skip
    return next(paths, "")


def _explain(error: Exception, body: bytes) -> InvalidTransaction:
    """The decoder's message as a path and a sentence. It quotes types and limits, never the caller's values."""
    if not isinstance(error, msgspec.ValidationError):
        if path := _not_a_number(body):
            return InvalidTransaction(path, "must be a number (NaN and Infinity are not JSON)")
        return InvalidTransaction("", "the body is not valid JSON in UTF-8 (NaN and Infinity are not JSON)")
    text = str(error)
    found = _WHERE.match(text)
    what, path = (found["what"], found["path"]) if found else (text, "")
    missing = _MISSING.search(what)
    if missing:
        path, what = f"{path}.{missing['name']}".lstrip("."), "is required"
    elif _UNEXPECTED.search(what):  # the name is the caller's: not quoted
        fields = Label.__struct_fields__ if path.startswith("labels") else Transaction.__struct_fields__
        what = f"has a field that is not one of {', '.join(fields)}"
    field, _, rule = what.partition(": ")
    if field in ("amount", "timestamp"):
        path, what = f"{path}.{field}".lstrip("."), rule
    if "matching regex" in what:
        what = "must be three capital letters (ISO 4217)" if path.endswith("currency") else f"must be {_ID.description}"
    return InvalidTransaction(path, what)
