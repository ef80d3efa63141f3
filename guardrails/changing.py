"""What may stand in a value's place without a way back: a mask, a keyed hash, its kind. Tokens, which have one, are in ``tokens``."""

import hashlib
import hmac


def masked(value: str) -> str:
    """All but the last four letters or digits, if there are at least eight; separators stay."""
    length = sum(character.isalnum() for character in value)
    keep, out = 4 if length >= 8 else 0, []
    for character in reversed(value):
        out.append(character if not character.isalnum() or keep > 0 else "*")
        keep -= character.isalnum()
    return "".join(reversed(out))


def hashed(key: bytes, kind: str, value: str) -> str:
    """``<KIND:16 hex digits>``, the same for the same value under the same key (HMAC-SHA-256, RFC 2104)."""
    digest = hmac.new(key, f"{kind}:{value}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"<{kind}:{digest.hexdigest()[:16]}>"


def named(kind: str) -> str:
    """``<KIND>``: only what it was. It has not the form of a token, so nothing is ever put back there."""
    return f"<{kind}>"
