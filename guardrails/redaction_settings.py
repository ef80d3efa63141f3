"""What an operator chooses about personal data: kinds, what happens to each, countries, own patterns.

Embedded in a policy under ``redaction:``. Unknown keys are errors. Finds nothing itself.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from guardrails.tokens import is_kind

Action = Literal["token", "mask", "hash", "drop", "allow", "block"]
Country = Literal["US", "UK", "EU", "IN", "ES", "MX"]

NOT_PERSONAL = ("LOCATION", "ORGANIZATION", "DATE_TIME", "URL")  # allowed unless the policy says otherwise


class CustomPattern(BaseModel):
    """A pattern of the operator's own, for example a policy number: kind, RE2 expression, score, context words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The kind, in capitals, as it appears in the token: POLICY_NUMBER.")
    regex: str = Field(description="RE2 syntax (no look-around); the group named v, or the whole match, is the value.")
    score: float = Field(default=0.9, gt=0, le=1, description="How sure a match makes us; findings below min_score go.")
    longest: int = Field(default=64, gt=0, le=1000, description="Characters of the longest value.")
    context: tuple[str, ...] = Field(default=(), description="Words one of which must stand near, if any are given.")

    @field_validator("name")
    @classmethod
    def _name_is_a_kind(cls, name: str) -> str:
        if not is_kind(name):
            raise ValueError("a kind is capitals, digits and underscores, at most 40: POLICY_NUMBER")
        return name


class RedactionSettings(BaseModel):
    """The ``redaction:`` part of a policy. The defaults replace all personal data by tokens and restore it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    countries: tuple[Country, ...] = Field(default=("US", "UK"), description="Packs of national numbers to look for.")
    region: str = Field(default="US", pattern="^[A-Z]{2}$", description="Region of phone numbers without a +code.")
    entities: dict[str, Action] = Field(default_factory=dict, description="What happens to a kind; default: token.")
    patterns: tuple[CustomPattern, ...] = Field(default=(), description="Patterns of your own.")
    ner: Literal["on", "off"] = Field(default="on", description="Whether names are looked for by a model.")
    ner_model: str | None = Field(default=None, description="spaCy package or folder; default: the shipped one.")
    ner_timeout_s: float = Field(default=2.0, gt=0, le=60, description="How long one request waits for the model.")
    presidio_recognizers: Path | None = Field(default=None, description="A Presidio recogniser YAML, loaded unchanged.")
    on_unavailable: Literal["refuse", "continue"] = Field(
        default="refuse", description="A finder fails: refuse the request, or go on and say what was not checked."
    )
    min_score: float = Field(default=0.4, ge=0, le=1, description="Findings below this score are ignored.")
    remembered_messages: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Analysed messages kept (offsets)."
    )

    @field_validator("ner", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("entities")
    @classmethod
    def _keys_are_kinds(cls, entities: dict[str, Action]) -> dict[str, Action]:
        wrong = [name for name in entities if not is_kind(name)]
        if wrong:
            raise ValueError(f"not kinds (capitals, digits, underscores): {wrong}")
        return entities

    def action(self, kind: str) -> Action:
        """What happens to a finding of a kind."""
        return self.entities.get(kind, "allow" if kind in NOT_PERSONAL else "token")
