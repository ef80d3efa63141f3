"""Rails that are our own detectors, called directly: no NeMo runtime between (6 ms CPU a check, 2026-11).

It knows which detector a policy may name and what a score means, not how detectors work or when rails run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from guardrails.detectors.answers import recited, unsupported
from guardrails.detectors.cascade import MODELS, Cascade, Weights
from guardrails.detectors.indirect import IndirectDetector
from guardrails.detectors.reading import Reading
from guardrails.detectors.shape import language_score, size_score
from guardrails.detectors.topic import TopicDetector
from guardrails.nemo.checks import Check, Said
from guardrails.policy import Policy, RailSettings
from guardrails.tools import ToolRules, fault_of

DEFAULT_THRESHOLD = 0.5
Score = Callable[[Reading], Awaitable[float]]


class DirectRail:
    """One detector as a rail: a text whose score is over the threshold is blocked."""

    engine: Literal["direct"] = "direct"

    def __init__(self, score: Score, threshold: float | None) -> None:
        self._score = score
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold

    async def check(self, messages: Sequence[Mapping[str, str]], reading: Reading | None = None) -> Check:
        """Scores the last message; ``reading``: of it, shared with other rails. Raises: whatever the detector raises."""
        score = round(await self._score(reading or Reading(messages[-1]["content"], None)), 4)
        said = Said(self._threshold, score)
        return Check("blocked" if score > self._threshold else "passed", "", said)

    async def aclose(self) -> None:
        """Nothing to end: detectors hold no process or file."""


def build_direct(policy: Policy) -> dict[str, DirectRail]:
    """A rail for every detector of a policy that is not off. Rails that name one detector share it."""
    cascades: dict[str, Cascade] = {}
    return {
        name: DirectRail(_scorer(rail, cascades), rail.threshold)
        for name, rail in policy.rails.items()
        if rail.detector is not None and rail.mode != "off"
    }


def _scorer(rail: RailSettings, cascades: dict[str, Cascade]) -> Score:
    if rail.detector == "size":
        return _at_once(lambda reading: size_score(reading.text, rail.max_chars))
    if rail.detector == "language":
        language_score("a turn to load the model with", rail.languages)
        return _at_once(lambda reading: language_score(reading.plain, rail.languages))
    if rail.detector == "grounded":
        return _at_once(lambda reading: unsupported(reading.text, reading.context))
    if rail.detector == "leak":
        return _at_once(lambda reading: recited(reading.text, reading.context))
    if rail.detector == "tools":
        rules = ToolRules(rail.tool_risks, rail.allow_risks)
        return _at_once(lambda reading: 0.0 if reading.call is None else float(bool(fault_of(reading.call, rules))))
    if rail.detector == "indirect":
        return IndirectDetector().score
    name = str(rail.detector)
    if name not in cascades:
        cascades[name] = Cascade(Weights.load(MODELS / name / "weights.npz"))
    cascade = cascades[name]
    if name == "topic":
        return TopicDetector(cascade).score
    wanted = [place for place, label in enumerate(cascade.labels) if not rail.kinds or label in rail.kinds]

    async def score(reading: Reading) -> float:
        return float(np.max((await cascade.scores(reading))[wanted]))

    return score


def _at_once(score: Callable[[Reading], float]) -> Score:
    async def scored(reading: Reading) -> float:
        return score(reading)

    return scored
