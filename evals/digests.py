"""Content digests: the same content gives the same name, whatever its order of keys, and one changed byte another.

Does not sign anything; see report.py for the signature.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces. Raises ValueError for NaN and infinities, which JSON has not."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """`sha256:` and 64 hexadecimal digits over the canonical JSON of `value`."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def code_digest(folder: Path) -> str:
    """Digest of every Python file below `folder`, by relative path and content: which code computed the numbers."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.py"))
    }
    return digest(files)
