"""Models, limits and keys for all replicas at once: pushed to Redis as one document, taken from there by every worker.

Whoever pushes checks it first, every worker checks it again, and a document that a worker cannot use changes nothing there. Secrets stay
references, so that each replica resolves its own. It does not put anything in place (gateway/reload.py does).
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from gateway.settings import SHAREABLE, load
from gateway.stores import RedisStore

NAME = "callgate:configuration"


class Pushed(msgspec.Struct, frozen=True):
    """A document as it is kept: YAML text, and who pushed it when (ISO 8601, UTC)."""

    text: str
    by: str
    at: str


def document(file: Path) -> str:
    """The part of a settings file that can be shared, references unresolved. Raises: SettingsError when the file cannot be used."""
    load(file)
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    kept = {key: data[key] for key in SHAREABLE if key in data}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


async def push(store: RedisStore, text: str, *, by: str, at: str) -> None:
    """Raises: StoreError."""
    await store.write_hash(NAME, "current", msgspec.json.encode(Pushed(text, by, at)))


async def current(store: RedisStore) -> Pushed | None:
    """Raises: StoreError."""
    kept = (await store.read_hash(NAME)).get(b"current")
    return msgspec.json.decode(kept, type=Pushed) if kept else None


async def clear(store: RedisStore) -> bool:
    """Whether there was one: from now on every replica goes by its own file. Raises: StoreError."""
    return await store.delete_from_hash(NAME, "current")
