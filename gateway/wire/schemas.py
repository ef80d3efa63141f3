"""JSON schemas that callers send (tools' parameters, response_format): bounded before a backend compiles them.

A backend turns a schema into a grammar or an automaton, and a hostile one stops it for everybody (vLLM's CVE-2025-48944 is a malformed ``pattern``;
counted repetitions multiply its size). What a schema means is not checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gateway.errors import BadRequest
from gateway.types import Json

MOST_NODES = 5_000
MOST_PATTERNS, MOST_PATTERN_CHARS, MOST_REPEATS = 64, 512, 1_000
MOST_LENGTH = 100_000  # of minLength, maxItems and their like
MOST_CHOICES = 1_000
_COUNTED = re.compile(r"\{(\d{0,9})(?:,(\d{0,9}))?\}")
_NOT_REGULAR = re.compile(r"\(\?(?:[=!<(]|P=)|\\[1-9]")  # looks ahead or back, or refers back: no automaton can do it
_CLASSES = re.compile(r"\\[pP]\{\w{1,40}\}")  # ECMAScript's \p{L}, which Python does not know
_LENGTHS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})


def check_schemas(body: Json) -> None:
    """Raises: BadRequest naming the schema and what is too much in it."""
    for place, schema in _schemas(body):
        _check(place, schema)


def _schemas(body: Json) -> Iterator[tuple[str, Any]]:
    for index, tool in enumerate(body.get("tools") or ()):
        if (function := tool.get("function")) and (parameters := function.get("parameters")):
            yield f"tools[{index}].function.parameters", parameters
    wanted = (body.get("response_format") or {}).get("json_schema")
    if type(wanted) is dict and wanted.get("schema") is not None:
        yield "response_format.json_schema.schema", wanted["schema"]


def _check(place: str, schema: Any) -> None:
    if type(schema) is not dict:
        raise _refused(place, "is not an object")
    nodes = patterns = 0
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        nodes += 1
        if nodes > MOST_NODES:
            raise _refused(place, f"has more than {MOST_NODES} parts")
        if type(node) is list:
            waiting.extend(node)
        for name, value in node.items() if type(node) is dict else ():
            if name in ("properties", "$defs", "definitions") and type(value) is dict:
                waiting.extend(value.values())  # its keys are names, not keywords
                continue
            patterns += _check_keyword(place, name, value)
            waiting.append(value)
        if patterns > MOST_PATTERNS:
            raise _refused(place, f"has more than {MOST_PATTERNS} patterns")


def _check_keyword(place: str, name: str, value: Any) -> int:
    """The number of patterns in it."""
    if name == "pattern" and type(value) is str:
        _check_pattern(place, value)
        return 1
    if name == "patternProperties" and type(value) is dict:
        for pattern in value:
            _check_pattern(place, pattern)
        return len(value)
    if name == "$ref" and not (type(value) is str and value.startswith("#")):
        raise _refused(place, "refers to something outside itself; $ref must begin with '#'")
    if name in _LENGTHS and type(value) is int and abs(value) > MOST_LENGTH:
        raise _refused(place, f"asks for a {name} beyond {MOST_LENGTH}")
    if name == "enum" and type(value) is list and len(value) > MOST_CHOICES:
        raise _refused(place, f"has an enum of more than {MOST_CHOICES} values")
    return 0


def _check_pattern(place: str, pattern: str) -> None:
    if len(pattern) > MOST_PATTERN_CHARS:
        raise _refused(place, f"has a pattern of more than {MOST_PATTERN_CHARS} characters")
    if _NOT_REGULAR.search(pattern):
        raise _refused(
            place, "has a pattern that looks ahead, looks behind or refers back, which no backend can follow"
        )
    repeats = 1
    for least, most in _COUNTED.findall(pattern):
        repeats *= max(1, int(least or 0), int(most or 0))
    if repeats > MOST_REPEATS:
        raise _refused(place, f"has a pattern whose counted repetitions multiply to more than {MOST_REPEATS}")
    try:
        re.compile(_CLASSES.sub(r"\\w", pattern))
    except (re.error, RecursionError, OverflowError):
        raise _refused(place, "has a pattern that is not a regular expression") from None


def _refused(place: str, why: str) -> BadRequest:
    return BadRequest(f"The schema at {place} {why}.", param=place, code="schema_refused")
