"""What a rail says of a text, and what all rails of a stage together decide. Values, not exceptions."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

Stage = Literal["input", "retrieval", "tool", "output"]


class Outcome(StrEnum):
    """A rail that did not run is NOT_RUN, never PASS."""

    PASS = "pass"  # noqa: S105 (an outcome, not a password)
    REWRITE = "rewrite"
    BLOCK = "block"
    NOT_RUN = "not_run"


class Verdict(Struct, frozen=True):
    """One rail's word. ``enforced`` is False for a rail that only watches. ``score`` and ``threshold`` are between 0 and 1."""

    rail: str
    stage: Stage
    outcome: Outcome
    reason: str = ""
    text: str | None = None
    score: float | None = None
    threshold: float | None = None
    duration_s: float = 0.0
    enforced: bool = True


class Ruling(Struct, frozen=True):
    """What a stage decided. ``kind``: "content", or "rail_unavailable" when a rail that must run did not.

    ``respond``: whether a block is told as an error or as the polite refusal in ``text``.
    """

    decision: Literal["allow", "rewrite", "block"] = "allow"
    verdicts: tuple[Verdict, ...] = ()
    text: str | None = None
    kind: Literal["content", "rail_unavailable"] | None = None
    respond: Literal["error", "refusal"] = "error"
