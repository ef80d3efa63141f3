"""A policy's own cases, tests.yaml beside its policy.yaml: a conversation, and what the policy should make of it.

Each case goes through redaction, input rails and, where it has an answer, output rails; no model is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.policy_plan import outcome
from gateway.recorder import EMPTY
from gateway.settings import SettingsError
from gateway.steps.guard import Guard
from gateway.steps.replay import replay
from gateway.yaml_text import line_at, lines_of
from guardrails.types import PersonalDataBlocked, Segment


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class Case(_Strict):
    """``user`` is short for a conversation of one message. ``answer``: what the model says. ``rail``: which rail must decide.

    ``says``: words of the refusal. ``redacts``: how many values of each kind are replaced, exactly.
    """

    name: str
    user: str | None = None
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    expect: Literal["allowed", "blocked", "refused", "withheld", "rewritten"]
    rail: str | None = None
    says: str | None = None
    redacts: dict[str, int] | None = None

    @model_validator(mode="after")
    def _one_conversation(self) -> Case:
        if (self.user is None) == (not self.messages):
            raise ValueError("needs either user (one message) or messages")
        return self

    def conversation(self) -> list[dict[str, str]]:
        if self.user is not None:
            return [{"role": "user", "content": self.user}]
        return [message.model_dump() for message in self.messages]


class _File(_Strict):
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]


def read_cases(directory: Path) -> tuple[Case, ...]:
    """Raises: SettingsError with file, line and key."""
    file = directory / "tests.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        data, lines = yaml.safe_load(text), lines_of(yaml.compose(text, Loader=yaml.SafeLoader))
        return _File.model_validate(data).cases
    except FileNotFoundError:
        raise SettingsError(
            file, None, "", "there is no such file; it holds 'cases:', each with name, user, expect"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(file, None, "", f"cannot be read: {type(error).__name__}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(file, mark.line + 1 if mark else None, "", "is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(file, line_at(lines, first["loc"]), ".".join(map(str, first["loc"])), message) from None


async def run_case(guard: Guard, case: Case) -> dict[str, Any]:
    """What came of a case: ``passed``, and ``why`` not, in words."""
    got, rail, counts, words = await _through(guard, case)
    wrong = []
    if got != case.expect:
        wrong.append(f"{got}{f' by {rail}' if rail else ''}, expected {case.expect}")
    elif case.rail is not None and rail != case.rail:
        wrong.append(f"decided by {rail or 'no rail'}, expected {case.rail}")
    if case.says is not None and case.says not in words:
        wrong.append(f"its refusal does not say '{case.says}'")
    if case.redacts is not None and counts != case.redacts:
        wrong.append(f"redacted {counts or 'nothing'}, expected {case.redacts}")
    return {"name": case.name, "passed": not wrong, "why": "; ".join(wrong), "got": got, "rail": rail}


async def _through(guard: Guard, case: Case) -> tuple[str, str, dict[str, int], str]:
    conversation = case.conversation()
    try:
        redaction = await guard.redactor.redact([Segment(m["content"], m["role"]) for m in conversation])
    except PersonalDataBlocked as error:
        return "blocked", "redaction", dict.fromkeys(error.kinds, 1), ""
    redacted = [{**m, "content": text} for m, text in zip(conversation, redaction.texts, strict=True)]
    answered = {"0/content/0": [case.answer]} if case.answer is not None else {}
    ruled = await replay(
        guard,
        {
            **EMPTY,
            "conversation": redacted,
            "channels": answered,
            "ended": list(answered),
        },
    )
    got, rail = outcome(ruled)
    words = next((r["text"] or "" for r in ruled["rulings"] if r["decision"] == "block"), "")
    return got, rail, dict(redaction.counts), words
