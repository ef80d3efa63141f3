"""A Report for readers: a terminal table, Markdown and JUnit XML. Numbers come from the report; nothing is computed
anew.

Shows no text of an answer, so that a report may be pasted anywhere.
"""

from __future__ import annotations

from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evals.habits import habits
from evals.report import Report, Usage
from evals.types import Comparison, MetricDecision, Verdict

_COLOURS = {Verdict.PROMOTE: "green", Verdict.REJECT: "red", Verdict.INCONCLUSIVE: "yellow"}
_HEADS = ("metric", "cand.", "base", "difference [interval]", "scored", "says")


def _row(comparison: Comparison, decision: MetricDecision) -> tuple[str, ...]:
    says = "information" if decision.informational else decision.verdict.value
    difference = f"{comparison.scored.estimate:+.2f}" if comparison.scored.pairs else "-"
    return (
        comparison.metric,
        _share(comparison.candidate_mean),
        _share(comparison.baseline_mean),
        f"{difference} [{decision.low:+.2f}, {decision.high:+.2f}]",
        f"{comparison.scored.pairs}/{comparison.applicable}",
        says if comparison.trust.may_decide else "untrusted",
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def to_terminal(report: Report) -> RenderableType:
    """The table of metrics, the verdict with its reasons, and what the run took; for rich's Console.print."""
    evidence, gate = report.evidence, report.gate
    title = f"{evidence.suite} {evidence.suite_version}: {evidence.candidate.name} against {evidence.baseline.name}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if number in (0, 5) else "right", no_wrap=True)
    for comparison, decision in zip(report.comparisons, gate.decisions, strict=True):
        table.add_row(*(Text(cell) for cell in _row(comparison, decision)))
    verdict = Text(gate.verdict.value.upper(), style=f"bold {_COLOURS[gate.verdict]}")
    lines = [Text(reason) for reason in gate.reasons] + [Text(line, style="dim") for line in _notes(report)]
    return Group(table, verdict, *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines))


def _notes(report: Report) -> list[str]:
    level = 1 - 2 * report.gate.limits.alpha
    notes = [
        f"intervals at level {level:.0%}, clustered by conversation ({len({c.conversation for c in report.evidence.cases})})"
    ]
    notes += habits(report.evidence)
    notes += [
        f"{c.metric}: {c.unmatched} labels fit no scored answer of this run (another text, an unknown case, or not scored)"
        for c in report.calibrations
        if c.unmatched
    ]
    notes += [
        f"{usage.setting}: {usage.prompt_tokens} + {usage.completion_tokens} tokens{_dollars(usage)}, "
        f"{_latency(usage)}, {usage.errors} without an answer"
        for usage in report.usage
    ]
    signed = "signed" if report.signature else "not signed (set CALLGATE_EVAL_KEY to sign it)"
    return [*notes, f"report {report.digest[:23]}, {signed}"]


def _latency(usage: Usage) -> str:
    return f"median {usage.median_latency_ms:.0f} ms" if usage.slowest_latency_ms else "all from earlier replies"


def _dollars(usage: Usage) -> str:
    return f", ${usage.cost_usd:.4f}" if usage.cost_usd else ""


def to_markdown(report: Report) -> str:
    """For a pull request or a wiki page."""
    evidence, gate = report.evidence, report.gate
    lines = [
        f"# {gate.verdict.value.capitalize()}: {evidence.candidate.name} against {evidence.baseline.name}",
        "",
        *(f"- {_plain(reason)}" for reason in gate.reasons),
        "",
        "| " + " | ".join(_HEADS) + " |",
        "|" + "---|" * len(_HEADS),
    ]
    for comparison, decision in zip(report.comparisons, gate.decisions, strict=True):
        lines.append("| " + " | ".join(_plain(cell) for cell in _row(comparison, decision)) + " |")
    lines += [
        "",
        *(f"- {_plain(note)}" for note in _notes(report)),
        "",
        "| what | digest |",
    ]
    lines += ["|---|---|", f"| suite {evidence.suite} {evidence.suite_version} | `{evidence.suite_digest}` |"]
    lines += [f"| dataset | `{evidence.dataset_digest}` |", f"| code | `{evidence.code_digest}` |"]
    lines += [f"| evidence | `{report.evidence_digest}` |", f"| report | `{report.digest}` |"]
    lines += [f"| {metric.name} | `{metric.judge}` |" for metric in evidence.metrics]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def to_junit(report: Report) -> str:
    """One test case a metric: reject is a failure, inconclusive an error, information is skipped."""
    name = f"{report.evidence.suite}.{report.evidence.candidate.name}"
    suite = ElementTree.Element("testsuite", name=name)
    counts = {"failure": 0, "error": 0, "skipped": 0}
    for decision in report.gate.decisions:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=decision.metric)
        kind = {Verdict.REJECT: "failure", Verdict.INCONCLUSIVE: "error"}.get(decision.verdict)
        kind = "skipped" if decision.informational else kind
        if kind is not None:
            ElementTree.SubElement(case, kind, message=decision.reason)
            counts[kind] += 1
    gate = ElementTree.SubElement(suite, "testcase", classname=name, name="gate")
    if report.gate.verdict is not Verdict.PROMOTE:
        kind = "failure" if report.gate.verdict is Verdict.REJECT else "error"
        ElementTree.SubElement(gate, kind, message="; ".join(report.gate.reasons))
        counts[kind] += 1
    suite.attrib.update(
        tests=str(len(report.gate.decisions) + 1),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
    )
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
