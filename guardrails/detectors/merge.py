"""Makes one list of findings that do not overlap out of what several finders said.

Precedence, highest first: token-looking strings of the caller, then score, then length, then place. A lower finding
keeps what the higher ones left of it, so that a text covered by any finder stays covered.
"""

from collections.abc import Iterable

from guardrails.types import Finding


def merged(findings: Iterable[Finding], text: str) -> list[Finding]:
    """Findings in order of place, without overlap; remains without a letter or digit are dropped."""
    ranked = sorted(findings, key=lambda found: (-found.score, found.start - found.end, found.start))
    if len(ranked) < 2:
        return ranked
    owner = bytearray(len(text)) if len(ranked) > 8 else None
    taken: list[tuple[int, int]] = []
    kept: list[Finding] = []
    for found in ranked:
        pieces = _left_over(found.start, found.end, taken) if owner is None else _unowned(owner, found.start, found.end)
        for start, end in pieces:
            piece = found if (start, end) == (found.start, found.end) else _trimmed(found, start, end, text)
            if piece is not None:
                kept.append(piece)
                taken.append((piece.start, piece.end))
                if owner is not None:
                    owner[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
    return sorted(kept, key=lambda found: found.start)


def _left_over(start: int, end: int, taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    pieces = [(start, end)]
    for low, high in taken:
        pieces = (
            [
                part
                for begin, stop in pieces
                for part in ((begin, min(stop, low)), (max(begin, high), stop))
                if part[0] < part[1]
            ]
            if any(begin < high and low < stop for begin, stop in pieces)
            else pieces
        )
    return pieces


def _unowned(owner: bytearray, start: int, end: int) -> list[tuple[int, int]]:
    """The runs of a span that no finding holds yet; linear in the span."""
    pieces = []
    while start < end:
        begin = owner.find(0, start, end)
        if begin < 0:
            break
        stop = owner.find(1, begin, end)
        stop = end if stop < 0 else stop
        pieces.append((begin, stop))
        start = stop
    return pieces


def _trimmed(found: Finding, start: int, end: int, text: str) -> Finding | None:
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    if start == end:
        return None
    return Finding(found.kind, start, end, found.score, found.reason)
