"""Rails that are flows of a NeMo configuration, ready to check texts: of Colang 1.0, of Colang 2.x, and dialog flows of both.

Each has a runtime of its own with only its flow, so that rails run in parallel, each with its deadline and its verdict. They build nothing
(guardrails/nemo/build.py) and raise where NeMo failed: a rail that failed inside NeMo never has a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal

from msgspec import Struct, field

from guardrails.asked import WouldGenerate
from guardrails.policy import RailSettings

Engine = Literal["iorails", "colang", "colang2", "llm"]
Messages = Sequence[Mapping[str, str]]
PASSAGES = re.compile(r"<passages\b.*?(?:</passages>|\Z)", re.IGNORECASE | re.DOTALL)


class Said(Struct):
    """What a detector of ours said while a flow asked it, and the actions of the flow that failed."""

    threshold: float | None
    score: float | None = None
    failed: list[str] = []  # msgspec gives each its own


SAID: ContextVar[Said | None] = ContextVar("callgate_said", default=None)


class Check(Struct, frozen=True):
    """NeMo's word on a text. ``text`` is the rewritten text of MODIFIED, or the flow's own words of BLOCKED."""

    status: Literal["passed", "modified", "blocked"]
    text: str
    said: Said = field(default_factory=lambda: Said(None))


class NemoRail:
    """One flow of a Colang 1.0 configuration. Passages that the model was shown reach it as NeMo's ``$relevant_chunks``.

    ``patterns``: those of a catalogue rail that blocks only what one of them finds, so that NeMo is asked about no other text (90 µs).
    """

    def __init__(
        self,
        engine_name: Engine,
        engine: Any,
        rail_type: Any,
        settings: RailSettings,
        patterns: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.engine = engine_name
        self._patterns = patterns
        self._engine = engine
        self._rail_type = rail_type
        self._settings = settings

    def at_once(self, text: str) -> Check | None:
        """``check`` of a last message that NeMo need not be asked about; else None."""
        if not self._patterns or any(pattern.search(text) for pattern in self._patterns):
            return None
        return Check("passed", text, Said(self._settings.threshold))

    async def check(self, messages: Messages, context: Messages = ()) -> Check:
        """Raises: whatever NeMo raises; a rail that failed inside NeMo is RuntimeError, never a verdict."""
        said = Said(self._settings.threshold)
        SAID.set(said)
        given: list[dict[str, Any]] = [dict(message) for message in messages]
        if self.engine != "iorails" and (passages := _passages(context)):
            given.insert(0, {"role": "context", "content": {"relevant_chunks": passages, "check_facts": True}})
        result = await self._engine.check_async(given, rail_types=[self._rail_type])
        status = result.status.value
        if said.failed or (status == "blocked" and "internal error" in (result.content or "").lower()):
            raise RuntimeError("NeMo reported an internal error")  # its fail-closed answer to a rail that raised
        return Check(status, result.content or "", said)

    async def aclose(self) -> None:
        if self.engine == "iorails":
            await self._engine.stop()


class FlowRail:
    """One flow of a Colang 2.x configuration, started by an event of ours (build.py writes the flow that waits for it)."""

    def __init__(self, engine_name: Engine, runtime: Any, settings: RailSettings) -> None:
        self.engine = engine_name
        self._runtime = runtime
        self._settings = settings

    async def check(self, messages: Messages, context: Messages = ()) -> Check:  # noqa: ARG002 (as the other rails)
        """Raises: whatever NeMo raises; RuntimeError where the flow neither passed nor blocked."""
        said = Said(self._settings.threshold)
        SAID.set(said)
        text = messages[-1]["content"]
        told = await events_of(self._runtime, [{"type": "CallgateCheck", "text": text}])
        word = next((event for event in told if event["type"] == "CallgateChecked"), None)
        if word is None or said.failed or any(event["type"] == "ColangError" for event in told):
            raise RuntimeError(f"the flow came to no end: {', '.join(said.failed) or 'an error in it'}")
        if not word["passed"]:
            return Check("blocked", _uttered(told), said)
        return Check("passed" if word["text"] == text else "modified", str(word["text"]), said)

    async def aclose(self) -> None:
        """Nothing to end."""


class TopicalRail:
    """The dialog flows of a configuration as a check: what they would answer themselves is a block, what they leave to the model passes."""

    def __init__(self, engine_name: Engine, runtime: Any, version: str) -> None:
        self.engine = engine_name
        self._runtime = runtime
        self._version = version

    async def check(self, messages: Messages, context: Messages = ()) -> Check:  # noqa: ARG002 (as the other rails)
        """Raises: whatever NeMo raises."""
        last = messages[-1]["content"]
        try:
            answer = await (self._answer_1(last) if self._version == "1.0" else self._answer_2(last))
        except Exception as error:
            if _has_cause(error, WouldGenerate):
                return Check("passed", "")
            raise
        return Check("blocked", answer) if answer else Check("passed", "")

    async def _answer_1(self, text: str) -> str:
        stages = {"rails": {"input": False, "output": False, "retrieval": False, "dialog": True}}
        result = await self._runtime.generate_async(messages=[{"role": "user", "content": text}], options=stages)
        return str(result.response[-1]["content"])

    async def _answer_2(self, text: str) -> str:
        said = Said(None)
        SAID.set(said)
        told = await events_of(self._runtime, [{"type": "UtteranceUserActionFinished", "final_transcript": text}])
        if said.failed:
            raise RuntimeError(f"the flows came to no end: {', '.join(said.failed)}")
        return _uttered(told)

    async def aclose(self) -> None:
        """Nothing to end."""


async def events_of(runtime: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a Colang 2.x runtime makes of events, in a story of their own: what it says when the story begins is not among it."""
    _, state = await runtime.process_events([], instant_actions=["UtteranceBotAction"], blocking=True)
    out, _ = await runtime.process_events(events, state=state, instant_actions=["UtteranceBotAction"], blocking=True)
    told: list[dict[str, Any]] = out
    return told


def watch_actions(runtime: Any) -> None:
    """Notes actions that fail or do not exist: to a Colang 2.x flow one that failed answers nothing, which may read as "go on"."""
    dispatcher = runtime.action_dispatcher
    execute, find = dispatcher.execute_action, dispatcher.get_action

    def found(name: str) -> Any:
        action, said = find(name), SAID.get()
        if action is None and said is not None:
            said.failed.append(name)
        return action

    async def watched(name: str, *given: Any, **more: Any) -> Any:
        result, status = await execute(name, *given, **more)
        said = SAID.get()
        if status == "failed" and said is not None:
            said.failed.append(name)
        return result, status

    dispatcher.execute_action, dispatcher.get_action = watched, found


def _uttered(told: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(str(event["final_script"]) for event in told if event["type"] == "UtteranceBotActionFinished")


def _passages(context: Messages) -> str:
    found = [text for m in context if m["role"] == "system" for text in PASSAGES.findall(m["content"])]
    return "\n".join(found)


def _has_cause(error: BaseException | None, kind: type[Exception]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
