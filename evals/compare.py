"""Scores of two settings on the same samples, turned into one Comparison a metric. Pure: evidence in, numbers out.

A pair that lacks a score is not dropped: it is counted, and `worst` and `best` say what it could do at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np

from evals.calibrate import Calibration, Human
from evals.digests import digest
from evals.drift import changed_trust
from evals.evidence import Evidence, MetricPlan
from evals.statistics.corrections import ppi_difference
from evals.statistics.differences import bootstrap_interval, group, paired_difference
from evals.statistics.sequential import (
    FIRST_LOOK,
    asymptotic_p,
    asymptotic_sequence,
    betting_p,
    betting_sequence,
)
from evals.types import AnyTime, Comparison, Difference, Score, Standing, Trust

_EXACT = Trust(Standing.EXACT, "computed, not judged")


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both sides of one sample and repeat: the metric's value, and what people said where they did."""

    conversation: str
    candidate: float | None
    baseline: float | None
    human: float  # candidate minus baseline by people; NaN where either side has no label

    @property
    def complete(self) -> bool:
        return self.candidate is not None and self.baseline is not None

    def difference(self, candidate_if_missing: float, baseline_if_missing: float) -> float:
        candidate = candidate_if_missing if self.candidate is None else self.candidate
        baseline = baseline_if_missing if self.baseline is None else self.baseline
        return candidate - baseline


def compare(
    evidence: Evidence, *, labels: Human | None = None, calibrations: Sequence[Calibration] = ()
) -> tuple[Comparison, ...]:
    """One Comparison a metric, in the order of the suite.

    A judge that moved on its anchors decides nothing; a calibrated judge's difference is corrected by the labels (PPI++); an uncalibrated or refused one is shown as
    judged.
    """
    trust = {calibration.metric: calibration.trust for calibration in calibrations}
    for metric in evidence.metrics:
        moved = changed_trust(metric.name, evidence.anchors, evidence.locked)
        if moved is not None:
            trust[metric.name] = moved
    uncalibrated = Trust(
        Standing.UNCALIBRATED, "nobody has compared this judge with people", 0, evidence.limits.min_labels
    )
    return tuple(
        _compare(evidence, metric, _EXACT if metric.exact else trust.get(metric.name, uncalibrated), labels or {})
        for metric in evidence.metrics
    )


def rectifier(evidence: Evidence, metric: MetricPlan, labels: Human) -> Difference:
    """What people add to the judge's difference, over the pairs of which they judged both sides: 0 for a judge that favours neither."""
    pairs = [pair for _, pair in _pairs(evidence, metric, labels)]
    both = [pair for pair in pairs if pair.complete and math.isfinite(pair.human)]
    values = [pair.human - pair.difference(0.0, 0.0) for pair in both]
    return paired_difference(values, [pair.conversation for pair in both], span=2.0)


def slices(evidence: Evidence, metric: MetricPlan) -> dict[str, Difference]:
    """The uncorrected difference of one metric within every slice that has a scored pair of it; for reading only."""
    pairs: dict[str, list[_Pair]] = {}
    place = {case.id: case.slice for case in evidence.cases}
    for sample_id, pair in _pairs(evidence, metric, {}):
        if pair.complete:
            pairs.setdefault(place[sample_id], []).append(pair)
    return {name: _difference(group, 0.0, 0.0, corrected=False) for name, group in sorted(pairs.items())}


def resampled(evidence: Evidence, metric: MetricPlan) -> tuple[float, float]:
    """Bootstrap bounds of the uncorrected difference, for reading beside the closed form; the same for the same evidence."""
    pairs = [pair for _, pair in _pairs(evidence, metric, {}) if pair.complete]
    seed = int(digest([evidence.dataset_digest, metric.name])[-16:], 16)
    return bootstrap_interval(
        [pair.difference(0.0, 0.0) for pair in pairs],
        [pair.conversation for pair in pairs],
        evidence.limits.alpha,
        np.random.default_rng(seed),
    )


def _compare(evidence: Evidence, metric: MetricPlan, trust: Trust, labels: Human) -> Comparison:
    pairs = [pair for _, pair in _pairs(evidence, metric, labels)]
    both = [pair for pair in pairs if pair.complete]
    corrected = trust.standing is Standing.CALIBRATED
    labelled = {pair.conversation for pair in both if math.isfinite(pair.human)}
    if corrected and len(labelled) < evidence.limits.min_conversations:
        reason = (
            f"labels of both sides of a pair exist in {len(labelled)} conversations; the correction needs at least "
            f"{evidence.limits.min_conversations}"
        )
        more = 2 * (evidence.limits.min_conversations - len(labelled))  # both sides of a pair in each of them
        trust, corrected = Trust(Standing.REFUSED, reason, trust.labels, trust.labels + more), False
    chosen = _chosen(both) if corrected else None
    if chosen is not None:
        trust, corrected = Trust(Standing.REFUSED, chosen, trust.labels), False
    return Comparison(
        metric=metric.name,
        decides=metric.decides,
        primary=metric.primary,
        margin=metric.margin,
        candidate_mean=_mean([pair.candidate for pair in pairs]),
        baseline_mean=_mean([pair.baseline for pair in pairs]),
        not_scored_candidate=sum(pair.candidate is None for pair in pairs),
        not_scored_baseline=sum(pair.baseline is None for pair in pairs),
        applicable=len(pairs),
        scored=_difference(both, 0.0, 0.0, corrected=corrected),
        worst=_difference(pairs, 0.0, 1.0, corrected=corrected),
        best=_difference(pairs, 1.0, 0.0, corrected=corrected),
        trust=trust,
        method="paired, clustered, corrected by labels (PPI++)" if corrected else "paired, clustered",
        anytime=_anytime(pairs, metric.margin, evidence, corrected=corrected) if evidence.limits.sequential else None,
    )


def _chosen(pairs: list[_Pair]) -> str | None:
    """Why the labelled pairs cannot be a random part of all, which the correction assumes; None where they can be.

    The judge has seen all of them: a mean of his that differs between the labelled and the others by more than 3.3 errors of a random draw (by
    conversation). Of releases on the margin 15 to 26 % were promoted where people took what passes five times as often (150 conversations;
    2026-11-27), unseen. What the judge does not see of the choice is not seen here either.
    """
    seen = np.isfinite([pair.human for pair in pairs])
    if seen.all():
        return None
    groups, count = group([pair.conversation for pair in pairs])
    weights = np.where(seen, 1 / seen.sum(), -1 / (~seen).sum())
    for name in ("candidate", "baseline"):
        values = np.array([getattr(pair, name) for pair in pairs], dtype=np.float64)
        totals = np.bincount(groups, weights=weights * (values - values.mean()), minlength=count)
        if abs(totals.sum()) > 3.3 * np.sqrt(np.square(totals).sum()):
            means = f"{values[seen].mean():.2f} on the labelled, {values[~seen].mean():.2f} on the other answers"
            return f"the labels are not of a random part of the cases: the judge gives the {name} {means}"
    return None


def look_order(dataset_digest: str, conversation: str) -> str:
    """The key by which a sequential run orders conversations: at random, and the same for everybody who asks."""
    return digest([dataset_digest, conversation])


def _anytime(pairs: list[_Pair], margin: float, evidence: Evidence, *, corrected: bool) -> AnyTime:
    """One value a conversation, in the order of the looks: its mean difference, as worst and as best.

    Bets are exact where the metric is computed. Where labels correct a judge the value is judged + (human - judged) / labelled share, whose
    mean is the truth but whose range is not bounded: the asymptotic sequence, which says nothing before 30 labelled conversations. Before 30
    conversations, labelled or not, up to 77 % of releases on the margin were promoted at alpha 5 % by a judge who favours the candidate and
    few labels (30 of 1,000 conversations; 2026-11-27); now at most 5 %.
    """
    order = sorted({pair.conversation for pair in pairs}, key=lambda name: look_order(evidence.dataset_digest, name))
    groups: dict[str, list[_Pair]] = {name: [] for name in order}
    for pair in pairs:
        groups[pair.conversation].append(pair)
    worst, best = (
        np.array([fmean(pair.difference(*sides) for pair in group) for group in groups.values()])
        for sides in ((0.0, 1.0), (1.0, 0.0))
    )
    alpha, first = evidence.limits.alpha, 1
    p_of, sequence = betting_p, betting_sequence
    if corrected:
        human = np.array([fmean(pair.human for pair in group) for group in groups.values()])
        seen = np.isfinite(human)
        complete = np.array([all(pair.complete for pair in group) for group in groups.values()])
        # Labels speak for the conversations that were judged; the others keep the worst and the best that was taken for them.
        share = max(float((seen & complete).sum()) / max(1, complete.sum()), 1e-9)
        worst, best = (one + np.where(seen, human - one, 0.0) / np.where(complete, share, 1.0) for one in (worst, best))
        first = int(np.searchsorted(np.cumsum(seen & complete), FIRST_LOOK)) + 1
        p_of = partial(asymptotic_p, first=first)
        sequence = partial(asymptotic_sequence, first=first)
    few = len(order) < first
    return AnyTime(
        conversations=len(order),
        low=-1.0 if few else float(sequence(worst, alpha).low[-1]),
        high=1.0 if few else float(sequence(best, alpha).high[-1]),
        p_not_worse=p_of(worst, -margin, alpha, above=True),
        p_better=p_of(worst, 0.0, alpha, above=True),
        p_worse=p_of(best, -margin, alpha, above=False),
    )


def _difference(pairs: list[_Pair], candidate: float, baseline: float, *, corrected: bool) -> Difference:
    """Pairs that lack a score with what is given for the missing side."""
    differences = np.array([pair.difference(candidate, baseline) for pair in pairs])
    conversations = [pair.conversation for pair in pairs]
    if corrected:
        judged = np.where([pair.complete for pair in pairs], differences, np.nan)
        return ppi_difference(judged, [pair.human for pair in pairs], conversations, assumed=differences)
    return paired_difference(differences, conversations)


def _pairs(evidence: Evidence, metric: MetricPlan, labels: Human) -> list[tuple[str, _Pair]]:
    """Every sample and repeat to which the metric applies, sorted, so that shards add up to the same sums."""
    scores: Mapping[tuple[str, str, int], Score] = {
        (score.sample_id, score.setting, score.repeat): score
        for score in evidence.scores
        if score.metric == metric.name
    }

    def value(sample: str, setting: str, repeat: int) -> float | None:
        score = scores.get((sample, setting, repeat))
        return score.value if score is not None else None

    def label(sample: str, setting: str, repeat: int) -> float:
        human = labels.get((metric.name, sample, setting, repeat))
        return math.nan if human is None else float(human)

    sides = (evidence.candidate.name, evidence.baseline.name)
    pairs = []
    for case in sorted(evidence.cases, key=lambda case: case.id):
        for repeat in range(evidence.repeats) if metric.name in case.metrics else ():
            mine, other = (value(case.id, side, repeat) for side in sides)
            human = label(case.id, sides[0], repeat) - label(case.id, sides[1], repeat)
            pairs.append((case.id, _Pair(case.conversation, mine, other, human)))
    return pairs


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
