"""NeMo's documented kinds of configuration, as rails: self-checks by a model, topical flows, custom actions; and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guardrails.policy import PolicyError, load_policy
from guardrails.rails import Rails
from guardrails.verdict import Outcome
from serving.embedding.minilm import EmbeddingBatcher, MiniLM

pytestmark = pytest.mark.filterwarnings("ignore")

SELF_CHECK = {
    "config.yml": """\
models:
  - {type: main, engine: openai, model: gpt-4o-mini}
rails:
  input: {flows: [self check input]}
  output: {flows: [self check output]}
""",
    "prompts.yml": """\
prompts:
  - task: self_check_input
    content: 'Message: "{{ user_input }}". Should it be blocked (Yes or No)?'
  - task: self_check_output
    content: 'Answer: "{{ bot_response }}". Should it be blocked (Yes or No)?'
""",
    "policy.yaml": """\
version: 1
name: self-check
rails:
  asks: {stage: input, flow: self check input, deadline_ms: 10000}
  says: {stage: output, flow: self check output, deadline_ms: 10000}
""",
}
TOPICAL = {
    "config.yml": """\
models: []
rails:
  dialog:
    user_messages: {embeddings_only: true, embeddings_only_similarity_threshold: 0.6, embeddings_only_fallback_intent: other}
""",
    "rails.co": """\
define user ask politics
  "who should I vote for"
  "what do you think of the president"

define user other
  "something else entirely"

define bot refuse politics
  "I do not talk about politics."

define flow politics
  user ask politics
  bot refuse politics
""",
    "policy.yaml": """\
version: 1
name: topical
rails:
  politics: {stage: input, flow: dialog flows, respond: refusal, refusal: No politics here., deadline_ms: 10000}
""",
}
ACTION = {
    "config.yml": "models: []\nrails:\n  input: {flows: [check length]}\n",
    "rails.co": """\
define subflow check length
  $long = execute is_long(text=$user_message)
  if $long
    bot refuse length
    stop

define bot refuse length
  "Too long."
""",
    "policy.yaml": """\
version: 1
name: action
actions: [lengths]
rails:
  length: {stage: input, flow: check length, deadline_ms: 10000}
""",
}
LENGTHS = """\
from nemoguardrails.actions import action


@action(name="is_long")
async def is_long(text: str = "") -> bool:
    return len(text) > 40
"""

Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    embedder = EmbeddingBatcher(MiniLM(1))
    made: list[Rails] = []

    async def build(files: dict[str, str], ask: Any = None, actions: Path | None = None) -> Rails:
        folder = tmp_path / "policy"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        rails = Rails(load_policy(folder, actions), embedder.embed, ask=ask)
        made.append(rails)
        await rails.start()
        return rails

    yield build
    for rails in made:
        await rails.aclose()
    await embedder.aclose()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_self_check_asks_the_model_that_is_handed_in_and_no_other(build: Build) -> None:
    asked: list[str] = []

    async def ask(messages: Sequence[dict[str, str]], most: int) -> str:
        asked.append(messages[-1]["content"])
        return "Yes" if "forbidden" in messages[-1]["content"] else "No"

    rails = await build(SELF_CHECK, ask)
    assert [line["cost"] for line in rails.describe()] == ["asks the guard model: its time and tokens"] * 2
    assert (await rails.check_input(user("where is my bill?"))).decision == "allow"
    assert (await rails.check_input(user("something forbidden"))).decision == "block"
    answer = [*user("hi"), {"role": "assistant", "content": "a forbidden promise"}]
    assert (await rails.check("output", answer)).decision == "block"
    assert len(asked) == 3
    assert "where is my bill?" in asked[0]


async def test_a_model_that_cannot_be_asked_means_that_the_rail_did_not_run(build: Build) -> None:
    async def ask(messages: Sequence[dict[str, str]], most: int) -> str:
        raise OSError("away")

    rails = await build(SELF_CHECK, ask)
    ruling = await rails.check_input(user("where is my bill?"))
    assert (ruling.decision, ruling.kind) == ("block", "rail_unavailable")
    assert ruling.verdicts[0].outcome is Outcome.NOT_RUN


async def test_topical_flows_answer_what_they_know_and_leave_the_rest_to_the_model(build: Build) -> None:
    rails = await build(TOPICAL)
    ruling = await rails.check_input(user("who should I vote for in the election?"))
    assert (ruling.decision, ruling.text) == ("block", "No politics here.")
    assert (await rails.check_input(user("my card was stolen"))).decision == "allow"


async def test_a_custom_action_runs_from_the_trusted_folder(build: Build, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "lengths.py").write_text(LENGTHS)
    rails = await build(ACTION, actions=trusted)
    assert (await rails.check_input(user("short"))).decision == "allow"
    assert (await rails.check_input(user("long " * 20))).decision == "block"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (SELF_CHECK, "asks a model; set guard_model.model"),
        (TOPICAL | {"config.yml": "models: []\n"}, "embeddings_only: true"),
        (ACTION, "no trusted folder"),
        (ACTION | {"config.yml": 'colang_version: "2.x"\n' + ACTION["config.yml"]}, "2.x|Colang|no trusted"),
    ],
)
async def test_what_cannot_run_here_is_refused_when_it_is_built(build: Build, files: dict[str, str], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        await build(files)


async def test_a_budget_is_for_all_rails_of_a_stage(build: Build) -> None:
    async def ask(messages: Sequence[dict[str, str]], most: int) -> str:
        await asyncio.Event().wait()
        return "No"

    rails = await build(
        SELF_CHECK | {"policy.yaml": SELF_CHECK["policy.yaml"].replace("rails:", "budget_ms: 20\nrails:")}, ask
    )
    ruling = await rails.check_input(user("where is my bill?"))
    assert ruling.kind == "rail_unavailable"
    assert ruling.verdicts[0].reason == "the policy's budget of 20 ms was spent"
