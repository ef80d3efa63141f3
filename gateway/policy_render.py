"""A plan or an explanation for people: in the terminal, or as one HTML file for a change ticket. It computes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

KINDS = {
    "newly_blocked": "Newly blocked",
    "newly_allowed": "Newly allowed",
    "changed_redaction": "Changed redaction",
    "changed_refusal": "Changed refusal",
}
Report = Mapping[str, Any]
FEWEST_TIMED = 30  # below it a difference in milliseconds is chance
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}
td,th{border:1px solid #bbb;padding:.3em .7em;text-align:left}.bad{color:#a00}.good{color:#060}code{word-break:break-all}"""


def verdict_line(report: Report) -> str:
    """One sentence: may it be applied?"""
    if report["breaches"]:
        return "Over its limits: " + "; ".join(report["breaches"])
    return "Within its limits: it may be applied."


def show_identity(report: Report) -> None:
    """That the running version does not reproduce what was recorded, and where."""
    from rich.console import Console

    console = Console(highlight=False)
    found = report["identity"]
    console.print(
        f"Not reproducible: {found['reproduced']} of {found['replayed']} recorded verdicts; nothing else is said."
    )
    for one in found["not_reproduced"][:20]:
        console.print(f"  {one['request_id']} (recorded by {one['engine']}): {'; '.join(one['why'])}", markup=False)


def show_plan(report: Report) -> None:
    """The plan as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"[bold]{report['plan']}[/bold]  {report['policy']}  {report['base'][:12]} -> {report['digest'][:12]}"
    )
    found = report["identity"]
    console.print(
        f"Identity: {found['reproduced']} of {found['replayed']} recorded verdicts reproduced ({found['incidents']} incidents left out)"
    )
    table = Table("change", "requests", "% of traffic", "by rail", "by intent", "by language")
    for kind, title in KINDS.items():
        one = report[kind]
        share = "-" if one["percent"] is None else f"{one['percent']:.2f}"
        table.add_row(
            title, str(one["requests"]), share, *(_cut(one[cut]) for cut in ("by_rail", "by_intent", "by_language"))
        )
    console.print(table)
    for line in _facts(report):
        console.print(line, markup=False)
    for kind, title in KINDS.items():
        for example in report[kind]["examples"][:3]:
            console.print(f"{title}: {_told(example)}", markup=False)
    console.print(verdict_line(report), style="red" if report["breaches"] else "green", markup=False)


def _cut(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or '-'} {count}" for name, count in list(counts.items())[:4]) or "-"


def _facts(report: Report) -> Iterator[str]:
    time_, cost = report["latency"], report["cost"]
    yield f"Rails, ms a request ({time_['requests']} replayed alone): p50 {time_['old_p50_ms']} -> {time_['new_p50_ms']}, p95 {time_['old_p95_ms']} -> {time_['new_p95_ms']}"
    yield f"Model tokens no longer asked for: {cost['tokens_no_longer_asked_for']} of {cost['tokens']}; requests newly asked: {cost['requests_newly_asked']} (their cost is not known)"
    if cost["old_rail_tokens"] or cost["new_rail_tokens"]:
        yield f"Tokens that rails ask a model for, about: {cost['old_rail_tokens']} -> {cost['new_rail_tokens']}"
    if time_["requests"] >= FEWEST_TIMED:
        yield from _cut_lines(report["cuts"])
    else:
        yield f"Times by rail, intent and language are told from {FEWEST_TIMED} requests on"
    for why, count in report["not_known"]["why"].items():
        yield f"Not known for {count}: {why}"


def _cut_lines(cuts: Report) -> Iterator[str]:
    """Where time and cost change, by rail, intent and language; what does not is left out."""
    for rail, ms in cuts["by_rail"].items():
        old, new = ms["old_ms"], ms["new_ms"]
        if old is None or new is None or abs(new - old) > max(0.05, 0.25 * old):
            yield f"Rail {rail}, ms a check: {'-' if old is None else old} -> {'-' if new is None else new}"
    for by in ("intent", "language"):
        for name, one in list(cuts[f"by_{by}"].items())[:8]:
            saved, asked = one["tokens_no_longer_asked_for"], one["requests_newly_asked"]
            moved = f"p95 {one['old_p95_ms'] or '-'} -> {one['new_p95_ms'] or '-'} ms"
            yield f"{by} {name}, {one['requests']} requests: {moved}, {saved} tokens saved, {asked} newly asked"


def _told(example: Mapping[str, Any]) -> str:
    scores = example["scores"]
    by = f" (score {scores[0]}, threshold {scores[1]})" if scores and scores[0] is not None else ""
    return f"{example['request_id']} {example['was']} -> {example['now']} by {example['rail']}{by}: {example['text']}"


def plan_html(report: Report) -> str:
    """The plan as one self-contained page: no script, nothing loaded from anywhere."""
    found = report["identity"]
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report["at"]))
    rows = "".join(
        f"<tr><th>{title}</th><td>{report[kind]['requests']}</td><td>{_share(report[kind]['percent'])}</td>"
        + "".join(f"<td>{escape(_cut(report[kind][cut]))}</td>" for cut in ("by_rail", "by_intent", "by_language"))
        + "</tr>"
        for kind, title in KINDS.items()
    )
    facts = "".join(f"<li>{escape(line)}</li>" for line in _facts(report))
    examples = "".join(
        f"<h2>{title}</h2><ol>" + "".join(f"<li>{escape(_told(e))}</li>" for e in report[kind]["examples"]) + "</ol>"
        for kind, title in KINDS.items()
        if report[kind]["examples"]
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report["plan"])}</title><style>{_STYLE}</style>
<h1>Policy {escape(report["policy"])}</h1><p>{escape(report["plan"])}, {at}, by {escape(report["by"])}<br>from <code>{report["base"]}</code><br>to
<code>{report["digest"]}</code></p><p class="{"bad" if report["breaches"] else "good"}">{escape(verdict_line(report))}</p>
<p>Identity: {found["reproduced"]} of {found["replayed"]} recorded verdicts reproduced under the running version; {found["incidents"]} incidents left out.</p>
<table><tr><th>Change</th><th>Requests</th><th>% of traffic</th><th>By rail</th><th>By intent</th><th>By language</th></tr>{rows}</table>
<ul>{facts}</ul>{examples}</html>
"""


def _share(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def show_explanation(told: Report) -> None:
    """Which rail decided, on what, with which score and threshold, and whether it is what was recorded."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{told['request_id']}  {told['policy']}", markup=False)
    by = f", decided by {told['decided_by']}" if told["decided_by"] else ""
    console.print(f"{told['outcome']}{by}; {'as recorded' if told['reproduced'] else 'NOT as recorded'}", markup=False)
    for line in told["differences"]:
        console.print(f"  {line}", markup=False)
    for where, text in {f"{rail['stage']} {rail['channel']}".strip(): rail["text"] for rail in told["rails"]}.items():
        console.print(f"{where} (redacted): {text[:1000]}", markup=False)
    table = Table("stage", "rail", "outcome", "score", "threshold", "reason")
    for rail in told["rails"]:
        cells = [rail[name] for name in ("stage", "rail", "outcome", "score", "threshold", "reason")]
        table.add_row(*(escape_markup("-" if cell is None else str(cell)) for cell in cells))
    console.print(table)


def admin_html(state: Report, history: Sequence[Report]) -> str:
    """Which worker runs which version, and what was changed last: one page, no script, nothing loaded from anywhere."""
    names = list(state["active"])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    active = "".join(f"<td><code>{escape((state['active'][name] or 'none')[:12])}</code></td>" for name in names)
    workers = "".join(
        f"<tr><td>{escape(one['worker'])}</td>"
        + "".join(_runs(one, name, state["active"][name]) for name in names)
        + f"<td>{escape('; '.join(one.get('failed', {}).values()))}</td></tr>"
        for one in state["workers"]
    )
    changes = "".join(
        f"<tr><td>{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(row['at']))}</td>"
        + "".join(f"<td>{escape(str(row[key]))}</td>" for key in ("name", "action"))
        + f"<td><code>{escape(row['previous'][:12])}</code> to <code>{escape(row['digest'][:12])}</code></td>"
        + f"<td>{escape(row['by'])}</td></tr>"
        for row in history
    )
    if state["follow"] == "files":
        word = "Workers follow the files of their policies."
    else:
        word = "All workers run what is active." if state["converged"] else "Not all workers run what is active."
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Callgate: policies</title><style>{_STYLE}</style>
<h1>Policies</h1><p class="{"good" if state["converged"] else "bad"}">{word}</p>
<table><tr><th>Worker</th>{head}<th>Refused</th></tr><tr><th>active</th>{active}<td></td></tr>{workers}</table>
<h2>Changes</h2><table><tr><th>UTC</th><th>Policy</th><th>Action</th><th>Version</th><th>By</th></tr>{changes}</table></html>
"""


def _runs(worker: Report, name: str, active: str | None) -> str:
    digest = worker.get("runs", {}).get(name, "")
    behind = ' class="bad"' if active is not None and digest != active else ""
    return f"<td{behind}><code>{escape(digest[:12] or '-')}</code></td>"


def escape_markup(text: str) -> str:
    """Tokens such as [PERSON_1] are text here, not rich's markup."""
    return text.replace("[", r"\[")
