"""What the installer says: one paragraph for each failure that is known, and progress read from the tools' own words.

It knows the messages of uv 0.13 and pip; a failure that it does not know is shown by its last line.
"""

from __future__ import annotations

import re

DETAILS = "Details: .callgate/install.log"

REASONS = (
    (
        r"No space left on device|os error 28",
        "The disk is full: make room and start again; what was fetched is kept.",
    ),
    (
        r"hashes? (mismatch|do not match)|hash mismatch|THESE PACKAGES DO NOT MATCH",
        "A package does not have the digest that the lock file states, so it was not installed. A mirror or a proxy "
        "may have altered it: delete the cache (.venv/bin/uv cache clean) and start again; if it stays so, distrust "
        "that mirror.",
    ),
    (
        r"invalid peer certificate|certificate verify failed|CERTIFICATE_VERIFY_FAILED|UnknownIssuer",
        "The certificate of the package registry is not trusted here. Behind a company proxy, set SSL_CERT_FILE to its "
        "certificate bundle and start again.",
    ),
    (
        r"40[137] (Client Error|Forbidden|Unauthorized|Proxy)|status code: 40[137]",
        "The package registry, or the proxy before it, refused: does it ask for a login?",
    ),
    (
        r"dns error|failed to lookup|Name or service not known|Temporary failure in name resolution|Connection refused|"
        r"error sending request|Network is unreachable|timed out|Could not connect|No route to host|NewConnectionError",
        "The package registry cannot be reached. Check the network (a proxy goes into HTTPS_PROXY, a mirror into pip's "
        "index-url) and start again; what was fetched is kept.",
    ),
    (
        r"command '?\S*(gcc|cc|clang|g\+\+)'? failed|No such file or directory: '(gcc|cc|clang)|unable to execute|"
        r"compiler",
        "A package has no ready-made build for this machine and needs a C compiler. On Debian or Ubuntu: sudo apt "
        "install build-essential. Linux on x86-64 or arm64 with glibc 2.28 or later needs none.",
    ),
    (
        r"no wheels? with a matching|doesn't have a (source distribution|wheel)|No matching distribution|not supported",
        "A package has no ready-made build for this machine. Callgate runs on Linux (x86-64 or arm64, glibc 2.28 or "
        "later) with Python 3.11 to 3.13.",
    ),
    (
        r"Permission denied|os error 13",
        "A file cannot be written: is this checkout, or the cache in your home directory, someone else's?",
    ),
)


def explain(output: str, otherwise: str) -> str:
    """The first known reason in a failed command's output, or `otherwise`, and where the details are."""
    for pattern, reason in REASONS:
        if re.search(pattern, output, re.IGNORECASE):
            return f"{reason}\n{DETAILS}"
    last = [line.strip() for line in output.splitlines() if line.strip()][-1:]
    return "\n".join([otherwise, *(f"Its last words: {line}" for line in last), DETAILS])


def downloads(lines: list[str]) -> str:
    """The large files so far, from uv's own words: how many are done and which is under way."""
    begun = [m[1] for line in lines if (m := re.match(r"\s*(?:Downloading|Building) (\S+(?: \([^)]*\))?)", line))]
    done = {m[1] for line in lines if (m := re.match(r"\s*(?:Downloaded|Built) (\S+)", line))}
    under_way = [name for name in begun if name.split(" ")[0] not in done]
    if not begun:
        return ""
    return f", large files {len(begun) - len(under_way)}/{len(begun)}" + (f", now {under_way[0]}" if under_way else "")


def duration(seconds: float) -> str:
    """Seconds for a reader: 4.2 s, 31 s, 3.5 min."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
