"""A Report as one HTML file that needs nobody else: verdict, forest plot, slices, reliability of the judges, worst cases side by side.

Answers are shown, so what has the shape of personal data is taken out first; names are not. Nothing is computed but slices and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from types import MappingProxyType

from evals.compare import resampled, slices
from evals.habits import habits
from evals.judges.personal_data import redact
from evals.plots import Bar, forest, reliability
from evals.report import Report
from evals.statistics.corrections import CorrectedMean
from evals.statistics.differences import interval
from evals.types import Answer, Score

WORST = 8
STYLE = """:root{color-scheme:light dark;--ink:#222;--paper:#fff;--line:#ccc;--faint:#555;--promote:#1b7a43;--reject:#b3261e;--open:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#16181c;--line:#444;--faint:#aaa;--promote:#6cc892;--reject:#ff8a80;--open:#e0b050}}
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
.wide{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse}td,th{border:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
.n td{white-space:nowrap}.n td:last-child{white-space:normal;min-width:12rem}.v{font-size:1.5rem;font-weight:600}
.promote{color:var(--promote)}.reject{color:var(--reject)}.inconclusive{color:var(--open)}h1,li,p,.two td{overflow-wrap:anywhere}svg{min-width:32rem}.two{width:100%}
.two td{width:50%;white-space:pre-wrap}.asked{white-space:pre-wrap;border-left:3px solid var(--line);padding-left:.6rem;margin:.3rem 0}small{color:var(--faint)}
@media(max-width:40rem){body{margin:1rem auto}.two tr{display:flex;flex-direction:column}.two td,.two th{width:auto}}"""


def to_html(report: Report, questions: Mapping[str, str] = MappingProxyType({})) -> str:
    """`questions` are what callers said, by case: evidence does not hold them."""
    evidence, gate = report.evidence, report.gate
    title = f"{evidence.suite} {evidence.suite_version}: {evidence.candidate.name} against {evidence.baseline.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="v {gate.verdict.value}">{gate.verdict.value.capitalize()}</p>',
        _list(gate.reasons),
        "<h2>Differences</h2>",
        f"<p>Candidate minus baseline, intervals at level {1 - 2 * gate.limits.alpha:.0%}, clustered by conversation; dashed: the margin.</p>",
        _forest(report),
        _metrics(report),
        "<h2>By slice</h2>",
        _slices(report),
        "<h2>Judges</h2>",
        *_judges(report),
        "<h2>Worst cases for the candidate</h2>",
        *_worst(report, questions),
        "<h2>What was compared</h2>",
        _digests(report),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _forest(report: Report) -> str:
    bars = [
        Bar(c.metric, c.scored.estimate, d.low, d.high, -c.margin, not d.informational and c.trust.may_decide)
        for c, d in zip(report.comparisons, report.gate.decisions, strict=True)
        if c.scored.pairs
    ]
    return (
        _wide(forest(bars, title="Differences of the metrics")) if bars else "<p>Nothing was scored on both sides.</p>"
    )


def _metrics(report: Report) -> str:
    rows = []
    shown = zip(report.evidence.metrics, report.comparisons, report.gate.decisions, strict=True)
    for metric, c, d in shown:
        says = "information" if d.informational else d.verdict.value if c.trust.may_decide else c.trust.standing.value
        missing = f"{c.not_scored_candidate} / {c.not_scored_baseline} of {c.applicable}"
        best = f"{c.worst.estimate:+.3f} to {c.best.estimate:+.3f}"
        rows.append(
            (
                c.metric,
                _share(c.candidate_mean),
                _share(c.baseline_mean),
                f"{c.scored.estimate:+.3f}" if c.scored.pairs else "-",
                f"{d.low:+.3f} to {d.high:+.3f}",
                "{:+.3f} to {:+.3f}".format(*resampled(report.evidence, metric)),
                missing,
                best,
                says,
                d.reason,
            )
        )
    heads = (
        "metric",
        "candidate",
        "baseline",
        "difference",
        "interval",
        "bootstrap, as judged",
        "not scored",
        "if they were worst to best",
        "says",
        "why",
    )
    return _table(heads, rows, kind="n")


def _slices(report: Report) -> str:
    rows = [
        (
            metric.name,
            name,
            str(found.pairs),
            f"{found.estimate:+.3f}",
            "{:+.3f} to {:+.3f}".format(*interval(found, report.gate.limits.alpha)),
        )
        for metric in report.evidence.metrics
        for name, found in slices(report.evidence, metric).items()
    ]
    return _table(("metric", "slice", "pairs", "difference", "interval"), rows) if rows else "<p>None.</p>"


def _judges(report: Report) -> Iterator[str]:
    judged = [(m, c) for m, c in zip(report.evidence.metrics, report.comparisons, strict=True) if not m.exact]
    if not judged:
        yield "<p>No metric is judged: all are computed.</p>"
        return
    rows = [
        (m.name, m.judge, c.trust.standing.value, c.trust.reason, str(c.trust.labels_needed or "-")) for m, c in judged
    ]
    yield _table(("metric", "judge", "standing", "why", "labels that would decide"), rows)
    yield _list(tuple(habits(report.evidence)))
    rates = [(c.metric, rate) for c in report.calibrations for rate in c.pass_rates if rate.labels]
    if rates:
        yield "<p>Share of the answers that pass, as judged and as the labels of people correct it:</p>"
        yield _table(
            ("metric", "setting", "as judged", "PPI++", "Rogan-Gladen", "labels"),
            [
                (
                    m,
                    r.setting,
                    _share(r.judged),
                    _bounded(r.ppi),
                    _bounded(r.rogan_gladen),
                    f"{r.labels} of {r.answers}",
                )
                for m, r in rates
            ],
        )
    for calibration in report.calibrations:
        if calibration.agreement is not None:
            a = calibration.agreement
            figures = {"kappa": a.kappa, "balanced accuracy": a.balanced_accuracy, "sensitivity": a.sensitivity, "specificity": a.specificity}  # fmt: skip
            shown = {name: (b.estimate, b.low, b.high) for name, b in figures.items()}
            yield f"<h3>{escape(calibration.metric)}: {a.labels} labels</h3>"
            title = f"Agreement of {calibration.metric} with people"
            yield _wide(reliability(shown, title=title, limit=report.gate.limits.min_kappa))


def _worst(report: Report, questions: Mapping[str, str]) -> Iterator[str]:
    """The pairs in which the candidate lost most, one table a metric, by the order of the suite."""
    evidence = report.evidence
    answers = {(a.sample_id, a.setting, a.repeat): a for a in evidence.answers}
    for metric in evidence.metrics:
        scores = {(s.sample_id, s.setting, s.repeat): s for s in evidence.scores if s.metric == metric.name}
        lost = []
        for (sample, setting, repeat), score in scores.items():
            other = scores.get((sample, evidence.baseline.name, repeat))
            if (
                setting == evidence.candidate.name
                and other is not None
                and score.value is not None
                and other.value is not None
            ):
                lost.append((score.value - other.value, sample, repeat))
        lost = sorted(one for one in lost if one[0] < 0)[:WORST]
        if not lost:
            continue
        yield f"<h3>{escape(metric.name)}</h3>"
        for difference, sample, repeat in lost:
            keys = [(sample, side.name, repeat) for side in (evidence.candidate, evidence.baseline)]
            heads = [f"{side.name} ({_share(scores[key].value)}: {scores[key].reason})" for side, key in zip((evidence.candidate, evidence.baseline), keys, strict=True)]  # fmt: skip
            yield f"<p><small>{escape(sample)}, repeat {repeat}, {difference:+.2f}</small></p>"
            if sample in questions:
                yield f'<p class="asked">{escape(redact(questions[sample][:2000]))}</p>'
            yield _table(heads, [tuple(_shown(answers.get(key), scores[key]) for key in keys)], kind="two")


def _shown(answer: Answer | None, score: Score) -> str:
    if answer is None or answer.error:
        return f"(no answer: {answer.error if answer else score.reason})"
    calls = "".join(f"\n[{call.name}]" for call in answer.tool_calls)
    return "(blocked by policy)" if answer.blocked else redact(answer.text[:2000]) + calls


def _digests(report: Report) -> str:
    evidence = report.evidence
    rows = [
        ("suite", evidence.suite_digest), ("dataset", evidence.dataset_digest), ("code", evidence.code_digest),
        ("evidence", report.evidence_digest), ("labels", report.labels_digest or "none"), ("report", report.digest),
        ("signature", report.signature or "not signed"),
        ("candidate", f"{evidence.candidate.model}, version {evidence.candidate.version}"),
        ("baseline", f"{evidence.baseline.model}, version {evidence.baseline.version}"),
        *((f"tokens of {u.setting}", f"{u.prompt_tokens} + {u.completion_tokens}, ${u.cost_usd}, {u.errors} without an answer") for u in report.usage),
    ]  # fmt: skip
    return _table(("what", "value"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return _wide(f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _wide(part: str) -> str:
    """What scrolls by itself where the screen is narrower."""
    return f'<div class="wide">{part}</div>'


def _list(lines: tuple[str, ...]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _bounded(rate: CorrectedMean | None) -> str:
    return "-" if rate is None else f"{rate.estimate:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
