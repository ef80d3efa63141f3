"""The only file that knows NeMo Guardrails. One rail is one flow of a configuration, run through NeMo's checks.

NeMo never generates here: `check_async` runs a stage's flows over messages and says PASSED, MODIFIED or BLOCKED. Each rail gets a runtime of
its own with only its flow, so that rails run in parallel, each with its deadline and its verdict. A catalogue rail takes NeMo's IORails
engine (0.06 ms CPU a check), a Colang flow its runtime (about 6 ms).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from guardrails.actions import load_actions
from guardrails.asked import Ask, AskedModel, WouldGenerate, asks_a_model, let_it_speak
from guardrails.detectors.reading import Reading
from guardrails.detectors.topic import TopicDetector
from guardrails.policy import NEMO_SUFFIXES, NOT_NEMOS, Policy, PolicyError, RailSettings

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
TOPICAL = "dialog flows"  # the flow name that stands for a configuration's own dialog flows


@dataclass(slots=True)
class Said:
    """What a detector of ours said while a flow asked it."""

    threshold: float | None
    score: float | None = None


_SAID: ContextVar[Said | None] = ContextVar("callgate_said", default=None)


@dataclass(frozen=True, slots=True)
class Check:
    """NeMo's word on a text. ``text`` is the rewritten text of MODIFIED."""

    status: Literal["passed", "modified", "blocked"]
    text: str
    said: Said = field(default_factory=lambda: Said(None))


class NemoRail:
    """One flow of a configuration, ready to check texts. ``engine``: iorails, or colang."""

    def __init__(
        self, engine_name: Literal["iorails", "colang", "llm"], engine: Any, rail_type: Any, settings: RailSettings
    ) -> None:
        self.engine = engine_name
        self._engine = engine
        self._rail_type = rail_type
        self._settings = settings

    async def check(self, messages: Sequence[Mapping[str, str]]) -> Check:
        """Raises: whatever NeMo raises; a rail that failed inside NeMo is RuntimeError, never a verdict."""
        said = Said(self._settings.threshold)
        _SAID.set(said)
        result = await self._engine.check_async([dict(message) for message in messages], rail_types=[self._rail_type])
        status = result.status.value
        if status == "blocked" and "internal error" in (result.content or "").lower():
            raise RuntimeError("NeMo reported an internal error")  # its fail-closed answer to a rail that raised
        return Check(status, result.content or "", said)

    async def aclose(self) -> None:
        if self.engine == "iorails":
            await self._engine.stop()


class TopicalRail:
    """The dialog flows of a configuration as a check: what they would answer themselves is a block, what they leave to the model passes."""

    engine: Literal["colang"] = "colang"

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    async def check(self, messages: Sequence[Mapping[str, str]]) -> Check:
        """Raises: whatever NeMo raises."""
        stages = {"rails": {"input": False, "output": False, "retrieval": False, "dialog": True}}
        last = [dict(message) for message in messages[-1:]]
        try:
            result = await self._runtime.generate_async(messages=last, options=stages)
        except Exception as error:
            if _has_cause(error, WouldGenerate):
                return Check("passed", "")
            raise
        return Check("blocked", str(result.response[-1]["content"]))

    async def aclose(self) -> None:
        """Nothing to end."""


def _has_cause(error: BaseException | None, kind: type[Exception]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def build_rails(policy: Policy, embed: Embed | None, ask: Ask | None = None) -> dict[str, NemoRail | TopicalRail]:
    """A runtime for every rail that is not off. Blocking: run it in a thread, beside the event loop that ``embed`` belongs to.

    Raises: PolicyError for a configuration that NeMo refuses, or a flow that it does not have.
    """
    os.environ["NEMO_GUARDRAILS_NO_USAGE_STATS"] = "1"
    logging.getLogger("nemoguardrails").setLevel(logging.ERROR)
    # NeMo reads every YAML file of a directory, so it is shown one without policy.yaml, which is ours, and without Python.
    with TemporaryDirectory() as scratch, _own_event_loop():
        shown = Path(scratch) / "config"
        shutil.copytree(policy.directory, shown, ignore=_not_nemos)
        return {
            name: _build(policy, shown, name, rail, embed, ask)
            for name, rail in policy.rails.items()
            if rail.mode != "off" and rail.flow is not None
        }


@contextmanager
def _own_event_loop() -> Iterator[None]:
    """NeMo makes itself an event loop where a thread has none, and leaves it open; here it finds one that is closed after it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _not_nemos(_: str, names: list[str]) -> list[str]:
    return [
        name for name in names if name in NOT_NEMOS or (Path(name).suffix and Path(name).suffix not in NEMO_SUFFIXES)
    ]


def _build(
    policy: Policy, shown: Path, name: str, rail: RailSettings, embed: Embed | None, ask: Ask | None
) -> NemoRail | TopicalRail:
    from nemoguardrails import LLMRails, RailsConfig
    from nemoguardrails.rails.llm.options import RailType
    from nemoguardrails.types import LLMResponse

    config_file = policy.directory / "config.yml"
    try:
        config = RailsConfig.from_path(str(shown))
    except Exception as error:  # noqa: BLE001 - NeMo's parsers raise many kinds; all mean that the configuration cannot be used
        raise _refused(policy.directory, error) from None
    if config.colang_version != "1.0" or _raw_version(shown) != "1.0":
        hint = "NeMo's checks have no stages for Colang 2.x; write input and output rails in Colang 1.0"
        raise PolicyError(config_file, None, "colang_version", "2.x cannot be run as a check", hint)
    if rail.flow == TOPICAL:
        return _topical(policy, config, embed, name)
    declared = getattr(config.rails, rail.stage).flows
    if rail.flow not in declared:
        hint = f"rails.{rail.stage}.flows has: {', '.join(declared) or 'none'}"
        raise PolicyError(
            policy.directory / "policy.yaml",
            None,
            f"rails.{name}.flow",
            f"'{rail.flow}' is not declared in config.yml",
            hint,
        )
    for stage in ("input", "output", "retrieval", "tool_input", "tool_output"):
        section = getattr(config.rails, stage, None)
        if section is not None and hasattr(section, "flows"):
            section.flows = [rail.flow] if stage == rail.stage else []
    rail_type = RailType.INPUT if rail.stage == "input" else RailType.OUTPUT
    asking = asks_a_model(str(rail.flow))
    if asking and ask is None:
        hint = "set guard_model.model to a model of this gateway"
        raise PolicyError(
            policy.directory / "policy.yaml", None, f"rails.{name}.flow", f"'{rail.flow}' asks a model", hint
        )
    config.models = []  # no rail reaches for a vendor by itself; those that ask a model ask ours
    engine = None if asking else _fast_engine(config)
    if engine is not None:
        return NemoRail("iorails", engine, rail_type, rail)
    _use_our_embeddings(config, embed)
    try:
        runtime = LLMRails(config, llm=AskedModel(ask, LLMResponse)) if ask is not None else LLMRails(config)
    except Exception as error:  # noqa: BLE001 - as above
        raise _refused(config_file, error) from None
    for action_name, action in (_actions(embed) | load_actions(dict(policy.actions))).items():
        runtime.register_action(action, action_name)
    return NemoRail("llm" if asking else "colang", runtime, rail_type, rail)


def _topical(policy: Policy, config: Any, embed: Embed | None, name: str) -> TopicalRail:
    """The configuration's dialog flows, which find what was meant by sentence vectors. Raises: PolicyError where only a model could."""
    from nemoguardrails import LLMRails
    from nemoguardrails.types import LLMResponse

    if not config.rails.dialog.user_messages.embeddings_only:
        hint = "set rails.dialog.user_messages.embeddings_only: true in config.yml, or use a self-check"
        message = "its flows find what was meant by asking a model"
        raise PolicyError(policy.directory / "policy.yaml", None, f"rails.{name}.flow", message, hint)
    config.models = []
    _use_our_embeddings(config, embed)
    try:
        runtime = LLMRails(config, llm=AskedModel(let_it_speak, LLMResponse))
    except Exception as error:  # noqa: BLE001 - as above
        raise _refused(policy.directory / "config.yml", error) from None
    for action_name, action in (_actions(embed) | load_actions(dict(policy.actions))).items():
        runtime.register_action(action, action_name)
    return TopicalRail(runtime)


def _raw_version(shown: Path) -> str:
    """The Colang version that config.yml names; NeMo 0.24 forgets it where it merges files."""
    data = yaml.safe_load((shown / "config.yml").read_text(encoding="utf-8"))
    return str(data.get("colang_version", "1.0")) if isinstance(data, dict) else "1.0"


def _fast_engine(config: Any) -> Any:
    from nemoguardrails.guardrails.iorails import IORails

    return IORails(config) if IORails.unsupported_reason(config, None) is None else None


def _refused(place: Path, error: Exception) -> PolicyError:
    """NeMo's word on a configuration, at the Colang file and line where its parser stops, if that is where."""
    said = " ".join(str(error).split())[:300]
    directory = place if place.is_dir() else place.parent
    at, line = next(filter(None, map(_colang_fault, sorted(directory.rglob("*.co")))), (place, None))
    return PolicyError(at, line, "", f"NeMo Guardrails refuses it: {type(error).__name__}: {said}")


def _colang_fault(file: Path) -> tuple[Path, int | None] | None:
    """Where a Colang file stops being one, in its parser's own words."""
    from nemoguardrails.colang import parse_colang_file

    text = file.read_text(encoding="utf-8", errors="replace")
    version = "2.x" if re.search(r"^flow ", text, re.MULTILINE) else "1.0"
    try:
        parse_colang_file(file.name, text, include_source_mapping=False, version=version)
    except Exception as error:  # noqa: BLE001 - its parsers raise many kinds
        told = re.search(r"line (\d+)", str(error))
        return file, int(told[1]) if told else None
    return None


def _actions(embed: Embed | None) -> dict[str, Callable[..., Any]]:
    """The actions that a policy's flows may execute. Each answers whether to go on, and leaves its score beside."""
    detector = TopicDetector.shipped() if embed is not None else None

    async def is_on_topic(text: str = "", **_: Any) -> bool:
        if detector is None:
            raise RuntimeError("the topic rail needs embeddings; set embedding.enabled")
        said = _SAID.get()
        score = await detector.score(Reading(text, embed))
        limit = 0.5 if said is None or said.threshold is None else said.threshold
        if said is not None:
            said.score, said.threshold = round(score, 4), limit
        return score <= limit

    return {"is_on_topic": is_on_topic}


def _use_our_embeddings(config: Any, embed: Embed | None) -> None:
    """Points the configuration at an embedding provider of ours, so that NeMo never reaches for a model hub."""
    from nemoguardrails.embeddings.providers import EmbeddingProviderRegistry, register_embedding_provider
    from nemoguardrails.embeddings.providers.base import EmbeddingModel
    from nemoguardrails.rails.llm.config import Model

    loop = _running_loop_of(embed)

    class CallgateEmbeddings(EmbeddingModel):  # type: ignore[misc]  # NeMo is untyped
        engine_name = "callgate"

        def __init__(self, embedding_model: str = "", **_: Any) -> None:
            self.model = embedding_model
            self.embedding_size = 384

        async def encode_async(self, documents: list[str]) -> list[list[float]]:
            if embed is None or loop is None:
                raise RuntimeError("this policy needs embeddings; set embedding.enabled")
            waiting = asyncio.run_coroutine_threadsafe(_vectors(embed, documents), loop)
            return await asyncio.wrap_future(waiting)

        def encode(self, documents: list[str]) -> list[list[float]]:
            if embed is None or loop is None:
                raise RuntimeError("this policy needs embeddings; set embedding.enabled")
            return asyncio.run_coroutine_threadsafe(_vectors(embed, documents), loop).result(30)

    engine = f"callgate-{id(CallgateEmbeddings)}"
    if engine not in EmbeddingProviderRegistry().items:
        register_embedding_provider(CallgateEmbeddings, engine)
    config.models = [model for model in config.models if model.type != "embeddings"]
    config.models.append(Model(type="embeddings", engine=engine, model="all-minilm-l6-v2"))


async def _vectors(embed: Embed, documents: Sequence[str]) -> list[list[float]]:
    vectors: list[list[float]] = (await embed(documents)).tolist()
    return vectors


def _running_loop_of(embed: Embed | None) -> asyncio.AbstractEventLoop | None:
    return getattr(embed, "loop", None) if embed is not None else None
