"""Rails that are our own detectors, called directly: no NeMo runtime between (6 ms CPU a check, 2026-11).

It knows which detector a policy may name and what a score means, not how detectors work or when rails run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Literal, Protocol

from guardrails.detectors.answers import recited, unsupported
from guardrails.detectors.cascade import MODELS, Cascade, Weights, cascades
from guardrails.detectors.indirect import IndirectDetector
from guardrails.detectors.reading import Reading
from guardrails.detectors.shape import language_score, size_score
from guardrails.detectors.topic import SHORTEST_WORDS, TopicDetector
from guardrails.nemo.checks import Check, Said
from guardrails.parts import SECOND_OPINION
from guardrails.policy import Policy, PolicyError, RailSettings
from guardrails.policy_lint import line_in
from guardrails.tools import ToolRules, fault_of

DEFAULT_THRESHOLD = 0.5
_WORD = re.compile(r"\w+")
_CASCADES = frozenset({"harm", "injection", "promises", "topic", "toxicity"})
_NEEDS_VECTORS = _CASCADES | {"indirect"}


class Scorer(Protocol):
    """A detector that gives one score. ``at_once``: without waiting for sentence vectors; None where it needs them."""

    def at_once(self, reading: Reading) -> float | None: ...

    async def score(self, reading: Reading) -> float: ...


class DirectRail:
    """One detector as a rail: a text whose score is over the threshold is blocked."""

    engine: Literal["direct"] = "direct"

    def __init__(self, scorer: Scorer, threshold: float | None) -> None:
        self._scorer = scorer
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold

    async def check(self, messages: Sequence[Mapping[str, str]], reading: Reading | None = None) -> Check:
        """Scores the last message; ``reading``: of it, shared with other rails. Raises: whatever the detector raises."""
        return self._check(await self._scorer.score(reading or Reading(messages[-1]["content"], None)))

    def at_once(self, reading: Reading) -> Check | None:
        """``check``, where it needs no sentence vector; else None. Raises: as ``check``."""
        score = self._scorer.at_once(reading)
        return None if score is None else self._check(score)

    def _check(self, score: float) -> Check:
        score = round(score, 4)
        said = Said(self._threshold, score)
        return Check("blocked" if score > self._threshold else "passed", "", said)

    async def aclose(self) -> None:
        """Nothing to end: detectors hold no process or file."""


def build_direct(policy: Policy, *, vectors: bool) -> dict[str, DirectRail]:
    """A rail for every detector of a policy that is not off. Rails that name one detector share it. ``vectors``: there is an encoder.

    Raises: PolicyError for a detector that would have no encoder to ask when it is in doubt.
    """
    for name, rail in policy.rails.items():
        if rail.detector in _NEEDS_VECTORS and rail.mode != "off" and not vectors:
            message = f"the detector '{rail.detector}' needs the sentence encoder"
            hint = "set embedding.enabled: true in callgate.yaml, or the rail's mode to off"
            file, key = policy.directory / "policy.yaml", ("rails", name, "detector")
            raise PolicyError(file, line_in(file, key), ".".join(key), message, hint)
    wanted = {name: rail for name, rail in policy.rails.items() if rail.detector is not None and rail.mode != "off"}
    trained = dict.fromkeys(str(rail.detector) for rail in wanted.values() if rail.detector in _CASCADES)
    built = cascades({name: Weights.load(MODELS / name / "weights.npz") for name in trained}) if trained else {}
    return {name: DirectRail(_scorer(rail, built), rail.threshold) for name, rail in wanted.items()}


def _scorer(rail: RailSettings, built: Mapping[str, Cascade]) -> Scorer:
    if rail.detector == "size":
        return _Plain(lambda reading: size_score(reading.text, rail.max_chars))
    if rail.detector == "language":
        language_score("a turn to load the model with", rail.languages)
        return _Plain(lambda reading: language_score(reading.plain, rail.languages))
    if rail.detector == "grounded":
        return _Plain(lambda reading: unsupported(reading.text, reading.context))
    if rail.detector == "leak":
        return _Plain(lambda reading: recited(reading.text, reading.context))
    if rail.detector == "tools":
        rules = ToolRules(rail.tool_risks, rail.allow_risks)
        return _Plain(lambda reading: 0.0 if reading.call is None else float(bool(fault_of(reading.call, rules))))
    if rail.detector == "indirect":
        return IndirectDetector()
    name = str(rail.detector)
    cascade = built[name]
    if name == "topic":
        return TopicDetector(cascade)
    places = [n for n, label in enumerate(cascade.labels) if not rail.kinds or label in rail.kinds]
    kinds = _Kinds(cascade, places, SHORTEST_WORDS if name == "promises" else 1)
    if name not in SECOND_OPINION:
        return kinds
    # Not of the first stage, which reads every turn.
    second = Cascade(Weights.load(MODELS / SECOND_OPINION[name] / "weights.npz"))
    return _Confirmed(kinds, DEFAULT_THRESHOLD if rail.threshold is None else rail.threshold, second)


class _Plain:
    """A score that needs nothing but the text."""

    def __init__(self, of: Callable[[Reading], float]) -> None:
        self._of = of

    def at_once(self, reading: Reading) -> float:
        return self._of(reading)

    async def score(self, reading: Reading) -> float:
        return self._of(reading)


class _Kinds:
    """The highest score among some labels of a cascade; 0 for texts of fewer words than say anything by themselves."""

    def __init__(self, cascade: Cascade, places: Sequence[int], fewest_words: int) -> None:
        self._cascade, self._places, self._fewest = cascade, list(places), fewest_words

    def at_once(self, reading: Reading) -> float | None:
        if self._says_nothing(reading):
            return 0.0
        scores = self._cascade.at_once(reading)
        return None if scores is None else float(scores[self._places].max())

    async def score(self, reading: Reading) -> float:
        if self._says_nothing(reading):
            return 0.0
        return float((await self._cascade.scores(reading))[self._places].max())

    def _says_nothing(self, reading: Reading) -> bool:
        words = islice(_WORD.finditer(reading.plain), self._fewest)
        return sum(1 for _ in words) < self._fewest


class _Confirmed:
    """What one cascade flags, where a second one agrees: the lower score of both. The second is only asked about what the first flags."""

    def __init__(self, first: _Kinds, threshold: float, second: Cascade) -> None:
        self._first, self._threshold, self._second = first, threshold, second

    def at_once(self, reading: Reading) -> float | None:
        score = self._first.at_once(reading)
        return score if score is None or score <= self._threshold else None

    async def score(self, reading: Reading) -> float:
        score = await self._first.score(reading)
        if score <= self._threshold:
            return score
        return min(score, float((await self._second.scores(reading))[0]))
