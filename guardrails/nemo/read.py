"""A policy's NeMo configuration as NeMo reads it: shown without what is ours, with imports from NeMo's own library alone, refused with file and line.

It runs no flow.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from guardrails.policy import NEMO_SUFFIXES, NOT_NEMOS, PolicyError

_IMPORT = re.compile(r'^import\s+(?:"([^"]*)"|(\S+))', re.MULTILINE)


@contextmanager
def shown(directory: Path) -> Iterator[Path]:
    """A copy without policy.yaml, which is ours, and without Python: NeMo reads every YAML file and runs any config.py."""
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / "config"
        shutil.copytree(directory, place, ignore=_not_nemos)
        yield place


def read(place: Path, directory: Path) -> Any:
    """NeMo's configuration of what is shown. Raises: PolicyError naming the policy's own file."""
    from nemoguardrails import RailsConfig
    from nemoguardrails.rails.llm import config as nemo

    _check_imports(directory)
    nemo._load_imported_paths = _load_from_the_library  # its own looks in the working directory first
    try:
        config = RailsConfig.from_path(str(place))
    except Exception as error:  # noqa: BLE001 - NeMo's parsers raise many kinds; all mean that the configuration cannot be used
        raise refused(directory, error) from None
    if config.actions_server_url:
        message = "texts would go to another server; give actions by policy.yaml's actions"
        raise PolicyError(directory / "config.yml", None, "actions_server_url", message)
    return config


def refused(directory: Path, error: Exception) -> PolicyError:
    """NeMo's word on a configuration, at the Colang file and line where its parser stops, if that is where."""
    said = " ".join(str(error).split())[:300]
    nowhere = (directory / "config.yml", None)
    at, line = next(filter(None, map(_colang_fault, sorted(directory.rglob("*.co")))), nowhere)
    return PolicyError(at, line, "", f"NeMo Guardrails refuses it: {type(error).__name__}: {said}")


def _not_nemos(_: str, names: list[str]) -> list[str]:
    return [
        name for name in names if name in NOT_NEMOS or (Path(name).suffix and Path(name).suffix not in NEMO_SUFFIXES)
    ]


def _check_imports(directory: Path) -> None:
    """Raises: PolicyError for an import of anything but NeMo's own library: a policy stands alone, so that its digest covers it."""
    for file in sorted(directory.rglob("*.co")):
        text = file.read_text(encoding="utf-8", errors="replace")
        for found in _IMPORT.finditer(text):
            path = found[1] or found[2].replace(".", "/")
            if _in_the_library(path) is None:
                line = text.count("\n", 0, found.start()) + 1
                raise PolicyError(file, line, "import", f"'{path}' is not in NeMo's own library", _STANDS_ALONE)
    for file in sorted(directory.glob("*.yml")):
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        for path in (data.get("import_paths") if isinstance(data, dict) else None) or ():
            if _in_the_library(str(path)) is None:
                raise PolicyError(file, None, "import_paths", f"'{path}' is not in NeMo's own library", _STANDS_ALONE)


_STANDS_ALONE = "a policy holds all that it needs in its own directory"


def _in_the_library(path: str) -> Path | None:
    """Where a module of NeMo's library is; None for what is not one."""
    import nemoguardrails

    home = Path(nemoguardrails.__file__).parent
    for root, inside in ((home / "colang/v2_x/library", ""), (home.parent, "nemoguardrails/")):
        place = (root / path).resolve()
        if path.startswith(inside) and place.is_relative_to(home):
            found = next((one for one in (place, place.with_name(f"{place.name}.co")) if one.exists()), None)
            if found is not None:
                return found
    return None


def _load_from_the_library(raw_config: dict[str, Any], colang_files: list[tuple[str, str]]) -> None:
    """In place of NeMo's, which prefers what lies in the working directory: this repository's own `guardrails`, say."""
    from nemoguardrails.rails.llm import config as nemo

    known = raw_config.setdefault("imported_paths", {})
    for path in raw_config["import_paths"]:
        if path in known:
            continue
        place = _in_the_library(path)
        if place is None:
            raise ValueError(f"'{path}' is not in NeMo's own library")
        more, files = nemo._load_path(str(place))
        nemo._join_config(raw_config, more)
        colang_files.extend(files)
        known[path] = str(place)


def _colang_fault(file: Path) -> tuple[Path, int | None] | None:
    """Where a Colang file stops being one: the line that its parser names, else the first that it cannot read up to."""
    text = file.read_text(encoding="utf-8", errors="replace")
    told = _why_no_colang(text)
    if not told:
        return None
    if found := re.search(r"line (\d+)", told):
        return file, int(found[1])
    lines = text.splitlines()
    return file, next((n for n in range(1, len(lines) + 1) if _why_no_colang("\n".join(lines[:n])) == told), None)


def _why_no_colang(text: str) -> str:
    from nemoguardrails.colang import parse_colang_file

    version = "2.x" if re.search(r"^flow ", text, re.MULTILINE) else "1.0"
    try:
        parse_colang_file("a.co", text, include_source_mapping=False, version=version)
    except Exception as error:  # noqa: BLE001 - its parsers raise many kinds
        return str(error)
    return ""
