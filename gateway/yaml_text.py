"""YAML as its author sees it: which line a key is on, what ${NAME} stands for, and one line of complaint that names both.

It knows no setting. References are resolved from the environment that it is given, never from the process's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_REFERENCE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


class SettingsError(Exception):
    """A setting that cannot be used. ``str`` gives one line: file, line, key, what is wrong and what would be right."""

    def __init__(self, file: Path, line: int | None, key: str, message: str) -> None:
        place = f"{file}:{line}" if line else str(file)
        super().__init__(f"{place}: {key}: {message}" if key else f"{place}: {message}")
        self.file, self.line, self.key, self.message = file, line, key, message


Place = tuple[str | int, ...]


def read_mapping(file: Path, text: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """A YAML mapping and the line of each of its keys. Raises: SettingsError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise SettingsError(file, mark.line + 1 if mark else None, "", f"{problem}; expected YAML") from None
    if not isinstance(data, dict):
        raise SettingsError(file, 1, "", "must be a mapping with a key 'models'")
    return data, lines_of(node)


def lines_of(node: yaml.Node | None, at: Place = ()) -> dict[Place, int]:
    """The line (from 1) of every key and item in a YAML document."""
    if node is None:
        return {}
    lines = {at: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            lines.update(lines_of(value, inner))
            lines[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines.update(lines_of(value, (*at, index)))
    return lines


def line_at(lines: Mapping[Place, int], at: Place) -> int | None:
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at)


def expand(value: Any, environment: Mapping[str, str], file: Path, lines: Mapping[Place, int], at: Place) -> Any:
    if isinstance(value, dict):
        return {key: expand(item, environment, file, lines, (*at, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environment, file, lines, (*at, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def resolve(match: re.Match[str]) -> str:
        name: str = match.group(1)
        default: str | None = match.group(2)
        found: str | None = environment.get(name) or default
        if found is None:
            key = ".".join(map(str, at))
            raise SettingsError(
                file, line_at(lines, at), key, f"the environment has no {name}; set it, or write ${{{name}:-default}}"
            )
        return found

    return _REFERENCE.sub(resolve, value)


def put(data: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {})
    data[keys[-1]] = value
