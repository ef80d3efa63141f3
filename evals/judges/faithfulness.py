"""A small local judge of faithfulness: is everything the reply says in the texts it was given? About a millisecond, no model call.

A logistic regression and small trees over the counts of overlap.py and alignment.py, mixed into one calibrated probability with a stated
threshold; weights and card are in models/faithfulness. Reads words, not meaning, and English only. Whether it may decide is left to
calibrate.py, as for any judge.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from evals.errors import EvalError
from evals.judges import alignment, overlap
from evals.judges.trees import Tree
from evals.types import Answer, Sample, Score, fault_of, not_scored, scored

WEIGHTS = Path(__file__).parent / "models" / "faithfulness" / "head.json"
FEATURES = (*overlap.FEATURES, *alignment.FEATURES)


def measure(text: str, reply: str) -> tuple[float, ...]:
    """The FEATURES of `reply` beside `text`, in their order."""
    return (*overlap.measure(text, reply), *alignment.measure(text, reply))


@dataclass(frozen=True, slots=True)
class FaithfulnessHead:
    """`mixture`: intercept, and slopes of the regression's logit and the trees'. `threshold` is the probability from which a reply
    counts as faithful. `trained_on` are digests (see seen_before)."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    trees: tuple[Tree, ...]
    start: float
    mixture: tuple[float, ...]
    threshold: float
    version: str
    trained_on: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> FaithfulnessHead:
        """Raises EvalError for a file that is no head, or one of other features than this code measures."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if tuple(document["features"]) != FEATURES:
                raise EvalError(
                    f"{path}: trained on other features; train again with `python -m evals.train faithfulness`"
                )
            numbers = {name: tuple(float(v) for v in document[name]) for name in ("mean", "scale", "weights")}
            if any(len(values) != len(FEATURES) for values in numbers.values()):
                raise EvalError(f"{path}: mean, scale and weights need {len(FEATURES)} numbers each")
            bias, start, threshold = (float(document[name]) for name in ("bias", "start", "threshold"))
            mixture = tuple(float(v) for v in document["mixture"])
            if len(mixture) != 3 or not all(map(math.isfinite, (*mixture, bias, start, threshold))):
                raise EvalError(f"{path}: mixture needs three finite numbers, bias, start and threshold one each")
            trees = tuple(Tree.read(one, len(FEATURES)) for one in document["trees"])
            text = document["trained_on"]
            seen = frozenset(text[place : place + 8] for place in range(0, len(text), 8))
            return cls(**numbers, bias=bias, trees=trees, start=start, mixture=mixture, threshold=threshold,
                       version=str(document["version"]), trained_on=seen)  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvalError(f"{path}: not a faithfulness head ({type(error).__name__})") from error

    def probability(self, text: str, reply: str) -> float:
        """That people would call `reply` fully attributable to `text`, in [0, 1]."""
        values = measure(text, reply)
        rows = zip(values, self.mean, self.scale, self.weights, strict=True)
        linear = self.bias + math.fsum(weight * (value - mean) / scale for value, mean, scale, weight in rows)
        boosted = self.start + math.fsum(tree.add(values) for tree in self.trees)
        logit = self.mixture[0] + self.mixture[1] * linear + self.mixture[2] * boosted
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, logit))))

    def seen_before(self, text: str, reply: str) -> bool:
        """Whether this very pair was trained on: such a pair measures nothing."""
        return pair_digest(text, reply) in self.trained_on


def pair_digest(text: str, reply: str) -> str:
    return hashlib.sha256(f"{text}\0{reply}".encode("utf-8", "replace")).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class LocalFaithfulness:
    """The head as a Judge: 1 from the threshold on, else 0; `raw` holds the probability."""

    metric: str
    head: FaithfulnessHead

    @property
    def id(self) -> str:
        return "local/faithfulness"

    @property
    def version(self) -> str:
        return self.head.version

    def applies(self, sample: Sample) -> bool:
        return bool(sample.expect.contexts)

    async def score(self, sample: Sample, answer: Answer) -> Score:
        judge = f"{self.id}@{self.version}"
        fault = fault_of(answer) or (None if answer.text.strip() else "there is no text to judge")
        if fault is not None:
            return not_scored(self.metric, answer, judge, reason=fault)
        probability = self.head.probability("\n".join(sample.expect.contexts), answer.text)
        value = float(probability >= self.head.threshold)
        reason = "everything said is in the texts" if value else "something said is not in the texts"
        return scored(self.metric, answer, judge, value, reason=reason, raw=f"{probability:.4f}")
