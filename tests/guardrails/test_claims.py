"""What a policy promises of a stream is compiled from it, and one that cannot keep its promise is refused where it is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guardrails.nemo.checks import Check
from guardrails.policy import PolicyError, load_policy
from guardrails.rails import Rails
from guardrails.verdict import Outcome

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(60)]

CONFIG = """\
models: []
rails:
  input: {flows: [regex check input, self check input, slow one, slow two]}
  output: {flows: [regex check output]}
  config:
    regex_detection:
      input: {patterns: [forbidden]}
      output: {patterns: ['we guarantee']}
"""
FLOWS = """\
define subflow slow one
  execute slow

define subflow slow two
  execute slow
"""
POLICY = """\
version: 1
name: claims
rails:
  words: {stage: input, flow: regex check input, deadline_ms: 100}
  size: {stage: input, detector: size, deadline_ms: 50}
  one: {stage: input, flow: slow one, deadline_ms: 300}
  two: {stage: input, flow: slow two, deadline_ms: 400}
  asks: {stage: input, flow: self check input, mode: 'off'}
  passages: {stage: retrieval, detector: size, deadline_ms: 70}
  answer: {stage: output, flow: regex check output, deadline_ms: 200}
output: {horizon_chars: 50, window_chars: 20}
redaction: {ner_timeout_s: 0.5}
"""
PROMPTS = "prompts:\n  - task: self_check_input\n    content: 'Block? {{ user_input }}'\n"
Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    made: list[Rails] = []

    async def build(policy: str = POLICY, ask: Any = None, **more: Any) -> Rails:
        files = {"policy.yaml": policy, "config.yml": CONFIG, "rails.co": FLOWS, "prompts.yml": PROMPTS}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        rails = Rails(load_policy(tmp_path), None, ask=ask, **more)
        await rails.start()
        made.append(rails)
        return rails

    yield build
    for rails in made:
        await rails.aclose()


async def test_a_policy_compiles_to_what_it_holds_adds_and_sees(build: Build) -> None:
    claim = (await build()).claim
    # names 500, cheap input rails 100 + 50, dear ones in parallel 400, the answer's first check 200
    assert (claim.holds_chars, claim.first_token_ms, claim.passage_ms, claim.sees_chars) == (69, 1250, 70, 50)
    assert claim.words() == (
        "holds at most 69 characters, adds at most 1250 ms to the first token (70 more for each passage), "
        "cannot see patterns longer than 50"
    )
    budgeted = (await build(POLICY + "budget_ms: 120\n")).claim
    assert (budgeted.first_token_ms, budgeted.passage_ms) == (500 + 120 + 120, 70)
    silent = (await build(POLICY.replace("flow: regex check output,", "flow: regex check output, mode: 'off',"))).claim
    assert (silent.holds_chars, silent.first_token_ms) == (0, 1050)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "claim: {holds_at_most_chars: 40}\n",
            r"policy.yaml:13: claim.holds_at_most_chars: a horizon of 50 and a window",
        ),
        ("claim:\n  first_token_ms: 1000\n", r"policy.yaml:14: claim.first_token_ms: by its deadlines .* 1250 ms"),
        ("claim:\n  sees_chars: 80\n", r"policy.yaml:14: claim.sees_chars: answers are read 50 characters at a time"),
        ("budget_ms: 3\n", r"policy.yaml:13: budget_ms: its input rails take at least 6.\d+ ms together"),
        (
            "claim: {first_token: 3}\n",
            r"policy.yaml:13: claim.first_token: unknown key; expected one of: first_token_ms",
        ),
    ],
)
async def test_a_promise_that_cannot_be_kept_is_refused_with_file_line_and_reason(
    build: Build, change: str, said: str
) -> None:
    with pytest.raises(PolicyError, match=said):
        await build(POLICY + change)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("flow: slow one, deadline_ms: 300", "flow: slow one, deadline_ms: 2", r"policy.yaml:6: .*takes at least 3 ms"),
        (
            "answer: {stage: output, flow: regex check output",
            "answer: {stage: output, detector: leak",
            "14 words in a row",
        ),
    ],
)
async def test_a_rail_that_could_never_run_or_see_is_refused(build: Build, old: str, new: str, said: str) -> None:
    assert old in POLICY
    policy = POLICY.replace(old, new)
    if "leak" in new:
        policy = policy.replace("horizon_chars: 50", "horizon_chars: 26") + "claim: {}\n"
    with pytest.raises(PolicyError, match=said):
        await build(policy)


def instead(rails: Rails, **checks: Callable[[], Any]) -> None:
    """Puts something else in the place of rails' engines."""
    for name, check in checks.items():

        async def run(*_: Any, check: Callable[[], Any] = check) -> Any:
            return await check()

        rails._built[name].check = run  # type: ignore[method-assign]


async def passes() -> Check:
    return Check("passed", "")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(("fail", "decision"), [("closed", "block"), ("open", "allow")])
async def test_a_rail_past_its_deadline_did_not_run_and_its_fail_mode_decides(
    build: Build, fail: str, decision: str
) -> None:
    rails = await build(POLICY.replace("deadline_ms: 300", f"deadline_ms: 20, fail: {fail}"))

    async def never() -> None:
        await asyncio.Event().wait()

    instead(rails, one=never, two=passes)
    ruling = await rails.check_input(user("hello"))
    late = next(verdict for verdict in ruling.verdicts if verdict.rail == "one")
    assert (late.outcome, late.reason) == (Outcome.NOT_RUN, "not done within 20 ms")
    assert (ruling.decision, ruling.kind) == (decision, "rail_unavailable" if decision == "block" else None)


async def test_a_flow_whose_action_does_not_exist_did_not_run(build: Build) -> None:
    ruling = await (await build()).check_input(user("hello"))
    assert (ruling.decision, ruling.kind) == ("block", "rail_unavailable")
    assert {v.rail: v.outcome for v in ruling.verdicts}["one"] is Outcome.NOT_RUN


async def test_dear_rails_run_side_by_side_and_the_first_block_cancels_what_still_runs(build: Build) -> None:
    rails = await build()
    begun: list[str] = []
    ended: list[str] = []
    both = asyncio.Barrier(2)

    async def blocks() -> Any:
        begun.append("one")
        await both.wait()
        return Check("blocked", "no")

    async def hangs() -> None:
        begun.append("two")
        try:
            await both.wait()
            await asyncio.Event().wait()
        finally:
            ended.append("two")

    instead(rails, one=blocks, two=hangs)
    ruling = await rails.check_input(user("hello"))
    assert ruling.decision == "block"
    assert (sorted(begun), ended) == (["one", "two"], ["two"])
    outcomes = {verdict.rail: (verdict.outcome, verdict.reason) for verdict in ruling.verdicts}
    assert outcomes["two"] == (Outcome.NOT_RUN, "another rail blocked first")
    assert outcomes["asks"] == (Outcome.NOT_RUN, "mode is off")


async def test_cheap_rails_come_before_dear_ones_and_a_block_spares_those(build: Build) -> None:
    asked: list[str] = []

    async def ask(messages: Sequence[dict[str, str]], most: int) -> str:
        asked.append(messages[-1]["content"])
        return "No"

    rails = await build(POLICY.replace("mode: 'off'", "deadline_ms: 10000"), ask)
    assert (await rails.check_input(user("this is forbidden"))).decision == "block"
    assert asked == []
    assert rails._order["input"] == ["words", "size", "one", "two", "asks"]
