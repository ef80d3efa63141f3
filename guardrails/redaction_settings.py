"""What an operator chooses about personal data: kinds, what happens to each, countries, own patterns.

Embedded in a policy under ``redaction:``. Unknown keys are errors. Finds nothing itself.
"""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from guardrails.tokens import is_kind

Action = Literal["token", "mask", "hash", "drop", "allow", "block"]
AnswerAction = Literal["redact", "mask", "hash", "drop", "allow", "block"]
MediaAction = Literal["refuse", "flag", "pass"]
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


class AnswerSettings(BaseModel):
    """What happens to personal data that a model adds to an answer: that the caller did not say, that it was not shown, and that is not the company's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: Literal["on", "off"] = Field(default="on", description="Whether answers are looked through at all.")
    action: AnswerAction = Field(default="redact", description="redact leaves <KIND>; block ends the answer.")
    entities: dict[str, AnswerAction] = Field(
        default_factory=dict, description="What happens to a kind; kinds that requests may hold (allow) pass here too."
    )
    company: tuple[str, ...] = Field(
        default=(),
        description="The company's own values, which may be said: a phone number, an address, @host for all of its e-mail.",
    )
    passages: Literal["allow", "check"] = Field(
        default="allow", description="check: what stands only in passages of a knowledge base is not passed either."
    )
    min_score: float = Field(default=0.5, ge=0, le=1, description="Findings below this score are ignored.")

    @field_validator("check", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("entities")
    @classmethod
    def _keys_are_kinds(cls, entities: dict[str, AnswerAction]) -> dict[str, AnswerAction]:
        return _kinds_only(entities)


class MediaSettings(BaseModel):
    """What happens to parts of a message that nothing here can read: refuse the request, let them pass, or let them pass and say in every record that they were not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: MediaAction = Field(default="refuse", description="Parts of type image_url.")
    audio: MediaAction = Field(default="refuse", description="Parts of type input_audio.")
    files: MediaAction = Field(default="refuse", description="Parts of type file; their names are redacted.")

    def action(self, part: str) -> MediaAction:
        """What happens to a part of a type; types that nobody knows are refused."""
        known = {"image_url": self.images, "input_audio": self.audio, "file": self.files}
        return known.get(part, "refuse")


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

    answers: AnswerSettings = Field(default=AnswerSettings(), description="Personal data that a model adds.")
    media: MediaSettings = Field(default=MediaSettings(), description="Images, audio and files, which are not read.")

    @field_validator("ner", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("entities")
    @classmethod
    def _keys_are_kinds(cls, entities: dict[str, Action]) -> dict[str, Action]:
        return _kinds_only(entities)

    def action(self, kind: str) -> Action:
        """What happens to a finding of a kind."""
        return self.entities.get(kind, "allow" if kind in NOT_PERSONAL else "token")

    def answer_action(self, kind: str) -> AnswerAction:
        """What happens to a value of a kind that an answer adds."""
        own = self.answers.entities.get(kind)
        return own or ("allow" if self.action(kind) == "allow" else self.answers.action)


T = TypeVar("T")


def _kinds_only(entities: dict[str, T]) -> dict[str, T]:
    wrong = [name for name in entities if not is_kind(name)]
    if wrong:
        raise ValueError(f"not kinds (capitals, digits, underscores): {wrong}")
    return entities
