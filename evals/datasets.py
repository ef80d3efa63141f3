"""Samples out of a JSONL file, checked line by line, with a digest of their content.

Knows nothing of metrics or of how a sample is asked. The digest covers content, not order or spacing of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evals.digests import digest
from evals.errors import DatasetError
from evals.types import Expectation, Message, Sample, ToolCall


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class _ToolCall(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}


class _Expect(BaseModel):
    model_config = ConfigDict(extra="forbid")
    facts: list[list[str]] = []
    refuse: bool | None = None
    secrets: list[str] = []
    public: list[str] = []
    json_schema: dict[str, Any] | None = None
    citations: list[str] = []
    avoid: list[str] = []
    max_words: int | None = Field(default=None, ge=1)
    contexts: list[str] = []
    reference: str | None = Field(default=None, min_length=1)
    tools: list[_ToolCall] | None = None


class _Case(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=200)
    conversation: str | None = None
    slice: str = "all"
    messages: list[_Message] = Field(min_length=1)
    tools: list[dict[str, Any]] = []
    expect: _Expect


@dataclass(frozen=True, slots=True)
class Dataset:
    samples: tuple[Sample, ...]
    digest: str

    def shard(self, index: int, count: int) -> Dataset:
        """Every `count`-th conversation from `index` (0-based); a conversation is never cut in two.

        The digest stays that of the whole, so that shards of one dataset can be told from shards of two.
        """
        if not 0 <= index < count:
            raise DatasetError(f"shard {index + 1} of {count} does not exist: shards are counted 1 to {count}")
        conversations = sorted({sample.conversation for sample in self.samples})
        mine = set(conversations[index::count])
        return Dataset(tuple(s for s in self.samples if s.conversation in mine), self.digest)


def load_dataset(path: Path) -> Dataset:
    """Raises DatasetError naming the file, the line and the field: empty, no JSON, unknown or missing field, double
    id.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    samples: dict[str, Sample] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sample = _parse(path, number, line)
        if sample.id in samples:
            raise DatasetError(f"{path}:{number}: id {sample.id!r} was already used on line {first_line[sample.id]}")
        samples[sample.id] = sample
        first_line[sample.id] = number
    if not samples:
        raise DatasetError(f"{path}: the dataset is empty: it needs at least one case, one JSON object a line")
    content = sorted(sample.digest for sample in samples.values())
    return Dataset(tuple(samples.values()), digest(content))


def _parse(path: Path, number: int, line: str) -> Sample:
    try:
        document = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}:{number}: not a JSON object ({error})") from error
    try:
        case = _Case.model_validate(document)
    except ValidationError as error:
        raise DatasetError(
            f"{path}:{number}: {describe(error, {*_Case.model_fields, *_Expect.model_fields})}"
        ) from error
    said = (getattr(case.expect, name) for name in _Expect.model_fields)
    if all(not value and value is not False for value in said) and case.expect.tools is None:
        raise DatasetError(f"{path}:{number}: expect: says nothing; one of {', '.join(_Expect.model_fields)} is needed")
    return Sample(
        id=case.id,
        conversation=case.conversation or case.id,
        slice=case.slice,
        messages=tuple(Message(m.role, m.content) for m in case.messages),
        expect=_expectation(case.expect),
        digest=digest(case.model_dump(mode="json", exclude_defaults=True)),
        tools=tuple(case.tools),
    )


def _expectation(expect: _Expect) -> Expectation:
    return Expectation(
        facts=tuple(tuple(alternatives) for alternatives in expect.facts),
        refuse=expect.refuse,
        secrets=tuple(expect.secrets),
        public=tuple(expect.public),
        json_schema=expect.json_schema,
        citations=tuple(expect.citations),
        avoid=tuple(expect.avoid),
        max_words=expect.max_words,
        contexts=tuple(expect.contexts),
        reference=expect.reference,
        tools=None
        if expect.tools is None
        else tuple(ToolCall(call.name, tuple(sorted(call.arguments.items()))) for call in expect.tools),
    )


_SAID = MappingProxyType(
    {
        "missing": "field required",
        "extra_forbidden": "unknown key",
        "model_type": "an object of keys and values is needed here",
        "string_type": "a text is needed here; a number goes in quotes",
    }
)


def describe(error: ValidationError, known: Iterable[str] = ()) -> str:
    """The faults of a document, each with the dotted name of its field; values are left out, they may be personal. A key that is
    not known is set beside the nearest `known` one.
    """
    faults = []
    for fault in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in fault["loc"])
        said = _SAID.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        if fault["type"] == "extra_forbidden":
            nearest = get_close_matches(str(fault["loc"][-1]), known, 1)
            said += f"; did you mean {nearest[0]}?" if nearest else ""
        faults.append(f"{place or 'the document'}: {said}" if place or fault["type"] != "value_error" else said)
    return "; ".join(faults)
