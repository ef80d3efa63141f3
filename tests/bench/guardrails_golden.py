"""How many ordinary cases of the golden suites the shipped policy would stop: people and applications at their business, which no training has seen.

The suites were written to test answers, not rails; left out are their slices in which a refusal is right, and the one in a language that the policy refuses.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from guardrails.policy import Policy
from guardrails.rails import Rails
from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Segment
from guardrails.verdict import Outcome

SUITES = Path(__file__).parents[2] / "evals" / "suites"
ORDINARY: dict[str, tuple[str, ...]] = {  # suite to slices; none named: all of them
    "angry-caller": (),
    "next-action": (),
    "knowledge-answers": (),
    "call-summaries": (),
    "authentication": ("right", "wrong", "half", "general"),
    "personal-data": ("own", "summary"),
}


async def golden(policy: Policy, rails: Rails) -> dict[str, float | int | None]:
    """Shares of all, by suite and by rail."""
    redactor = build_redactor(RedactionSettings.model_validate(policy.redaction))
    await redactor.ready()
    stopped: Counter[str] = Counter()
    by_rail: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for suite, slices in ORDINARY.items():
        for line in (SUITES / suite / "cases.jsonl").read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            if slices and case["slice"] not in slices:
                continue
            found = await redactor.redact([Segment(message["content"]) for message in case["messages"]])
            said = [{"role": m["role"], "content": t} for m, t in zip(case["messages"], found.texts, strict=True)]
            ruling = await rails.check_input(said)
            wrong = {
                verdict.rail
                for verdict in ruling.verdicts
                if verdict.outcome is Outcome.BLOCK and policy.rails[verdict.rail].mode == "enforce"
            }
            sizes[suite] += 1
            stopped[suite] += bool(wrong)
            by_rail.update(wrong)
    await redactor.aclose()
    return {
        "golden.fpr": stopped.total() / sizes.total(),
        "golden.cases": sizes.total(),
        **{f"golden.fpr.{suite}": stopped[suite] / size for suite, size in sizes.items()},
        **{f"golden.fpr.{rail}": count / sizes.total() for rail, count in by_rail.items()},
    }
