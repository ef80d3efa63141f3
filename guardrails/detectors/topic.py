"""Is this about the contact centre's business? The score of one cascade, but for what says nothing by itself.

It knows readings and weights, not the business. Short texts and turns that only go on with a conversation ("yes please") are on topic by definition.
"""

from __future__ import annotations

from guardrails.detectors.cascade import MODELS, Cascade, Weights
from guardrails.detectors.reading import Reading

SHORTEST_WORDS = 4
SHORT_AT_MOST = 0.1  # the score of a shorter text: it orders them, and no sensible threshold refuses one


class TopicDetector:
    """Scores the last thing a caller said."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade

    @classmethod
    def shipped(cls) -> TopicDetector:
        """With the weights of guardrails/models/topic."""
        return cls(Cascade(Weights.load(MODELS / "topic" / "weights.npz")))

    def at_once(self, reading: Reading) -> float | None:
        """``score``, where it needs no sentence vector; else None."""
        if len(reading.plain.split()) < SHORTEST_WORDS:
            return SHORT_AT_MOST * float(self._cascade.glimpse(reading)[0])
        scores = self._cascade.at_once(reading)
        return None if scores is None else float(scores[0])

    async def score(self, reading: Reading) -> float:
        """Probability that the text is off topic; next to nothing for texts under four words, which say little by themselves."""
        if (known := self.at_once(reading)) is not None:
            return known
        return float((await self._cascade.scores(reading))[0])
