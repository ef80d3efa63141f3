"""Plots as SVG text, for a report that is one file and needs nobody else: forest plot, curves, reliability.

Knows numbers and names only; names are escaped. Colours keep their meaning for readers who see no red and green.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, ROW = 720, 190, 26
BLUE, ORANGE, GREY, LIGHT = "#1f5fa8", "#c75b12", "#666", "#ddd"
_PALETTE = ("#1f5fa8", "#c75b12", "#2a8a57", "#7a4fa3", "#666666", "#b0357a")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "4 4")


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a forest plot: an estimate with its interval, and the limit that it is held to (None: none)."""

    name: str
    estimate: float
    low: float
    high: float
    limit: float | None
    strong: bool = True


def forest(bars: Sequence[Bar], *, title: str) -> str:
    """Differences with intervals, one row each; a dashed mark where the margin is, a line at zero."""
    reach = max([0.05, *(abs(edge) for bar in bars for edge in (bar.low, bar.high, bar.limit or 0.0))]) * 1.08
    height = ROW * len(bars) + 44

    def x(value: float) -> float:
        return LEFT + (value + reach) / (2 * reach) * (WIDTH - LEFT - 20)

    parts = [_line(x(0), 8, x(0), height - 30, GREY, 1)]
    for number, bar in enumerate(bars):
        y = 22 + number * ROW
        colour = BLUE if bar.strong else "#9aa7b5"
        parts.append(_text(LEFT - 10, y + 4, bar.name, anchor="end"))
        if bar.limit is not None:
            parts.append(_line(x(bar.limit), y - 9, x(bar.limit), y + 9, ORANGE, 2, "3 2"))
        parts.append(_line(x(bar.low), y, x(bar.high), y, colour, 3))
        parts.append(f'<circle cx="{x(bar.estimate):.1f}" cy="{y}" r="5" fill="{colour}"/>')
    ticks = (-reach, -reach / 2, 0.0, reach / 2, reach)
    parts += [_text(x(tick), height - 12, f"{tick:+.2f}", anchor="middle") for tick in ticks]
    return _svg(height, title, parts)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    across: str,
    limits: Sequence[tuple[str, float]] = (),
) -> str:
    """Shares in [0, 1] over a number, a line a name; `limits` are vertical marks."""
    points = [point for line in series.values() for point in line]
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    height, top, bottom, left = 330, 16, 276, 60

    def x(value: float) -> float:
        return left + (value - first) / ((last - first) or 1.0) * (WIDTH - left - 200)

    def y(share: float) -> float:
        return bottom - share * (bottom - top)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            _line(left, y(tick), WIDTH - 200, y(tick), LIGHT, 1),
            _text(left - 8, y(tick) + 4, f"{tick:.0%}", anchor="end"),
        ]
    for step in range(5):
        value = first + (last - first) * step / 4
        parts.append(_text(x(value), bottom + 18, f"{value:+.2f}", anchor="middle"))
    for name, value in limits:
        parts += [_line(x(value), top, x(value), bottom, ORANGE, 1, "3 2"), _text(x(value) + 3, top + 8, name, size=11)]
    for number, (name, line) in enumerate(series.items()):
        colour, dash = _PALETTE[number % len(_PALETTE)], _DASHES[number % len(_DASHES)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        place = 30 + number * 20
        parts.append(_line(WIDTH - 190, place, WIDTH - 160, place, colour, 2, dash))
        parts.append(_text(WIDTH - 154, place + 4, name))
    parts.append(_text((left + WIDTH - 200) / 2, height - 14, across, anchor="middle"))
    return _svg(height, title, parts)


def band(
    rows: Sequence[tuple[float, float, float, float]],
    *,
    title: str,
    across: str,
    limit: float,
    marks: Sequence[tuple[str, float]],
) -> str:
    """A difference as it became known: (place, estimate, low, high) along the way; `limit` is the margin, `marks` are vertical."""
    first, last = rows[0][0], rows[-1][0]
    near = sorted(max(abs(low), abs(high), abs(limit)) for _, _, low, high in rows)
    reach = 1.1 * near[len(near) // 2]  # the first looks know nothing, and would flatten the rest
    height, top, bottom, left = 240, 16, 190, 60

    def x(value: float) -> float:
        return left + (value - first) / ((last - first) or 1.0) * (WIDTH - left - 30)

    def y(value: float) -> float:
        return (top + bottom) / 2 - max(-reach, min(reach, value)) / reach * (bottom - top) / 2

    edge = [(at, low) for at, _, low, _ in rows] + [(at, high) for at, _, _, high in reversed(rows)]
    parts = [f'<polygon points="{_points(edge, x, y)}" fill="#c9dbee"/>']
    for tick in (-reach, 0.0, reach):
        parts += [
            _line(left, y(tick), WIDTH - 30, y(tick), LIGHT, 1),
            _text(left - 8, y(tick) + 4, f"{tick:+.2f}", anchor="end"),
        ]
    parts.append(_line(left, y(limit), WIDTH - 30, y(limit), ORANGE, 2, "3 2"))
    for name, place in marks:
        parts += [_line(x(place), top, x(place), bottom, GREY, 1, "2 3"), _text(x(place) + 3, top + 8, name, size=11)]
    middle = _points([(at, estimate) for at, estimate, _, _ in rows], x, y)
    parts.append(f'<polyline points="{middle}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    parts += [
        _text(x(place), bottom + 18, f"{place:.3g}", anchor="middle") for place in (first, (first + last) / 2, last)
    ]
    parts.append(_text((left + WIDTH - 30) / 2, height - 10, across, anchor="middle"))
    return _svg(height, title, parts)


def _points(line: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)


def reliability(rows: Mapping[str, tuple[float, float, float]], *, title: str, limit: float | None = None) -> str:
    """Shares with their bounds in [0, 1], for the agreement of a judge: one row a figure. `limit` is what the first one is held to."""
    height = ROW * len(rows) + 40

    def x(value: float) -> float:
        return LEFT + max(0.0, min(1.0, value)) * (WIDTH - LEFT - 20)

    parts = [] if limit is None else [_line(x(limit), 11, x(limit), 29, ORANGE, 2, "3 2")]
    for number, (name, (estimate, low, high)) in enumerate(rows.items()):
        y = 20 + number * ROW
        parts += [_text(LEFT - 10, y + 4, name, anchor="end"), _line(x(low), y, x(high), y, BLUE, 3)]
        parts.append(f'<circle cx="{x(estimate):.1f}" cy="{y}" r="5" fill="{BLUE}"/>')
    parts += [_text(x(tick), height - 10, f"{tick:.2f}", anchor="middle") for tick in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return _svg(height, title, parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title, quote=True)}"'
    style = 'font-family="system-ui, sans-serif" font-size="12" style="background:#fff;max-width:100%"'
    return f"{head} {style}><title>{escape(title)}</title>{''.join(parts)}</svg>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dash: str = "") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222">{escape(text)}</text>'
