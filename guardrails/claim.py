"""What a policy promises of a stream, compiled from its settings and the engines of its rails; and why a promise cannot be kept.

Times are bounds by deadlines and budgets, not measurements: past them a rail has not run. The least times are those of an idle machine
(2026-11). It reads no text and runs no rail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from guardrails.detectors.answers import LEAK_WORDS
from guardrails.policy import Policy, PolicyError
from guardrails.policy_lint import line_in
from guardrails.verdict import Stage


@dataclass(frozen=True, slots=True)
class Cost:
    """What a check of an engine costs, in words, and the least time that it can take."""

    words: str
    least_ms: float


COSTS = {
    "iorails": Cost("0.1 ms CPU a check (catalogue rail)", 0.05),
    "direct": Cost("our detector, called directly", 0.005),
    "colang": Cost("6 ms CPU a check (Colang flow)", 3),
    "colang2": Cost("20 ms CPU a check (Colang 2.x flow)", 10),
    "llm": Cost("asks the guard model: its time and tokens", 10),
}
LEAK_CHARS = 2 * LEAK_WORDS - 1  # so many words of one letter


@dataclass(frozen=True, slots=True)
class Claim:
    """Holds at most so many characters, adds at most so many milliseconds to the first token, cannot see patterns longer than so many.

    ``passage_ms`` comes on top for each passage or tool answer that is checked. Nothing is held where no output rail is on.
    """

    holds_chars: int
    first_token_ms: int
    passage_ms: int
    sees_chars: int

    def words(self) -> str:
        passages = f" ({self.passage_ms} more for each passage)" if self.passage_ms else ""
        return (
            f"holds at most {self.holds_chars} characters, adds at most {self.first_token_ms} ms to the first token"
            f"{passages}, cannot see patterns longer than {self.sees_chars}"
        )


def claim_of(policy: Policy, engines: Mapping[str, str], dear: Mapping[Stage, Sequence[str]]) -> Claim:
    """``engines``: of each rail that is on. ``dear``: rails of a stage that run in parallel; the others run one after another."""
    checks_output = any(policy.rails[name].stage == "output" for name in engines)
    redaction = policy.redaction
    names_ms = 0.0 if redaction.get("ner", "on") in ("off", False) else 1000 * float(redaction.get("ner_timeout_s", 2))
    first_ms = names_ms + sum(_most_ms(policy, engines, dear, stage) for stage in ("input", "output"))
    output = policy.output
    return Claim(
        output.horizon_chars - 1 + output.window_chars if checks_output else 0,
        round(first_ms),
        round(_most_ms(policy, engines, dear, "retrieval")),
        output.horizon_chars,
    )


def refuse_impossible(policy: Policy, engines: Mapping[str, str], claim: Claim) -> None:
    """Raises: PolicyError, at the line of policy.yaml, for the first promise that cannot be kept."""
    for key, message, hint in _impossible(policy, engines, claim):
        file = policy.directory / "policy.yaml"
        raise PolicyError(file, line_in(file, key), ".".join(key), message, hint)


def _most_ms(policy: Policy, engines: Mapping[str, str], dear: Mapping[Stage, Sequence[str]], stage: Stage) -> float:
    ms = {name: policy.rails[name].deadline_ms for name in engines if policy.rails[name].stage == stage}
    parallel = [ms.pop(name) for name in dear.get(stage, ()) if name in ms]
    most = sum(ms.values()) + max(parallel, default=0)
    return most if policy.budget_ms is None else min(most, policy.budget_ms)


def _impossible(policy: Policy, engines: Mapping[str, str], claim: Claim) -> Iterator[tuple[tuple[str, ...], str, str]]:
    wanted = policy.claim
    if wanted.holds_at_most_chars is not None and claim.holds_chars > wanted.holds_at_most_chars:
        output = policy.output
        redacted = claim.holds_chars - output.horizon_chars + 1 - output.window_chars
        also = f", and redaction of answers {redacted} more," if redacted > 0 else ""
        yield (
            ("claim", "holds_at_most_chars"),
            f"a horizon of {output.horizon_chars} and a window of {output.window_chars}{also} hold {claim.holds_chars}",
            f"promise {claim.holds_chars}, or see less far",
        )
    if wanted.first_token_ms is not None and claim.first_token_ms > wanted.first_token_ms:
        yield (
            ("claim", "first_token_ms"),
            f"by its deadlines its rails and redaction may take {claim.first_token_ms} ms",
            f"promise {claim.first_token_ms}, or set a smaller budget_ms or ner_timeout_s",
        )
    if wanted.sees_chars is not None and claim.holds_chars and claim.sees_chars < wanted.sees_chars:
        hint = f"set output.horizon_chars to at least {wanted.sees_chars}"
        yield ("claim", "sees_chars"), f"answers are read {claim.sees_chars} characters at a time", hint
    for name, engine in engines.items():
        rail, least = policy.rails[name], COSTS[engine].least_ms
        if rail.deadline_ms < least:
            message = f"{rail.runs} takes at least {least:g} ms ({COSTS[engine].words}), so it could never run in time"
            yield ("rails", name, "deadline_ms"), message, f"set at least {least:g}, better ten times that"
        if rail.detector == "leak" and claim.sees_chars < LEAK_CHARS:
            message = f"{LEAK_WORDS} words in a row need {LEAK_CHARS} characters, and answers are read {claim.sees_chars} at a time"
            yield ("rails", name, "detector"), message, f"set output.horizon_chars to at least {LEAK_CHARS}"
    for stage in ("input", "output", "retrieval", "tool"):
        least = sum(COSTS[engine].least_ms for name, engine in engines.items() if policy.rails[name].stage == stage)
        if policy.budget_ms is not None and policy.budget_ms < least:
            message = f"its {stage} rails take at least {least:g} ms together, so some could never run"
            yield ("budget_ms",), message, f"set at least {least:g}"
