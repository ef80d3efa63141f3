"""A policy as it travels and is kept: the texts of its directory under its digest, and back again. It builds and decides nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

from gateway.settings import SettingsError
from guardrails.policy import NEMO_SUFFIXES, PolicyError, files_of, load_policy

NOT_KEPT = ("tests.yaml",)  # cases say nothing of what a policy does, so they are no part of a version


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version. ``files``: path in its directory to text; ``parts``: what else its digest covers."""

    name: str
    digest: str
    files: Mapping[str, str]
    parts: Mapping[str, str]

    def row(self, at: float, by: str) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "name": self.name,
            "at": at,
            "by": by,
            "files": dict(self.files),
            "parts": dict(self.parts),
        }


def read_version(directory: Path, actions: Path | None = None) -> Version:
    """The version that a directory is right now. Raises: SettingsError."""
    try:
        policy = load_policy(directory, actions)
        files = {n: content.decode() for n, content in files_of(directory).items() if n not in NOT_KEPT}
    except PolicyError as error:
        raise SettingsError(error.file, error.line, error.key, _said(error)) from None
    except UnicodeDecodeError:
        raise SettingsError(directory, None, "", "a file of the policy is not UTF-8 text") from None
    return Version(policy.name, policy.digest, files, policy.parts)


def unpack(
    version: Mapping[str, str],
    digest: str,
    folder: Path,
    parts: Mapping[str, str] | None = None,
    actions: Path | None = None,
) -> Path:
    """A directory with these files whose policy has exactly this digest. It is made once and then found.

    Raises: SettingsError for a bundle that is not what its digest says: changed, or resting on weights that this image does not have.
    """
    place = folder / digest
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(dir=folder))
        try:
            for name, text in version.items():
                _refuse_path(name, place)
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_text(text, encoding="utf-8", newline="")
            scratch.rename(place)
        except OSError:
            if not place.is_dir():  # else another worker was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    try:
        policy = load_policy(place, actions)
    except PolicyError as error:
        if not _is_whole(place, version):  # else what this image lacks another one, with the same folder, may have
            shutil.rmtree(place, ignore_errors=True)
        raise SettingsError(error.file, error.line, error.key, _said(error)) from None
    if policy.digest != digest:
        shutil.rmtree(place, ignore_errors=True)
        differing = sorted(
            key for key in {*policy.parts, *(parts or {})} if policy.parts.get(key) != (parts or {}).get(key)
        )
        hint = "run it with policy_store.follow: files, then 'callgate policy adopt'"
        why = f"; this image differs in {', '.join(differing)}: {hint}" if parts is not None and differing else ""
        message = f"digest mismatch: its content is {policy.digest[:12]}{why}"
        raise SettingsError(place / "policy.yaml", None, f"version {digest[:12]}", message)
    return place


def _is_whole(place: Path, version: Mapping[str, str]) -> bool:
    return all((place / name).is_file() and (place / name).read_text("utf-8") == text for name, text in version.items())


def _refuse_path(name: str, place: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix not in NEMO_SUFFIXES:
        message = (
            f"'{name}' may not be in a version; it holds {', '.join(sorted(NEMO_SUFFIXES))} files of its own directory"
        )
        raise SettingsError(place, None, "", message)


def _said(error: PolicyError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
