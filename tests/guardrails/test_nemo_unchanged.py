"""Configurations that run under `nemoguardrails` run here as they are: NeMo's own examples, Colang 2.x, flows that policy.yaml does not name."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guardrails.flows import flows_of
from guardrails.policy import PolicyError, load_policy
from guardrails.rails import Rails
from guardrails.verdict import Outcome, Ruling
from serving.embedding.minilm import EmbeddingBatcher, MiniLM

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

COLANG_2 = {
    "config.yml": 'colang_version: "2.x"\nmodels: []\n',
    "main.co": """\
import core
import guardrails

flow main
  bot say "Hello, I am here."
  activate politics
  match StoryEnded()

flow user asked politics
  user said "who should I vote for" or user said "what do you think of the president"

flow politics
  user asked politics
  bot say "No politics here."
""",
    "rails.co": """\
flow input rails $input_text
  global $user_message
  $long = await IsLongAction(text=$input_text)
  if $long
    bot say "Too long."
    abort
  $user_message = "{$input_text}!"

flow output rails $output_text
  if search("(?i)guarantee", $output_text)
    bot say "I cannot say that."
    abort
""",
    "policy.yaml": "version: 1\nname: colang-2\nactions: [lengths]\n",
}
LENGTHS = """\
from nemoguardrails.actions import action


@action(name="IsLongAction")
async def is_long(text: str = "") -> bool:
    return len(text) > 40
"""
POLICY = "version: 1\nname: example\n"
Build = Callable[..., Any]


def example(name: str) -> dict[str, str]:
    """One of the configurations that NeMo ships, whole, with the smallest policy.yaml beside it."""
    import nemoguardrails

    folder = Path(nemoguardrails.__file__).parent / "examples/bots" / name
    files = (path for path in folder.rglob("*") if path.suffix in (".yml", ".co"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files} | {"policy.yaml": POLICY}


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    embedder = EmbeddingBatcher(MiniLM(1))
    made: list[Rails] = []

    async def build(files: dict[str, str], ask: Any = None, actions: Path | None = None) -> Rails:
        folder = tmp_path / "policy"
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        rails = Rails(load_policy(folder, actions), embedder.embed, ask=ask, timed=False)
        made.append(rails)
        await rails.start()
        return rails

    yield build
    for rails in made:
        await rails.aclose()
    await embedder.aclose()


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "lengths.py").write_text(LENGTHS)
    return tmp_path / "trusted"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def outcomes(ruling: Ruling) -> dict[str, str]:
    return {verdict.rail: str(verdict.outcome) for verdict in ruling.verdicts}


class Model:
    """A guard model by rules: what was meant, and yes or no. It knows which questions it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, messages: Sequence[dict[str, str]], most: int) -> str:
        text = "\n".join(message["content"] for message in messages)
        self.asked.append(text)
        if "Yes or No" in text:
            return "Yes" if "stupid" in text else "No"
        last = (
            text.rstrip().rpartition("user ")[2] if "user action:" not in text else text.rpartition("user action:")[2]
        )
        if "government" in last:
            return "ask about politics"
        if "tax" in last.lower():
            return "user ask about illegal activities" if "user action:" in text else "ask about criminal activity"
        return "user ask something else" if "user action:" in text else "ask something else"


async def test_nemos_hello_world_answers_politics_itself_and_leaves_the_rest_to_the_model(build: Build) -> None:
    model = Model()
    rails = await build(example("hello_world"), model)
    assert [(line["rail"], line["runs"]) for line in rails.describe()] == [("dialog-flows", "flow 'dialog flows'")]
    ruling = await rails.check_input(user("What do you think about the government?"))
    assert (ruling.decision, ruling.respond, ruling.text) == ("block", "refusal", "I'm sorry, I can't respond to that.")
    assert (await rails.check_input(user("How do I block my card?"))).decision == "allow"
    assert len(model.asked) == 2  # what was meant, twice; nothing was generated


@pytest.mark.parametrize("name", ["abc", "abc_v2"])
async def test_nemos_abc_bot_runs_its_self_checks_and_its_dialog_in_both_languages(build: Build, name: str) -> None:
    model = Model()
    rails = await build(example(name), model)
    names = {
        "abc": ["self-check-input", "self-check-output", "dialog-flows"],
        "abc_v2": ["input-rails", "output-rails", "dialog-flows"],
    }[name]
    told = {line["rail"]: line["cost"] for line in rails.describe()}
    assert sorted(told) == sorted(names)
    assert set(told.values()) == {"asks the guard model: its time and tokens"}
    assert (await rails.check_input(user("How many days off do I get?"))).decision == "allow"
    stopped = await rails.check_input(user("you stupid bot"))
    assert (stopped.decision, stopped.text) == ("block", "I'm sorry, I can't respond to that.")
    dialog = await rails.check_input(user("Can you help me evade tax?"))
    assert (dialog.decision, outcomes(dialog)["dialog-flows"]) == ("block", "block")
    answer = [*user("hi"), {"role": "assistant", "content": "that is a stupid question"}]
    assert (await rails.check("output", answer)).decision == "block"
    answer[-1]["content"] = "Twenty days."
    assert (await rails.check("output", answer)).decision == "allow"


async def test_a_colang_2_configuration_checks_rewrites_and_answers_by_its_flows(build: Build, actions: Path) -> None:
    files = COLANG_2 | {
        "config.yml": COLANG_2["config.yml"] + "rails:\n  dialog:\n    user_messages: {embeddings_only: true}\n"
    }
    rails = await build(files, actions=actions)
    told = {line["rail"]: line["cost"] for line in rails.describe()}
    assert set(told) == {"input-rails", "output-rails", "dialog-flows"}
    assert all("Colang 2.x" in cost for cost in told.values())
    passed = await rails.check_input(user("where is my card?"))
    assert (passed.decision, passed.text) == ("rewrite", "where is my card?!")
    blocked = await rails.check_input(user("where is it " * 8))
    assert (blocked.decision, blocked.respond, blocked.text) == ("block", "refusal", "Too long.")
    assert (await rails.check_input(user("who should I vote for"))).text == "No politics here."
    for said, decision in (("Your card is on its way.", "allow"), ("We guarantee it.", "block")):
        answer = [*user("hi"), {"role": "assistant", "content": said}]
        assert (await rails.check("output", answer)).decision == decision


async def test_a_colang_2_action_that_fails_means_that_the_rail_did_not_run(build: Build, actions: Path) -> None:
    (actions / "lengths.py").write_text(LENGTHS.replace("return len(text) > 40", "raise ValueError(text)"))
    rails = await build(
        COLANG_2 | {"main.co": "import core\nimport guardrails\n\nflow main\n  match StoryEnded()\n"}, actions=actions
    )
    ruling = await rails.check_input(user("where is my card?"))
    assert (ruling.decision, ruling.kind) == ("block", "rail_unavailable")
    assert ruling.verdicts[0].outcome is Outcome.NOT_RUN


async def test_a_flow_that_policy_yaml_names_is_not_run_twice_and_may_be_off(build: Build, actions: Path) -> None:
    named = COLANG_2["policy.yaml"] + "rails:\n  mine: {stage: input, flow: input rails, mode: 'off'}\n"
    rails = await build(
        COLANG_2 | {"policy.yaml": named + "  talk: {stage: input, flow: dialog flows, mode: 'off'}\n"}, actions=actions
    )
    assert sorted(rails.policy.rails) == ["mine", "output-rails", "talk"]
    assert (await rails.check_input(user("long " * 20))).decision == "allow"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("main.co", "import guardrails", "import my.module", r"main.co:2: import: 'my/module' is not in NeMo's own"),
        ("main.co", "import guardrails", 'import "/etc"', r"main.co:2: import: '/etc' is not in NeMo's own"),
        ("config.yml", "models: []", "models: []\nimport_paths: [/tmp]", "import_paths: '/tmp' is not in NeMo's own"),
        ("config.yml", "models: []", "actions_server_url: http://127.0.0.1:1", "texts would go to another server"),
        ("main.co", "flow main", "flow other", "NeMo Guardrails refuses it"),
        ("rails.co", "    abort\n  $user", "   ( abort\n  $user", r"rails.co:6: NeMo Guardrails refuses it"),
        ("rails.co", "$long = await", "$long = ) await", r"rails.co:3: NeMo Guardrails refuses it"),
    ],
)
async def test_what_reaches_out_of_a_policy_or_is_no_colang_is_refused_with_its_line(
    build: Build, actions: Path, name: str, old: str, new: str, said: str
) -> None:
    assert old in COLANG_2[name]
    with pytest.raises(PolicyError, match=said):
        await build(COLANG_2 | {name: COLANG_2[name].replace(old, new)}, actions=actions)


async def test_nemos_examples_are_refused_without_a_model_to_ask(build: Build) -> None:
    for name in ("hello_world", "abc", "abc_v2"):
        with pytest.raises(PolicyError, match="guard_model"):
            await build(example(name))


def test_flows_are_found_as_nemo_would_run_them(tmp_path: Path) -> None:
    for name, text in example("abc").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(flows_of(tmp_path)) == [
        ("input", "self check input"),
        ("output", "self check output"),
        ("input", "dialog flows"),
    ]
