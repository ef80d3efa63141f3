"""What is refused in a policy's NeMo configuration before NeMo reads it: patterns that explode or can never be seen, and foreign Python.

It knows YAML and patterns, not what NeMo does with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guardrails.regex_safety import why_catastrophic


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, where, and what would be right."""

    file: Path
    line: int | None
    key: str
    message: str
    hint: str = ""


def complaints(directory: Path, horizon_chars: int, actions: Mapping[str, Path]) -> Iterator[Complaint]:
    """Everything wrong with the files beside policy.yaml, in their order."""
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".py":
            yield from _foreign_python(path, actions)
        elif path.suffix in (".yml", ".yaml") and path.name not in ("policy.yaml", "tests.yaml"):
            yield from _patterns(path, horizon_chars)


def _foreign_python(path: Path, actions: Mapping[str, Path]) -> Iterator[Complaint]:
    if not any(path.read_bytes() == trusted.read_bytes() for trusted in actions.values()):
        hint = "put it into the image's trusted folder and name it under actions: in policy.yaml"
        yield Complaint(path, None, "", "Python beside a policy is never run", hint)


def _patterns(path: Path, horizon_chars: int) -> Iterator[Complaint]:
    try:
        text = path.read_text(encoding="utf-8")
        data, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        yield Complaint(path, None, "", "is not UTF-8 text")
        return
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        yield Complaint(path, mark.line + 1 if mark else None, "", getattr(error, "problem", None) or "is not YAML")
        return
    detection = _at(data, ("rails", "config", "regex_detection"))
    for stage, options in detection.items() if isinstance(detection, dict) else ():
        if not isinstance(options, dict):
            continue
        flags = re.IGNORECASE if options.get("case_insensitive") else 0
        for index, pattern in enumerate(options.get("patterns") or ()):
            key = ("rails", "config", "regex_detection", str(stage), "patterns", index)
            found = _wrong(str(pattern), flags, horizon_chars if stage == "output" else None)
            if found:
                yield Complaint(path, line_of(node, key), ".".join(map(str, key)), *found)


def _wrong(pattern: str, flags: int, horizon_chars: int | None) -> tuple[str, str] | None:
    try:
        why = why_catastrophic(pattern, flags)
    except re.error as error:
        return f"is no regular expression: {error}", ""
    if why:
        return f"can take exponential time: {why}", "let each loop read its text in one way only"
    shortest = re._parser.parse(pattern, flags).getwidth()[0]  # type: ignore[attr-defined]  # as in regex_safety
    if horizon_chars is not None and shortest > horizon_chars:
        hint = f"set output.horizon_chars to at least {shortest}"
        return (
            f"needs {shortest} characters, and answers are read {horizon_chars} at a time, so it could never match",
            hint,
        )
    return None


def line_in(file: Path, key: Sequence[str | int]) -> int | None:
    """The line of a YAML file where a key stands, or the nearest above it that is there."""
    return line_of(yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), key)


def given_twice(node: yaml.Node | None, at: tuple[str, ...] = ()) -> tuple[int, str] | None:
    """The line and key of the first key that a mapping has twice: YAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        return next((found for value in node.value if (found := given_twice(value, at))), None)
    seen = set()
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = (*at, str(name.value))
        if name.value in seen:
            return name.start_mark.line + 1, ".".join(key)
        seen.add(name.value)
        if found := given_twice(value, key):
            return found
    return None


def _at(data: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def line_of(node: yaml.Node | None, keys: Sequence[str | int]) -> int | None:
    """The line (from 1) of what stands at a place."""
    line = None
    for key in keys:
        inner: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            inner = next((value for name, value in node.value if name.value == key), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            inner = node.value[key]
        if inner is None:
            return line
        node, line = inner, inner.start_mark.line + 1
    return line
