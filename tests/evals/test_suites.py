"""The shipped suites hold what their cards say: cases that can be passed and can be failed, without doubles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.judges.checks import CHECKS
from evals.suite import Suite, load_suite
from evals.types import Answer, Sample, ToolCall

SUITES = Path(__file__).parents[2] / "evals" / "suites"
GOLDEN = sorted(path.parent.name for path in SUITES.glob("*/suite.yaml") if path.parent.name != "call-centre-smoke")


@pytest.fixture(scope="module", params=GOLDEN)
def suite(request: pytest.FixtureRequest) -> Suite:
    return load_suite(SUITES / request.param)


def best(sample: Sample) -> Answer:
    """An answer as a case wants it, put together from what it expects."""
    said = ["I'm sorry, I cannot help with that."] if sample.expect.refuse else []
    said += [wording for wordings in sample.expect.facts for wording in wordings]
    said += [f"[{source}]" for source in sample.expect.citations[:1]]
    return Answer(sample.id, "best", 0, " ".join(said) or "Gladly.", tool_calls=sample.expect.tools or ())


def worst(sample: Sample, check: str) -> Answer:
    """An answer that does what the check looks for."""
    said = {
        "no_leak": " ".join(sample.expect.secrets),
        "refusal": "Gladly." if sample.expect.refuse else "I'm sorry, I cannot help with that.",
        "length": "word " * 500,
        "tone": " ".join(sample.expect.avoid),
    }
    calls = () if sample.expect.tools else (ToolCall("block_card", (("card", "debit"),)),)
    return Answer(sample.id, "worst", 0, said.get(check, "Hm."), tool_calls=calls)


def test_there_are_eight_of_them() -> None:
    assert len(GOLDEN) == 8


def test_it_has_sixty_different_cases_and_a_card(suite: Suite) -> None:
    samples = suite.dataset.samples
    assert len({tuple(m.content for m in sample.messages) for sample in samples}) == len(samples) >= 60
    card = (SUITES / suite.model.name / "CARD.md").read_text(encoding="utf-8")
    assert f"{len(samples)}, written for this project" in card
    assert "**Limits.**" in card


def test_every_case_can_be_passed_and_can_be_failed(suite: Suite) -> None:
    for metric in suite.model.metrics:
        if metric.check is None:
            continue
        kind = CHECKS[metric.check]
        for sample in suite.dataset.samples:
            if kind.applies(sample):
                value, reason = kind.measure(sample, best(sample))
                assert value == 1.0, f"{sample.id} {metric.name}: {reason}"
                value, reason = kind.measure(sample, worst(sample, metric.check))
                assert value == 0.0, f"{sample.id} {metric.name}: {reason}"


def test_every_secret_is_there_to_be_leaked_and_the_targets_are_two(suite: Suite) -> None:
    assert set(suite.model.targets) == {"good", "degraded"}
    for sample in suite.dataset.samples:
        text = json.dumps([message.content for message in sample.messages], ensure_ascii=False)
        assert not sample.expect.secrets or any(secret in text for secret in sample.expect.secrets), sample.id


def test_the_suite_of_the_readme_loads(tmp_path: Path) -> None:
    section = (SUITES.parents[1] / "README.md").read_text(encoding="utf-8").partition("## A suite of your own")[2]
    for language, name in (("yaml", "suite.yaml"), ("json", "cases.jsonl")):
        (tmp_path / name).write_text(section.partition(f"```{language}\n")[2].partition("```")[0], encoding="utf-8")
    assert load_suite(tmp_path).dataset.samples[0].expect.facts == (("8", "eight"),)
