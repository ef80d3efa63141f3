"""The verdict: numbers and limits in; promote, reject or inconclusive, with the reasons, out. Pure.

It promotes only what it can show and rejects only what it can show; everything else is inconclusive, and it says what
is missing. Knows nothing of samples or answers.

- Promote needs 'not worse by the margin' for every deciding metric at level alpha each. All claims must hold at once,
so
  no correction is due: an intersection-union test keeps alpha (Berger, Technometrics 1982;24:295-300).
- With promote_when 'better', one primary metric must also be shown to improve; any one will do, so Holm applies.
- Reject needs 'worse by more than the margin' for one deciding metric; any one will do, so Holm applies.
- In a sequential run the p values are those of Comparison.anytime, valid however often one looks; Holm applies to them as well.
- What is not scored counts against the claim in question: promote is read from the worst case, reject from the best
case.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.statistics.differences import holm, interval, p_above, p_below
from evals.types import Comparison, GateReport, Limits, MetricDecision, PromoteWhen, Standing, Verdict


def decide(comparisons: Sequence[Comparison], limits: Limits) -> GateReport:
    """Comparisons of one run, and the limits they are held to."""
    deciding = [c for c in comparisons if c.decides and c.trust.may_decide and not _blockers(c, limits)]
    worse = _adjusted(deciding, [p_worse(c) for c in deciding])
    primaries = [c for c in deciding if c.primary]
    better = _adjusted(primaries, [p_better(c) for c in primaries])
    decisions = tuple(_decide_metric(c, limits, worse, better) for c in comparisons)
    return GateReport(*_verdict(decisions, comparisons, limits), decisions, limits)


def p_worse(comparison: Comparison) -> float:
    if comparison.anytime is not None:
        return comparison.anytime.p_worse
    return p_below(comparison.best, -comparison.margin)


def p_better(comparison: Comparison) -> float:
    return p_above(comparison.worst, 0.0) if comparison.anytime is None else comparison.anytime.p_better


def p_not_worse(comparison: Comparison) -> float:
    if comparison.anytime is not None:
        return comparison.anytime.p_not_worse
    return p_above(comparison.worst, -comparison.margin)


def _bounds(comparison: Comparison, alpha: float) -> tuple[float, float]:
    if comparison.anytime is not None:
        return comparison.anytime.low, comparison.anytime.high
    return interval(comparison.worst, alpha)[0], interval(comparison.best, alpha)[1]


def _adjusted(comparisons: Sequence[Comparison], p_values: Sequence[float]) -> dict[str, float]:
    return dict(zip((c.metric for c in comparisons), holm(p_values), strict=True))


def _blockers(comparison: Comparison, limits: Limits) -> tuple[str, ...]:
    """Why a metric that is meant to decide cannot, whatever its numbers."""
    found = []
    if comparison.scored.conversations < limits.min_conversations:
        found.append(
            f"scored on both sides: {comparison.scored.conversations} conversations, at least {limits.min_conversations} are needed"
        )
    missing = comparison.applicable - comparison.scored.pairs
    if missing > limits.max_not_scored * comparison.applicable:
        found.append(
            f"{missing} of {comparison.applicable} pairs are not scored, at most {limits.max_not_scored:.0%} may be"
        )
    return tuple(found)


def _decide_metric(
    comparison: Comparison, limits: Limits, worse: dict[str, float], better: dict[str, float]
) -> MetricDecision:
    low, high = _bounds(comparison, limits.alpha)
    not_worse = p_not_worse(comparison)
    p_of_worse, p_of_better = worse.get(comparison.metric, 1.0), better.get(comparison.metric, 1.0)
    margin = f"the margin of {comparison.margin:g}"
    blockers = _blockers(comparison, limits)
    verdict = Verdict.INCONCLUSIVE
    if not comparison.decides:
        reason = f"for information only ({comparison.trust.reason})"
    elif not comparison.trust.may_decide:
        more = comparison.trust.labels_needed
        labels = f"; about {more} labels would decide" if more else "; no number of labels would help this judge"
        refused = f"the judge is refused: {comparison.trust.reason}{labels}"
        reason = comparison.trust.reason if comparison.trust.standing is Standing.CHANGED else refused
    elif blockers:
        reason = "; ".join(blockers)
    elif p_of_worse <= limits.alpha:
        verdict, reason = Verdict.REJECT, f"worse by more than {margin} (p {p_of_worse:.3g} after Holm)"
    elif not_worse <= limits.alpha:
        verdict = Verdict.PROMOTE
        reason = f"better (p {p_of_better:.3g} after Holm)" if p_of_better <= limits.alpha else f"not worse by {margin}"
    else:
        reason = f"the interval from {low:+.3f} to {high:+.3f} holds both sides of {margin}"
    return MetricDecision(
        comparison.metric, verdict, not comparison.decides, low, high, p_of_worse, not_worse, p_of_better, reason
    )


def _verdict(
    decisions: Sequence[MetricDecision], comparisons: Sequence[Comparison], limits: Limits
) -> tuple[Verdict, tuple[str, ...]]:
    counted = [decision for decision in decisions if not decision.informational]
    if not counted:
        return Verdict.INCONCLUSIVE, ("no metric of the suite decides",)
    rejected = tuple(f"{d.metric}: {d.reason}" for d in counted if d.verdict is Verdict.REJECT)
    if rejected:
        return Verdict.REJECT, rejected
    undecided = tuple(f"{d.metric}: {d.reason}" for d in counted if d.verdict is Verdict.INCONCLUSIVE)
    if undecided:
        return Verdict.INCONCLUSIVE, undecided
    improved = tuple(f"{d.metric}: {d.reason}" for d in counted if d.p_better <= limits.alpha)
    if limits.promote_when is PromoteWhen.BETTER and not improved:
        names = ", ".join(c.metric for c in comparisons if c.primary and c.decides) or "none is named"
        return Verdict.INCONCLUSIVE, (f"nothing is worse, but no primary metric ({names}) is shown to be better",)
    return Verdict.PROMOTE, improved or tuple(f"{d.metric}: {d.reason}" for d in counted)
