"""Recordings are sealed with AES-256-GCM before they are stored; what they say beside (who, when, which policy) is bound to the seal.

Keys have ids: the first seals, every one opens, so a key is rotated by putting a new one before it and kept until retention has emptied
what it sealed. It reads no file and no environment.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence

_ID = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")
NONCE = 12  # bytes; random: NIST SP 800-38D allows 2**32 messages a key


class SealError(Exception):
    """A key that cannot be used, or a seal that does not open. Says which key, never what it is."""


class LostKey(SealError):
    """What was sealed cannot be opened: its key is not among those given."""

    def __init__(self, key_id: str, known: Sequence[str]) -> None:
        have = f"the keys given are {', '.join(known)}" if known else "no key is given"
        super().__init__(
            f"it was sealed with key '{key_id}', and {have}; give that key too, or let retention delete it"
        )
        self.key_id = key_id


class Sealer:
    """Seals and opens with the keys given as ``id:base64`` lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Raises: SealError naming the line that is no key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._keys: dict[str, AESGCM] = {}
        for number, line in enumerate(lines, 1):
            key_id, separator, coded = line.strip().partition(":")
            try:
                key = base64.b64decode(coded, validate=True)
            except binascii.Error:
                key = b""
            if not separator or not _ID.match(key_id) or len(key) != 32:
                raise SealError(
                    f"recording key {number} is not 'id:key' with 32 bytes of base64; make one: echo k1:$(openssl rand -base64 32)"
                )
            if key_id in self._keys:
                raise SealError(f"two recording keys are called '{key_id}'; give each its own id")
            self._keys[key_id] = AESGCM(key)
        if not self._keys:
            raise SealError("no recording key is given; make one: echo k1:$(openssl rand -base64 32)")
        self.current = next(iter(self._keys))

    def seal(self, content: bytes, bound: bytes) -> bytes:
        """Nonce and ciphertext under the current key. ``bound`` must be given again to open it."""
        nonce = os.urandom(NONCE)
        return nonce + self._keys[self.current].encrypt(nonce, content, bound)

    def open(self, key_id: str, sealed: bytes, bound: bytes) -> bytes:
        """Raises: LostKey, or SealError for what was changed after it was sealed."""
        from cryptography.exceptions import InvalidTag

        key = self._keys.get(key_id)
        if key is None:
            raise LostKey(key_id, list(self._keys))
        try:
            return key.decrypt(sealed[:NONCE], sealed[NONCE:], bound)
        except (InvalidTag, ValueError):
            raise SealError(f"its seal (key '{key_id}') is broken: it was changed after it was written") from None
