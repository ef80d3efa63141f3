"""Calls of tools that a model asks for, judged before they leave: declared, well formed, and of a risk that the policy allows.

It runs no tool and knows no wire: whoever calls it hands in names, arguments and declarations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNLISTED = "unlisted"
MOST_ARGUMENT_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants called. ``arguments``: the source of a JSON object. ``declared``: parameter schemas by name, as the request declared them.

    ``misfit``: what is wrong with the call itself, where that was found before (a replay has no arguments); None: it is still to be found.
    """

    name: str
    arguments: str
    declared: Mapping[str, Mapping[str, Any]]
    misfit: str | None = None


@dataclass(frozen=True, slots=True)
class ToolRules:
    """``risks``: the risk of each tool by name, ``unlisted`` for others; ``allowed``: risks that may be called; empty: all."""

    risks: Mapping[str, str]
    allowed: Sequence[str]


def fault_of(call: ToolCall, rules: ToolRules) -> str:
    """Why a call may not leave, in words without any argument's value; empty when it may."""
    if rules.allowed and (risk := rules.risks.get(call.name, UNLISTED)) not in rules.allowed:
        return f"a tool of risk '{risk}', and only {', '.join(rules.allowed)} may be called"
    return misfit_of(call)


def misfit_of(call: ToolCall) -> str:
    """What is wrong with a call under any rules, in words without any argument's value; empty when nothing is."""
    if call.misfit is not None:
        return call.misfit
    if call.name not in call.declared:
        return "a tool that the request does not declare"
    if len(call.arguments) > MOST_ARGUMENT_CHARS:
        return "arguments of over 100,000 characters"
    try:
        given = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return "arguments that are no JSON"
    if not isinstance(given, dict):
        return "arguments that are no JSON object"
    return _against_schema(given, call.declared[call.name])


def _against_schema(given: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The first place where the arguments leave their schema. A schema that points elsewhere is not followed: it counts as broken."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match

    if not schema:
        return ""
    try:
        Draft202012Validator.check_schema(schema)
        error = best_match(Draft202012Validator(schema).iter_errors(given))
    except SchemaError:
        return "a declaration that is no JSON schema"
    except Exception as problem:  # noqa: BLE001 (references that cannot be resolved raise many kinds; none may pass)
        return f"a declaration that cannot be used ({type(problem).__name__})"
    if error is None:
        return ""
    place = ".".join(str(part) for part in error.absolute_path if isinstance(part, str)) or "the whole"
    return f"arguments that do not fit their schema ({place}: {error.validator})"
