"""Rails that are our own detectors, called directly: no NeMo runtime between (6 ms CPU a check, 2026-11).

It knows which detector a policy may name and what a score means, not how detectors work or when rails run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from guardrails.detectors.topic import TopicDetector, TopicHead
from guardrails.nemo import Check, Said
from guardrails.policy import Policy

DEFAULT_THRESHOLD = 0.5
Embed = Callable[[Sequence[str]], Awaitable[Any]]


class DirectRail:
    """One detector as a rail: a text whose score is over the threshold is blocked."""

    engine: Literal["direct"] = "direct"

    def __init__(self, score: Callable[[str], Awaitable[float]], threshold: float | None) -> None:
        self._score = score
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold

    async def check(self, messages: Sequence[Mapping[str, str]]) -> Check:
        """Scores the last message. Raises: whatever the detector raises."""
        score = round(await self._score(messages[-1]["content"]), 4)
        said = Said(self._threshold, score)
        return Check("blocked" if score > self._threshold else "passed", "", said)

    async def aclose(self) -> None:
        """Nothing to end: detectors hold no process or file."""


def build_direct(policy: Policy, embed: Embed | None) -> dict[str, DirectRail]:
    """A rail for every detector of a policy that is not off."""
    return {
        name: DirectRail(_detector(embed), rail.threshold)
        for name, rail in policy.rails.items()
        if rail.detector is not None and rail.mode != "off"
    }


def _detector(embed: Embed | None) -> Callable[[str], Awaitable[float]]:
    if embed is None:

        async def cannot(_: str) -> float:
            raise RuntimeError("the topic rail needs embeddings; set embedding.enabled")

        return cannot
    return TopicDetector(embed, TopicHead.load()).score
