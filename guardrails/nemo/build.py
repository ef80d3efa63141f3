"""Builds the rails that are flows of a policy's NeMo configuration: a runtime for each, on the engine that costs least.

A catalogue rail of Colang 1.0 takes NeMo's IORails engine (0.06 ms CPU a check), a Colang flow its runtime (1.0: 6 ms, 2.x: 20).
Rails that ask a model ask the one that is handed in. It checks no text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guardrails.actions import load_actions
from guardrails.asked import Ask, AskedModel, WouldGenerate, asks_a_model, let_it_speak
from guardrails.detectors.reading import Reading
from guardrails.detectors.topic import TopicDetector
from guardrails.flows import TOPICAL
from guardrails.nemo.checks import SAID, FlowRail, NemoRail, TopicalRail, events_of, watch_actions
from guardrails.nemo.embeddings import Embed, use_our_embeddings
from guardrails.nemo.read import read, refused, shown
from guardrails.policy import Policy, PolicyError, RailSettings
from guardrails.policy_lint import line_in

Rail = NemoRail | FlowRail | TopicalRail
_FINDS_INTENT = ("generate_user_intent", "generate_user_intent_from_user_action")
_SPEAKS = ("general", "generate_bot_message", "generate_next_steps", "generate_flow_continuation")
_WAITS = """\
@active
flow callgate checks
  match CallgateCheck() as $event
  global ${text}
  ${text} = $event.text
  {prepare}
  when {call}
    send CallgateChecked(passed=True, text=${text})
  else
    send CallgateChecked(passed=False, text="")
"""
_NOT_TWICE = "global $output_rails_in_progress\n  $output_rails_in_progress = True"  # its own refusals are no answers


def build_rails(policy: Policy, embed: Embed | None, ask: Ask | None = None) -> dict[str, Rail]:
    """A runtime for every rail that is not off. Blocking: run it in a thread, beside the event loop that ``embed`` belongs to.

    Raises: PolicyError for a configuration that NeMo refuses, or a flow that it does not have.
    """
    os.environ["NEMO_GUARDRAILS_NO_USAGE_STATS"] = "1"
    logging.getLogger("nemoguardrails").setLevel(logging.CRITICAL)  # it logs texts where an action fails
    with shown(policy.directory) as place, _own_event_loop() as loop, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: _Builder(policy, place, name, rail, embed, ask, loop).build()
            for name, rail in policy.rails.items()
            if rail.mode != "off" and rail.flow is not None
        }


@contextmanager
def _own_event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """NeMo makes itself an event loop where a thread has none, and leaves it open; here it finds one that is closed after it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _Builder:
    """One rail of a policy, from its settings to a runtime."""

    def __init__(
        self,
        policy: Policy,
        place: Path,
        name: str,
        rail: RailSettings,
        embed: Embed | None,
        ask: Ask | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.policy, self.name, self.rail = policy, name, rail
        self.flow = str(rail.flow)
        self.embed, self.ask, self.loop = embed, ask, loop
        self.config = read(place, policy.directory)
        self.version = str(self.config.colang_version)

    def build(self) -> Rail:
        if self.flow == TOPICAL:
            return self._topical()
        if self.rail.stage not in ("input", "output"):
            hint = "detector: indirect reads passages and what tools answer"
            raise self._wrong(f"NeMo's checks have no {self.rail.stage} stage", hint)
        return self._of_colang_1() if self.version == "1.0" else self._of_colang_2()

    def _of_colang_1(self) -> NemoRail:
        from nemoguardrails.rails.llm.options import RailType

        rails = self.config.rails
        declared = getattr(rails, self.rail.stage).flows
        if self.flow not in declared:
            raise self._wrong(
                f"'{self.flow}' is not declared in config.yml",
                f"rails.{self.rail.stage}.flows has: {', '.join(declared) or 'none'}",
            )
        for stage in ("input", "output", "retrieval", "tool_input", "tool_output"):
            section = getattr(rails, stage, None)
            if section is not None and hasattr(section, "flows"):
                section.flows = [self.flow] if stage == self.rail.stage else []
        rail_type = RailType.INPUT if self.rail.stage == "input" else RailType.OUTPUT
        asking = self._needs_asking(self.flow)
        self.config.models = []  # no rail reaches for a vendor by itself; those that ask a model ask ours
        engine = None if asking else _fast_engine(self.config)
        if engine is not None:
            return NemoRail("iorails", engine, rail_type, self.rail, self._patterns())
        return NemoRail("llm" if asking else "colang", self._runtime(self.ask), rail_type, self.rail)

    def _patterns(self) -> Sequence[re.Pattern[str]]:
        """What NeMo's own rail of patterns looks for; nothing for another rail."""
        detection = self.config.rails.config.regex_detection
        options = getattr(detection, self.rail.stage, None) if self.flow == f"regex check {self.rail.stage}" else None
        return () if options is None else tuple(options.compiled_patterns)

    def _of_colang_2(self) -> FlowRail:
        from nemoguardrails.colang import parse_colang_file

        found = next((flow for flow in self.config.flows if flow.name == self.flow), None)
        if found is None:
            raise self._wrong(f"no Colang file has a flow '{self.flow}'", "flow: input rails, output rails or a name")
        call = f"{self.flow} $event.text" if found.parameters else self.flow
        output = self.rail.stage == "output"
        text = "bot_message" if output else "user_message"
        waits = _WAITS.format(text=text, call=call, prepare=_NOT_TWICE if output else f"${text} = $event.text")
        self.config.flows += parse_colang_file("callgate.co", waits, version="2.x")["flows"]
        asking = self._needs_asking(*self._reached(self.flow))
        return FlowRail("llm" if asking else "colang2", self._runtime_2(self.ask), self.rail)

    def _topical(self) -> TopicalRail:
        """The configuration's dialog flows. They find what was meant by sentence vectors, or by asking the guard model."""
        rails = self.config.rails
        rails.dialog.single_call.enabled = False
        intents = rails.dialog.user_messages.embeddings_only
        if not intents and self.ask is None:
            hint = "set guard_model.model, or rails.dialog.user_messages.embeddings_only: true in config.yml"
            raise self._wrong("its flows find what was meant by asking a model", hint)
        model = let_it_speak if intents or self.ask is None else _asked_for_intents(self.ask)
        if self.version == "1.0":
            runtime = self._runtime(model)
            return TopicalRail("colang" if intents else "llm", runtime, self.version)
        self.config.flows = [flow for flow in self.config.flows if flow.name not in ("input rails", "output rails")]
        return TopicalRail("colang2" if intents else "llm", self._runtime_2(model), self.version)

    def _reached(self, name: str) -> set[str]:
        """The names of the flows of Colang 2.x that a flow comes to, its own among them."""
        known = {flow.name: flow.source_code or "" for flow in self.config.flows}
        todo, seen = [name], {name}
        while todo:
            source = known[todo.pop()]
            found = {other for other in known if other not in seen and other in source}
            seen |= found
            todo += found
        return seen

    def _needs_asking(self, *sources: str) -> bool:
        asking = any(map(asks_a_model, sources))
        if asking and self.ask is None:
            raise self._wrong(f"'{self.flow}' asks a model", "set guard_model.model to a model of this gateway")
        return asking

    def _runtime_2(self, ask: Ask | None) -> Any:
        """A Colang 2.x runtime that has begun its story once: what cannot begin is refused now."""
        runtime = self._runtime(ask).runtime
        try:
            self.loop.run_until_complete(events_of(runtime, []))
        except Exception as error:  # noqa: BLE001 - as in read.py
            raise refused(self.policy.directory, error) from None
        return runtime

    def _runtime(self, ask: Ask | None) -> Any:
        from nemoguardrails import LLMRails
        from nemoguardrails.types import LLMResponse

        self.config.models = []
        use_our_embeddings(self.config, self.embed)
        try:
            runtime = (
                LLMRails(self.config, llm=AskedModel(ask, LLMResponse)) if ask is not None else LLMRails(self.config)
            )
        except Exception as error:  # noqa: BLE001 - as in read.py
            raise refused(self.policy.directory, error) from None
        for action_name, action in (_actions(self.embed) | load_actions(dict(self.policy.actions))).items():
            runtime.register_action(action, action_name)
        watch_actions(runtime.runtime)
        return runtime

    def _wrong(self, message: str, hint: str) -> PolicyError:
        file = self.policy.directory / "policy.yaml"
        return PolicyError(file, line_in(file, ("rails", self.name, "flow")), f"rails.{self.name}.flow", message, hint)


def _asked_for_intents(ask: Ask) -> Ask:
    """Asks what a user meant; where the flows would let the model speak they have nothing to object. Anything else is no rail's to ask."""
    from nemoguardrails.context import llm_call_info_var

    async def asked(messages: Any, most: int) -> str:
        task = getattr(llm_call_info_var.get(), "task", None)
        if task in _FINDS_INTENT:
            return await ask(messages, most)
        if task in _SPEAKS:
            raise WouldGenerate("the configuration would ask the model now")
        raise RuntimeError(f"a dialog flow asks a model for '{task}', which a check cannot")

    return asked


def _fast_engine(config: Any) -> Any:
    from nemoguardrails.guardrails.iorails import IORails

    return IORails(config) if IORails.unsupported_reason(config, None) is None else None


def _actions(embed: Embed | None) -> dict[str, Callable[..., Any]]:
    """The actions that a policy's flows may execute. Each answers whether to go on, and leaves its score beside."""
    detector = TopicDetector.shipped() if embed is not None else None

    async def is_on_topic(text: str = "", **_: Any) -> bool:
        if detector is None:
            raise RuntimeError("the topic rail needs embeddings; set embedding.enabled")
        said = SAID.get()
        score = await detector.score(Reading(text, embed))
        limit = 0.5 if said is None or said.threshold is None else said.threshold
        if said is not None:
            said.score, said.threshold = round(score, 4), limit
        return score <= limit

    return {"is_on_topic": is_on_topic, "IsOnTopicAction": is_on_topic}
