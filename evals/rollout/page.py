"""A rollout as one HTML file: how it ended, each metric's difference as it became known with the margin and the shares, and every step. Renders only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from evals.html import STYLE
from evals.plots import band
from evals.rollout.run import Ending, RolloutPlan

_CLASS = {"promoted": "promote", "rolled back": "reject"}


def page(plan: RolloutPlan, ending: Ending, looks: Sequence[Mapping[str, Any]]) -> str:
    title = f"Rollout of {plan.model}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="v {_CLASS.get(ending.outcome.value, "inconclusive")}">{ending.outcome.value.capitalize()}</p>',
        "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in ending.reasons) + "</ul>",
        f"<p>Candidate minus champion, bounds at alpha {plan.alpha:g} that hold at every look; dashed: the margin; dotted: a larger share.</p>",
        *_plots(looks),
        "<h2>Missing</h2>",
        _missing(looks),
        "<h2>Steps</h2>",
        _steps(looks),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _plots(looks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    margins: dict[str, float] = {}
    for look in looks:
        for one in look.get("metrics", ()):
            if one["pairs"]:
                minutes = _minutes(looks, look)
                rows.setdefault(one["metric"], []).append((minutes, one["estimate"], one["low"], one["high"]))
                margins[one["metric"]] = one["margin"]
    marks = [(f"{look['share']:.0%}", _minutes(looks, look)) for look in _changes(looks)]
    return [
        f"<h2>{escape(name)}</h2>"
        + band(line, title=name, across="minutes", limit=-margins[name], marks=[m for m in marks if line[0][0] <= m[1] <= line[-1][0]])
        for name, line in rows.items()
    ]  # fmt: skip


def _missing(looks: Sequence[Mapping[str, Any]]) -> str:
    """Of the calls that counted, those without a score; they are read as bad for the candidate when it is promoted and as good when it is rolled back."""
    last = next((look["metrics"] for look in reversed(looks) if look.get("metrics")), ())
    rows = []
    for one in last:
        for arm, name in (("candidate", "candidate"), ("baseline", "champion")):
            reasons = one[f"{arm}_missing"]
            why = "; ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
            cells = (one["metric"], name, str(one[f"{arm}_calls"]), str(sum(reasons.values())), why)
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        "<table><tr><th>metric</th><th>arm</th><th>calls</th><th>missing</th><th>why</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _steps(looks: Sequence[Mapping[str, Any]]) -> str:
    """Looks that said something new; of a hundred that said the same, the first."""
    rows, before = [], None
    for look in looks:
        said = (look.get("share"), look["action"], tuple(reason.partition(":")[0] for reason in look["reasons"]))
        if said != before:
            share = f"{look['share']:.0%}" if "share" in look else ""
            cells = (look["at"], share, look["action"], "; ".join(look["reasons"]))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        before = said
    return "<table><tr><th>at</th><th>share</th><th>step</th><th>why</th></tr>" + "".join(rows) + "</table>"


def _changes(looks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for look in looks:
        if "share" in look and (not found or found[-1]["share"] != look["share"]):
            found.append(look)
    return found


def _minutes(looks: Sequence[Mapping[str, Any]], look: Mapping[str, Any]) -> float:
    return (datetime.fromisoformat(look["at"]) - datetime.fromisoformat(looks[0]["at"])).total_seconds() / 60
