"""Which flows of a NeMo configuration NeMo itself would run, read from its files: declared rails, rails of Colang 2.x, dialog flows.

It knows YAML and the first words of Colang's lines, not what a flow does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from guardrails.verdict import Stage

TOPICAL = "dialog flows"  # the flow name that stands for a configuration's own dialog flows
_DIALOG_1 = re.compile(r"^define user ", re.MULTILINE)
_DIALOG_2 = re.compile(r"^\s+(?:(?:await|or|when) )*user (?!silent)\w", re.MULTILINE)
_RAILS_2 = {"input rails": "input", "output rails": "output"}
_STAGES: dict[str, Stage] = {"input": "input", "output": "output", "retrieval": "retrieval"}


def flows_of(directory: Path) -> Iterator[tuple[Stage, str]]:
    """Stage and name of each, in NeMo's order. Files that are no YAML have none here: others complain of them."""
    config: dict[str, Any] = {}
    for file in sorted(directory.rglob("*.y*ml")):
        if file.name not in ("policy.yaml", "tests.yaml"):
            config |= _mapping(file)
    colang = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in sorted(directory.rglob("*.co")))
    declared = config.get("rails") if isinstance(config.get("rails"), dict) else {}
    if str(config.get("colang_version", "1.0")) == "1.0":
        for key, stage in _STAGES.items():
            section = (declared or {}).get(key)
            for flow in (section.get("flows") if isinstance(section, dict) else None) or ():
                yield stage, str(flow)
        if _DIALOG_1.search(colang):
            yield "input", TOPICAL
        return
    for flow, stage_2 in _RAILS_2.items():
        section = (declared or {}).get(stage_2)
        if re.search(rf"^flow {flow}\b", colang, re.MULTILINE) or (isinstance(section, dict) and section.get("flows")):
            yield _STAGES[stage_2], flow
    if _DIALOG_2.search(colang):
        yield "input", TOPICAL


def _mapping(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return data if isinstance(data, dict) else {}
