"""The drift report as one HTML page with plots, that needs nothing from anywhere: inline SVG, no script.

Knows figures, not where they come from. No id of a customer, terminal or payment is on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

import numpy as np

from serving.fraud.drift import MEASURED_RATE, Reference
from serving.fraud.monitor import Report

_STYLE = (
    "body{font:15px system-ui;margin:2rem auto;max-width:60rem;color:#223}table{border-collapse:collapse}td,th{padding:.2rem .8rem;"
    "text-align:right;border-bottom:1px solid #dde}td:first-child,th:first-child{text-align:left}.alarm{color:#b00020;font-weight:600}"
    "svg{background:#f7f8fb;margin:.3rem}figure{display:inline-block;margin:.4rem}figcaption{font-size:12px}"
)
_WIDE, _HIGH = 280, 120


def page(report: Report, reference: Reference, values: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> str:
    """values: a column of the window for each feature that shall be plotted."""
    rows = "".join(
        f"<tr{' class=alarm' if shift.alarm else ''}><td>{escape(shift.name)}</td><td>{shift.ks:.3f}</td><td>{shift.psi:.3f}</td>"
        f"<td>{max(shift.ks_excess, shift.psi_excess):+.1f}</td></tr>"
        for shift in report.shifts[:25]
    )
    plots = "".join(_plot(name, reference, column) for name, column in values.items())
    quality = "".join(f"<tr><td>{escape(name)}</td><td>{share:.2%}</td></tr>" for name, share in report.quality.items())
    calibrated = report.calibrated
    told = (
        "too few payments have labels old enough"
        if calibrated is None
        else f"{calibrated.frauds} frauds among {calibrated.rows} payments, {calibrated.expected:.1f} expected "
        f"(z {calibrated.z:+.1f}, alarm beyond {calibrated.limit:.1f})"
    )
    changes = ", ".join(_day(at_s) for at_s in report.concept_at_s) or "none"
    verdict = f"<p class=alarm>Alarms: {escape(', '.join(report.alarms))}</p>" if report.alarms else "<p>No alarm.</p>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Fraud drift</title><style>{_STYLE}</style><h1>Fraud drift</h1>"
        f"<p>{report.rows} payments, {_day(report.from_s)} to {_day(report.to_s)}, against {reference.rows} held out in training. "
        f"Limits are drawn for a nominal rate of {reference.false_alarm_rate:.0%}; in simulated quiet weeks, looked at once, each signal alarms in at most {MEASURED_RATE:.0%}.</p>{verdict}"
        f"<h2>Calibration</h2><p>{told}.</p><h2>Concept</h2><p>ADWIN found the squared error changed at: {changes}.</p>"
        f"<h2>Features and score</h2>{plots}<table><tr><th>feature<th>KS<th>PSI<th>beyond the limit, in spreads</tr>{rows}</table>"
        f"<h2>Data quality</h2><table>{quality}</table></html>"
    )


def _plot(name: str, reference: Reference, column: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """Both distribution functions over the reference's quantiles: the reference is the grey line, the window the blue one."""
    sketch = reference.sketches[name]
    present = np.sort(column[~np.isnan(column)])
    if not sketch.grid or not len(present):
        return ""
    now = np.searchsorted(present, np.array(sketch.grid), "right") / len(column)
    steps = np.linspace(8, _WIDE - 8, len(sketch.grid))
    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
        + " ".join(f"{x:.1f},{_HIGH - 8 - y * (_HIGH - 16):.1f}" for x, y in zip(steps, shares, strict=True))
        + '"/>'
        for colour, shares in (("#99a", sketch.shares), ("#1559d6", now))
    )
    low, high = sketch.grid[0], sketch.grid[-1]
    return (
        f'<figure><svg width="{_WIDE}" height="{_HIGH}" role="img" aria-label="{escape(name)}">{lines}</svg>'
        f"<figcaption>{escape(name)} ({low:.4g} to {high:.4g})</figcaption></figure>"
    )


def _day(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
