"""A folder of model versions, and which of them is champion or challenger.

One folder a version, never changed once written, and `state.json`, replaced in one step. Knows nothing of how models are judged.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

STATE_FILE = "state.json"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Names of versions, and when things last happened, in Unix seconds (0: never)."""

    champion: str
    challenger: str | None = None
    trained_s: float = 0.0
    shadow_since_s: float = 0.0


class Versions:
    """The folder. One writer at a time (`callgate fraud watch`); any number of readers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, version: str) -> Path:
        return self.folder / version

    def read(self) -> State | None:
        """None when there is no folder yet."""
        try:
            return msgspec.json.decode((self.folder / STATE_FILE).read_bytes(), type=State)
        except FileNotFoundError:
            return None

    def begin(self, model: Path) -> State:
        """The state; with a copy of `model` as the first champion where there was none."""
        if (state := self.read()) is not None:
            return state
        first = self.next_version()
        shutil.copytree(model, self.path(first))
        return self.write(State(champion=first))

    def next_version(self) -> str:
        """A name that no version has: v0001, v0002 and so on."""
        used = [int(path.name[1:]) for path in self.folder.glob("v[0-9]*") if path.name[1:].isdigit()]
        return f"v{max(used, default=0) + 1:04d}"

    def write(self, state: State) -> State:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{STATE_FILE}.{os.getpid()}"
        part.write_bytes(msgspec.json.encode(state) + b"\n")
        part.replace(self.folder / STATE_FILE)
        return state

    def changed_ns(self) -> int:
        """Grows whenever the state is written; 0 without one."""
        try:
            return (self.folder / STATE_FILE).stat().st_mtime_ns
        except OSError:
            return 0
