"""What a run shows of its judges besides agreement: position bias, disagreement of panels, and why scores are missing. One line each.

Read off the scores and their raw replies; decides nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from statistics import fmean

from evals.evidence import Evidence, out_of_budget
from evals.judges.pairwise import position_bias
from evals.judges.panel import disagreement


def habits(evidence: Evidence) -> Iterator[str]:
    """For a report; nothing for a metric that is computed and complete."""
    asked = len({case.conversation for case in evidence.cases})
    if evidence.limits.sequential:
        saved = 1 - asked / max(1, evidence.conversations)
        yield f"sequential: stopped after {asked} of {evidence.conversations} conversations, {saved:.0%} of the calls not made"
    spent = out_of_budget(evidence)
    if spent:
        yield (
            f"the budget of the suite is spent: {spent} answers and scores are missing for it; raise it and give the same command again, "
            "what was paid for is kept"
        )
    for metric in evidence.metrics:
        scores = [score for score in evidence.scores if score.metric == metric.name]
        if metric.judge.startswith("pairwise/"):
            bias = position_bias(scores, metric.name, evidence.candidate.name)
            if bias.pairs:
                yield (
                    f"{metric.name}: the outcome of {bias.same_place} of {bias.pairs} pairs hung on the place of the reply "
                    f"({bias.first_place} times the first); those are ties"
                )
        if metric.judge.startswith("panel/"):
            shares = [share for share in map(disagreement, scores) if not math.isnan(share)]
            if shares:
                yield f"{metric.name}: {fmean(shares):.0%} of the panel's votes were against the majority"
        left_out = sum(metric.name not in case.metrics for case in evidence.cases)
        if left_out and not metric.exact:
            yield f"{metric.name}: {left_out} of {len(evidence.cases)} cases lack the contexts or the reference it needs and are not asked"
        missing = Counter(score.reason for score in scores if score.value is None)
        if missing:
            said = ", ".join(f"{reason} ({count})" for reason, count in missing.most_common(4))
            yield f"{metric.name}: {missing.total()} of {len(scores)} not scored: {said}"
