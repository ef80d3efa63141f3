"""What the decision log and the store's decision index hold, as msgpack.

Knows the shapes only; who writes them and when is `score`.
"""

from __future__ import annotations

import struct

import msgspec

from serving.fraud.types import Decision, Label, Transaction


class Filed(msgspec.Struct, frozen=True, tag="filed", kw_only=True):
    """A decision by transaction id: what a repeat is answered with, and what a later label needs."""

    transaction: Transaction
    decision: Decision
    surprising: bool


class Decided(msgspec.Struct, frozen=True, tag="decided", kw_only=True):
    """A decision with the features it was made from (packed doubles, empty when degraded)."""

    filed: Filed
    cents: int
    features: bytes


class Labelled(msgspec.Struct, frozen=True, tag="labelled", kw_only=True):
    """A label, and when it came."""

    label: Label
    at_s: float


class Applied(msgspec.Struct, frozen=True, tag="applied", kw_only=True):
    """An event that had waited for the store has now reached it."""

    transaction_id: str


class Compared(msgspec.Struct, frozen=True, tag="compared", kw_only=True):
    """What the model that did not decide said to the same features."""

    transaction_id: str
    model: str
    outcome: str
    probability: float


def risks_of(filed: Filed) -> list[tuple[str, bytes, bool]]:
    """A decision as the risk of its customer and its call. One that was not approved replaces what was noted before; a plain
    approval does not make anybody harmless before the day is over."""
    decision, transaction = filed.decision, filed.transaction
    value = _ENCODER.encode((decision.probability, decision.outcome))
    subjects = [
        f"customer:{transaction.customer_id}",
        *([f"call:{transaction.call_id}"] if transaction.call_id else []),
    ]
    return [(subject, value, decision.outcome != "approve") for subject in subjects]


def read_risk(data: bytes) -> tuple[float | None, str]:
    """Probability and outcome."""
    found: tuple[float | None, str] = msgspec.msgpack.decode(data, type=tuple[float | None, str])
    return found


Entry = Decided | Labelled | Applied | Compared

_ENCODER = msgspec.msgpack.Encoder()
_FILED = msgspec.msgpack.Decoder(Filed)
_ENTRY: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Decided | Labelled | Applied | Compared)


def encode(entry: Entry | Filed) -> bytes:
    return _ENCODER.encode(entry)


def decode_filed(data: bytes) -> Filed:
    return _FILED.decode(data)


def decode_entry(data: bytes) -> Entry:
    return _ENTRY.decode(data)


def pack_features(row: list[float]) -> bytes:
    """Little-endian doubles: every bit is kept, NaN included."""
    return struct.pack(f"<{len(row)}d", *row)


def unpack_features(packed: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(packed) // 8}d", packed))
