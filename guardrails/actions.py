"""Custom actions and recognisers of policies: Python from the image's trusted folder and from nowhere else, and only what cannot reach out.

A policy names its actions; the file must be in the folder, import nothing but what is listed here, and touch no name that leads around that.
This bounds mistakes and keeps review short; it is no sandbox against the image's own authors.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from guardrails.detectors.own import Recognizer

ALLOWED_MODULES = frozenset(
    [
        "__future__",
        "collections",
        "collections.abc",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "functools",
        "itertools",
        "json",
        "math",
        "re",
        "statistics",
        "string",
        "typing",
        "unicodedata",
        "nemoguardrails.actions",
        "nemoguardrails.actions.actions",
        "nemoguardrails.actions.rail_outcome",
        "presidio_analyzer",
    ]
)
FORBIDDEN_NAMES = frozenset(
    [
        "eval",
        "exec",
        "compile",
        "open",
        "input",
        "__import__",
        "globals",
        "locals",
        "vars",
        "getattr",
        "setattr",
        "delattr",
        "breakpoint",
        "memoryview",
        "__builtins__",
    ]
)


class ActionRefused(Exception):
    """An action file that may not run: which line, and why."""

    def __init__(self, file: Path, line: int | None, message: str) -> None:
        super().__init__(message)
        self.file, self.line, self.message = file, line, message


def find_actions(names: Sequence[str], folder: Path | None) -> dict[str, Path]:
    """The checked files of these actions. Raises: ActionRefused."""
    found = {}
    for name in names:
        if folder is None:
            raise ActionRefused(
                Path(f"{name}.py"), None, "this gateway has no trusted folder of actions (policy_store.actions_dir)"
            )
        file = folder / f"{name}.py"
        if not file.is_file():
            raise ActionRefused(file, None, "there is no such file in the trusted folder of actions")
        check_source(file, file.read_text(encoding="utf-8"))
        found[name] = file
    return found


def check_source(file: Path, source: str) -> None:
    """Raises: ActionRefused naming the line."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ActionRefused(file, error.lineno, f"is not Python: {error.msg}") from None
    named: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        for module in _imported(node):
            if module not in ALLOWED_MODULES:
                raise ActionRefused(
                    file,
                    getattr(node, "lineno", None),
                    f"imports '{module}'; an action may import: {', '.join(sorted(ALLOWED_MODULES))}",
                )
        named |= _modules_named(node)
    for node in ast.walk(tree):
        for module in _reached(node, named):
            raise ActionRefused(
                file, getattr(node, "lineno", None), f"reaches '{module}' through a module it may import"
            )
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in FORBIDDEN_NAMES or (
            name not in ("__init__", "__name__") and name.startswith("__") and name.endswith("__")
        ):
            raise ActionRefused(file, getattr(node, "lineno", None), f"uses '{name}', which an action may not")


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or "")


def _modules_named(node: ast.AST) -> dict[str, ModuleType]:
    """What an import statement calls modules: ``import json as j`` is j, ``import collections.abc`` is collections."""
    if not isinstance(node, ast.Import):
        return {}
    called = ((a.asname, a.name) if a.asname else (a.name.partition(".")[0],) * 2 for a in node.names)
    return {name: importlib.import_module(module) for name, module in called}


def _reached(node: ast.AST, named: Mapping[str, ModuleType]) -> Iterator[str]:
    """Modules that a name or attribute of an allowed module leads to and that are not allowed: ``dataclasses.sys``."""
    found: list[tuple[Any, str]] = []
    if isinstance(node, ast.ImportFrom) and node.module:
        found = [(importlib.import_module(node.module), alias.name) for alias in node.names]
    elif isinstance(node, ast.Attribute):
        found = [(_value(node.value, named), node.attr)]
    for value, name in found:
        inner = getattr(value, name, None) if isinstance(value, ModuleType) else None
        if isinstance(inner, ModuleType) and inner.__name__ not in ALLOWED_MODULES:
            yield inner.__name__


def _value(node: ast.AST, named: Mapping[str, ModuleType]) -> Any:
    if isinstance(node, ast.Name):
        return named.get(node.id)
    return getattr(_value(node.value, named), node.attr, None) if isinstance(node, ast.Attribute) else None


def load_modules(files: Mapping[str, Path]) -> Iterator[ModuleType]:
    """The modules of checked files. Runs their top level. Raises: ActionRefused."""
    for name, file in files.items():
        spec = importlib.util.spec_from_file_location(f"callgate_action_{name}", file)
        if spec is None or spec.loader is None:
            raise ActionRefused(file, None, "cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def load_actions(files: Mapping[str, Path]) -> dict[str, Callable[..., Any]]:
    """The functions that NeMo's ``@action`` marks, by the name that flows call them by."""
    found: dict[str, Callable[..., Any]] = {}
    for module in load_modules(files):
        for value in vars(module).values():
            meta = getattr(value, "action_meta", None)
            if meta is not None and callable(value):
                found[meta["name"]] = value
    return found


def load_own_recognizers(files: Mapping[str, Path]) -> list[Recognizer]:
    """One of each Presidio EntityRecognizer that these files define. Raises: ActionRefused, ValueError."""
    from guardrails.detectors.presidio import recognizers_in  # Presidio is imported where it is needed

    wanted = {name: file for name, file in files.items() if "presidio_analyzer" in file.read_text(encoding="utf-8")}
    return recognizers_in(load_modules(wanted)) if wanted else []
