"""Policies built aside of any traffic: to test their cases, to replay recordings under two of them, to explain one verdict.

It builds what a gateway builds, without deadlines, and asks no model. The sums are gateway/policy_plan.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway.policy_plan import Timed, compare, differences, identity, is_incident, outcome
from gateway.settings import Settings, SettingsError
from gateway.steps.build import build_embedder
from gateway.steps.cases import read_cases, run_case
from gateway.steps.guard import Guard, GuardBuilder
from gateway.steps.replay import replay
from gateway.steps.versions import read_version, unpack
from guardrails.asked import ask_nobody
from guardrails.nemo.embeddings import Embed

AT_ONCE = 32  # replays in flight: enough to fill the encoder's batches
TIMED = 100  # recordings whose rails are timed
Json = dict[str, Any]


class Rehearsal:
    """A place to build policies in; everything built in it ends with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._builder: GuardBuilder | None = None
        self._timing: GuardBuilder | None = None  # builds what remembers nothing of the replays

    async def __aenter__(self) -> Rehearsal:
        embedder = await build_embedder(self._settings, self._stack)
        self._builder = self._building(_remembering(embedder.embed) if embedder else None)
        self._timing = self._building(embedder.embed if embedder else None)
        return self

    def _building(self, embed: Embed | None) -> GuardBuilder:
        ask = ask_nobody if self._settings.guard_model.model else None
        return GuardBuilder(embed, timed=False, ask=ask, actions=self._settings.policy_store.actions_dir)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def of_directory(self, directory: Path) -> Guard:
        """Raises: SettingsError."""
        return await self._built(self._builder, directory)

    async def _built(self, builder: GuardBuilder | None, directory: Path) -> Guard:
        if builder is None:
            raise RuntimeError("used outside of its context")
        guard = await builder.build(directory)
        self._stack.push_async_callback(guard.aclose)
        return guard

    async def of_version(self, row: Mapping[str, Any]) -> Guard:
        """A version as the store keeps it. Raises: SettingsError when this image cannot build exactly it."""
        folder, actions = self._settings.state_dir / "policies" / row["name"], self._settings.policy_store.actions_dir
        return await self.of_directory(
            await asyncio.to_thread(unpack, row["files"], row["digest"], folder, row["parts"], actions)
        )

    async def test(self, directory: Path) -> list[Json]:
        """Every case of the policy's tests.yaml. Raises: SettingsError."""
        cases = read_cases(directory)
        guard = await self.of_directory(directory)
        return [await run_case(guard, case) for case in cases]

    async def identity(self, running: Guard, recordings: Sequence[Json]) -> tuple[Json, list[Json]]:
        """Whether the version reproduces what was recorded under it, and its replays."""
        before = await _all(recordings, lambda one: replay(running, one))
        return identity(recordings, before), before

    async def compare(self, running: Guard, new: Guard, recordings: Sequence[Json], before: Sequence[Json]) -> Json:
        """The report on the new version, given the replays under the running one."""
        after = await _all(recordings, lambda one: replay(new, one, running))
        return compare(recordings, before, after, await self._timed(running, new, recordings))

    async def _timed(self, running: Guard, new: Guard, recordings: Sequence[Json]) -> list[Timed]:
        """Some recordings replayed alone, one after another, by builds that have seen nothing: old and new take turns to be the first."""
        guards = [await self._built(self._timing, guard.policy.directory) for guard in (running, new)]
        spread = recordings[:: max(1, len(recordings) // TIMED)][:TIMED]
        for guard in guards:
            for recorded in recordings[-3:]:  # what loads at the first use is loaded then
                await replay(guard, recorded)
        timed: list[Timed] = []
        for place, recorded in enumerate(spread):
            spent: list[Json] = [{}, {}]
            for side in (0, 1) if place % 2 else (1, 0):
                spent[side] = await replay(guards[side], recorded)
            timed.append((recorded, spent[0], spent[1]))
        return timed

    async def explain(self, row: Mapping[str, Any], recorded: Json) -> Json:
        """One verdict computed again: who decided, on which text, with which score and threshold, and whether that is what was recorded."""
        guard = await self.of_version(row)
        ruled = await replay(guard, recorded)
        word, rail = outcome(ruled)
        found = differences(recorded, ruled)
        return {
            "request_id": recorded["request_id"],
            "at": recorded["at"],
            "route": recorded["route"],
            "policy": f"{recorded['policy']}@{recorded['digest']}",
            "outcome": word,
            "decided_by": rail,
            "recorded_outcome": outcome(recorded)[0],
            "reproduced": not found and not is_incident(recorded),
            "differences": found or ([is_incident(recorded)] if is_incident(recorded) else []),
            "rails": [
                _line(recorded, ruling, verdict) for ruling in ruled["rulings"] for verdict in ruling["verdicts"]
            ],
            "redacted": recorded["redacted"],
            "refused_redaction": recorded["refused_redaction"],
            "conversation": recorded["conversation"],
            "answer": {channel: "".join(pieces) for channel, pieces in recorded["channels"].items()},
        }


def _line(recorded: Json, ruling: Json, verdict: Json) -> Json:
    text = _text_of(recorded, ruling["stage"], ruling["channel"])
    names = ("rail", "outcome", "score", "threshold", "enforced", "reason", "duration_ms")
    return {"stage": ruling["stage"], "channel": ruling["channel"], "text": text} | {
        name: verdict[name] for name in names
    }


def _text_of(recorded: Json, stage: str, channel: str) -> str:
    """What a stage read, as the recording holds it."""
    if stage == "output":
        return "".join(recorded["channels"].get(channel, ()))
    if stage == "retrieval":
        return str(recorded["passages"][int(channel)])
    if stage == "tool":
        return next((f"{call['name']}(...)" for call in recorded["calls"] if call["channel"] == channel), "")
    return next((str(m["content"]) for m in reversed(recorded["conversation"]) if m["role"] == "user"), "")


async def _all(recordings: Sequence[Json], one: Callable[[Json], Awaitable[Json]]) -> list[Json]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(recorded: Json) -> Json:
        async with gate:
            return await one(recorded)

    return list(await asyncio.gather(*map(gated, recordings)))


def _remembering(embed: Callable[[Sequence[str]], Awaitable[Any]]) -> Callable[[Sequence[str]], Awaitable[Any]]:
    """The same vectors for the same text: both versions read each text once, and a difference is never the batch's."""
    import numpy as np

    known: dict[str, asyncio.Future[Any]] = {}

    async def remembered(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        for text in new:
            known[text] = asyncio.ensure_future(embed([text]))
        return np.stack([(await known[text])[0] for text in texts])

    return remembered


def policy_key(settings: Settings, directory: Path, name: str) -> str:
    """Under which name of the settings a policy runs. Raises: SettingsError."""
    wanted = name or read_version(directory, settings.policy_store.actions_dir).name
    if wanted not in settings.policies:
        there = ", ".join(settings.policies) or "none"
        raise SettingsError(
            directory, None, "name", f"no policy '{wanted}' in the settings; there is: {there} (--name)"
        )
    return wanted
