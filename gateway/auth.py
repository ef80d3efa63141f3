"""A key becomes a Caller. Keys are kept only as keyed hashes (HMAC-SHA256), in callgate.yaml or in Redis.

It does not know limits or routes. It fails closed: whatever goes wrong, there is no Caller. Nothing here logs or repeats a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.errors import Unauthenticated
from gateway.stores import RedisStore, StoreError
from gateway.types import Caller, Limits

KEYS_HASH = "callgate:keys"
PREFIX = "cg-"
_REMEMBERED_KEYS = 10_000
REFRESH_S = 2.0  # a revoked key is refused everywhere after this long

_HELP = "Send 'Authorization: Bearer <key>' with a key made by 'callgate keys create'."


class StoredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is kept: never the key itself. ``hash`` is hex HMAC-SHA256 under the gateway's key secret."""

    id: str
    hash: str
    name: str = ""
    created: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: tuple[str, ...] = ()

    def caller(self, default: Limits) -> Caller:
        requests, tokens = self.requests_per_minute, self.tokens_per_minute
        return Caller(
            self.id,
            self.name or self.id,
            Limits(
                default.requests_per_minute if requests is None else requests,
                default.tokens_per_minute if tokens is None else tokens,
            ),
            frozenset(self.models),
        )


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when it is known in full."""

    plain: str = field(repr=False)
    stored: StoredKey


class KeyHasher:
    """Hashes keys under a secret of at least 32 bytes, so that a copied table of hashes cannot be searched for keys."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the key secret must have at least 32 bytes; make one with: openssl rand -hex 32")
        self._secret = secret
        self._short_key = secrets.token_bytes(32)
        self._hashed: dict[bytes, str] = {}

    def hash_known(self, plain: bytes) -> str:
        """``hash``, remembered for the last keys that were asked about under a quicker keyed hash.

        Nothing is compared with a key here: both look-ups are by keyed hashes of the whole of it.
        """
        short = hashlib.blake2b(plain, key=self._short_key, digest_size=32).digest()
        found = self._hashed.get(short)
        if found is None:
            if len(self._hashed) >= _REMEMBERED_KEYS:
                self._hashed.clear()
            found = self._hashed[short] = self.hash(plain)
        return found

    def hash(self, plain: bytes) -> str:
        return hmac.digest(self._secret, plain, "sha256").hex()

    def create(self, name: str, *, now: str, limits: Limits, models: Iterable[str] = ()) -> NewKey:
        """A new key of 32 random bytes. ``now`` is an ISO 8601 time in UTC."""
        key_id = secrets.token_hex(4)
        plain = f"{PREFIX}{key_id}-{secrets.token_urlsafe(32)}"
        stored = StoredKey(
            key_id,
            self.hash(plain.encode()),
            name,
            now,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            tuple(models),
        )
        return NewKey(plain, stored)


def read_secret(path: Path) -> bytes:
    """The key secret of this installation; made, readable by its owner alone, when there is none yet."""
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = secrets.token_hex(32).encode()
        try:
            with open(path, "xb", opener=_open_private) as file:
                file.write(secret)
        except FileExistsError:  # another process was quicker
            return path.read_bytes().strip()
        return secret


def _open_private(name: str, flags: int) -> int:
    import os

    return os.open(name, flags, 0o600)


class KeyTable:
    """All keys, by hash. Those in Redis are read again every two seconds, and at once (at most twice a second) for an unknown one."""

    def __init__(
        self,
        hasher: KeyHasher,
        configured: Iterable[StoredKey],
        store: RedisStore | None,
        default: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hasher = hasher
        self._store = store
        self._default = default
        self._clock = clock
        self._configured = {key.hash: key.caller(default) for key in configured}
        self._callers = dict(self._configured)
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def configure(self, configured: Iterable[StoredKey], default: Limits) -> None:
        """New keys and default limits from the settings, in place of the old; those in Redis are read again soon."""
        self._default = default
        fresh = {key.hash: key.caller(default) for key in configured}
        stored = {digest: caller for digest, caller in self._callers.items() if digest not in self._configured}
        self._configured = fresh
        self._callers = {**stored, **fresh}
        self._read_at = float("-inf")

    def __len__(self) -> int:
        return len(self._callers)

    async def authenticate(self, authorization: bytes | None) -> Caller:
        """The holder of the bearer key in an Authorization header. Raises: Unauthenticated."""
        if authorization is None:
            raise Unauthenticated(f"The request carries no API key. {_HELP}", code="missing_api_key")
        scheme, _, plain = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not plain or len(plain) > 512:
            raise Unauthenticated(f"The Authorization header is not a bearer key. {_HELP}")
        digest = self._hasher.hash_known(plain.strip())
        now = self._clock()
        if self._store is not None and now - self._read_at > REFRESH_S:
            self._refresh_soon(now)
        # The table is keyed by a keyed hash of the whole key: how long a look-up takes says nothing about any key.
        caller = self._callers.get(digest)
        if caller is None and self._store is not None:
            if self._reading is not None and not self._reading.done():
                await asyncio.wait({self._reading})
            elif now - self._read_at > REFRESH_S / 4:
                await self.refresh()
            caller = self._callers.get(digest)
        if caller is None:
            raise Unauthenticated(f"This API key is not known here, or was revoked. {_HELP}")
        return caller

    async def refresh(self) -> None:
        """Reads the keys from Redis. Known keys stay known while Redis is away; a new one is refused until it is back."""
        if self._store is None:
            return
        self._read_at = self._clock()
        try:
            kept = await self._store.read_hash(KEYS_HASH)
        except StoreError:
            return
        callers = dict(self._configured)
        for value in kept.values():
            key = msgspec.json.decode(value, type=StoredKey)
            callers[key.hash] = key.caller(self._default)
        self._callers = callers

    def _refresh_soon(self, now: float) -> None:
        self._read_at = now
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self.refresh())

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
