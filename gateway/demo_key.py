"""The API key of the tour: made once, its hash in Redis like that of any other key, the key itself in a private file. And a key for recordings.

They are for the embedded demonstration on loopback only; `callgate keys create` makes the keys of real callers.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from gateway import settings as configuration
from gateway.auth import KEYS_HASH, KeyHasher, StoredKey, read_secret
from gateway.stores import RedisStore, StoreError
from gateway.types import Limits


class DemoKeyError(Exception):
    """No key can be made; the message says why."""


async def demo_key(config: Path, environment: Mapping[str, str], file: Path, now: datetime) -> None:
    """Make sure that `file` holds a key which the gateway will know. Raises: DemoKeyError when Redis does not answer."""
    settings = configuration.load(config, environment)
    secret = configuration.key_secret(settings, environment)
    hasher = KeyHasher(read_secret(secret) if isinstance(secret, Path) else secret)
    store = RedisStore(settings.redis.url, settings.redis.timeout_s)
    try:
        known = {
            msgspec.json.decode(value, type=StoredKey).hash for value in (await store.read_hash(KEYS_HASH)).values()
        }
        if hasher.hash(_read(file)) in known:
            return
        made = hasher.create("tour", now=now.isoformat(timespec="seconds"), limits=Limits(None, None))
        await store.write_hash(KEYS_HASH, made.stored.id, msgspec.json.encode(made.stored))
    except StoreError as error:
        message = (
            f"Redis did not answer ({error}): is the address right (--redis-url, CALLGATE_REDIS_URL), and is it up?"
        )
        raise DemoKeyError(message) from None
    finally:
        await store.aclose()
    _write(file, made.plain)


def recording_key(file: Path) -> None:
    """Make sure that `file` holds a key to seal recordings with."""
    if not _read(file):
        _write(file, f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}")


def _read(file: Path) -> bytes:
    return file.read_bytes().strip() if file.exists() else b""


def _write(file: Path, plain: str) -> None:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(plain + "\n", encoding="utf-8")
