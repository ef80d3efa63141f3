"""`python -m evals.train faithfulness --data DIR`: reads labelled data, writes the head, prints its validation figures.

Trained on BEGIN's Wizard of Wikipedia and CMU-DoG parts (CC-BY-4.0), on rows made from them, and on edited answers of the DSTC10
knowledge base (Apache-2.0). BEGIN's TopicalChat part (CDLA-Sharing) is only validated on. A fifth of the conversations, by digest, is
held out. Everything that is chosen (strength, trees, mixture, threshold) is chosen on folds of the training part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.judges.faithfulness import FEATURES, WEIGHTS, FaithfulnessHead, measure, pair_digest
from evals.judges.overlap import content_overlap
from evals.labelled import SHARE_ALIKE, Row, beside_others, edited, joined, read_begin, spoken
from evals.statistics.agreement import measure_agreement

HARD = 0.7  # content overlap from which counting words no longer tells
SHARES = {"beside": 0.3, "joined": 0.3, "edited": 0.2}  # weight of a made row; people's own rows weigh 1
STRENGTHS = (0.01, 0.05)
FORESTS = ((2, 200), (3, 150))  # depth, trees
RESAMPLES = 500
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as numbers, one line each. `human` marks rows as people labelled them, `hard` those that words alone do not tell."""

    rows: Sequence[Row]
    features: Array
    faithful: Flags
    share: Array
    human: Flags
    hard: Flags
    block: npt.NDArray[np.int64]

    def take(self, chosen: Flags) -> Table:
        return Table(
            rows=[row for row, keep in zip(self.rows, chosen, strict=True) if keep],
            features=self.features[chosen],
            faithful=self.faithful[chosen],
            share=self.share[chosen],
            human=self.human[chosen],
            hard=self.hard[chosen],
            block=self.block[chosen],
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A regression and trees; each gives a logit, `mixture` (intercept and two slopes) makes one calibrated logit of both."""

    mean: Array
    scale: Array
    weights: Array
    bias: float
    forest: Any
    mixture: Array
    threshold: float

    def logits(self, features: Array) -> Array:
        linear = ((features - self.mean) / self.scale) @ self.weights + self.bias
        return np.column_stack([linear, self.forest.decision_function(features)])

    def probability(self, features: Array) -> Array:
        return sigmoid(self.mixture[0] + self.logits(features) @ self.mixture[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.train", description=__doc__)
    parser.add_argument("head", choices=["faithfulness"])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled data (CALLGATE_DATA_DIR)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the head")
    parser.add_argument(
        "--folds-only", action="store_true", help="only say what folds of the training part say; write nothing"
    )
    chosen = parser.parse_args(arguments)
    begin, changed = read_begin(chosen.data), edited(chosen.data, random.Random(7))  # noqa: S311 - no secret
    table = tabulate(training_rows(begin, changed))
    print(json.dumps(nested(table) | left_out(table), indent=1), flush=True)
    if chosen.folds_only:
        return
    chosen.out.write_text(json.dumps(as_document(fit(table), table.rows)) + "\n", encoding="utf-8")
    print(json.dumps(validate(FaithfulnessHead.load(chosen.out), begin, changed, list(spoken(chosen.data))), indent=1))


def training_rows(begin: Sequence[Row], changed: Sequence[Row]) -> list[Row]:
    """What may be trained on, and what is made of it."""
    used = [row for row in begin if not row.held_out and row.source not in SHARE_ALIKE]
    chance = random.Random(11)  # noqa: S311 - no secret
    return [*used, *beside_others(used, chance), *joined(used, chance), *(r for r in changed if not r.held_out)]


def tabulate(rows: Sequence[Row]) -> Table:
    return Table(
        rows,
        features=np.array([measure(row.text, row.reply) for row in rows], dtype=np.float64),
        faithful=np.array([row.faithful for row in rows]),
        share=np.array([SHARES.get(row.source, 1.0) for row in rows]),
        human=np.array([row.source not in SHARES for row in rows]),
        hard=np.array([content_overlap(row.text, row.reply) >= HARD for row in rows]),
        block=np.array([row.block for row in rows], dtype=np.int64),
    )


def fit(table: Table) -> Fitted:
    """The strength and the trees with the least log loss on folds; the mixture and the threshold of the same folds' logits."""
    linear = {strength: fold(table, partial(_linear, strength=strength)) for strength in STRENGTHS}
    forests = {shape: fold(table, partial(_forest, shape=shape)) for shape in FORESTS}
    tried = []
    for strength, shape in product(STRENGTHS, FORESTS):
        logits = np.column_stack([linear[strength], forests[shape]])[table.human]
        mixture = _mixture(logits, table.faithful[table.human])
        found = sigmoid(mixture[0] + logits @ mixture[1:])
        tried.append((log_loss(found, table.faithful[table.human]), strength, shape, mixture, found))
    _, strength, shape, mixture, found = min(tried, key=lambda one: one[0])
    threshold = choose_threshold(found, table.faithful[table.human], table.hard[table.human])
    mean, scale, weights, bias = _regression(table, strength)
    return Fitted(mean, scale, weights, bias, _trees(table, shape), mixture, threshold)


def fold(table: Table, learn: Callable[[Table], Callable[[Array], Array]]) -> Array:
    """A logit for each row by a model that saw nothing of its block."""
    found = np.empty(len(table.rows))
    for inside, outside in splits(table, 4, 0):
        found[outside] = learn(table.take(inside))(table.features[outside])
    return found


def splits(table: Table, count: int, seed: int) -> Iterator[tuple[Flags, Flags]]:
    blocks = np.random.default_rng(seed).permutation(np.unique(table.block))
    for part in np.array_split(blocks, count):
        outside = np.isin(table.block, part)
        yield ~outside, outside


def _linear(table: Table, strength: float) -> Callable[[Array], Array]:
    mean, scale, weights, bias = _regression(table, strength)
    return lambda features: ((features - mean) / scale) @ weights + bias


def _forest(table: Table, shape: tuple[int, int]) -> Callable[[Array], Array]:
    trees = _trees(table, shape)
    return lambda features: np.asarray(trees.decision_function(features), dtype=np.float64)


def _regression(table: Table, strength: float) -> tuple[Array, Array, Array, float]:
    from sklearn.linear_model import LogisticRegression

    mean, scale = table.features.mean(axis=0), np.maximum(table.features.std(axis=0), 1e-6)
    model = LogisticRegression(C=strength, tol=1e-3, max_iter=5000)
    model.fit((table.features - mean) / scale, table.faithful, sample_weight=table.share)
    return mean, scale, model.coef_[0], float(model.intercept_[0])


def _trees(table: Table, shape: tuple[int, int]) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    depth, count = shape
    model = GradientBoostingClassifier(
        n_estimators=count, max_depth=depth, learning_rate=0.05, min_samples_leaf=20, subsample=0.6, max_features=0.3, random_state=0,
    )  # fmt: skip
    return model.fit(table.features, table.faithful, sample_weight=table.share)


def _mixture(logits: Array, faithful: Flags) -> Array:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0).fit(logits, faithful)
    return np.array([model.intercept_[0], *model.coef_[0]])


def choose_threshold(found: Array, faithful: Flags, hard: Flags) -> float:
    """Best on the hard rows among those that cost at most .001 of the best balanced accuracy over all rows, each a mean of nine beside it.

    The curve is flat between .3 and .47 (2026-11, nested folds): unsmoothed, a handful of rows would choose.
    """
    if not 0 < faithful[hard].sum() < hard.sum():
        hard = np.ones_like(hard)
    tried = np.round(np.linspace(0.1, 0.9, 81), 2)
    exact = np.array([balanced_accuracy(found >= t, faithful) for t in tried])
    overall = np.convolve(np.pad(exact, 4, mode="edge"), np.full(9, 1 / 9), "valid")
    allowed = tried[overall >= overall.max() - 0.001]
    return float(max(allowed, key=lambda t: balanced_accuracy(found[hard] >= t, faithful[hard])))


def as_document(fitted: Fitted, rows: Sequence[Row]) -> dict[str, Any]:
    """The head as JSON: numbers rounded to six places, the digest of them as its version, digests of the pairs trained on."""
    start = float(fitted.forest.decision_function(np.zeros((1, len(FEATURES))))[0])
    trees = [_tree(one[0].tree_, fitted.forest.learning_rate) for one in fitted.forest.estimators_]
    start -= sum(_leaf(tree) for tree in trees)
    numbers = {"mean": fitted.mean, "scale": fitted.scale, "weights": fitted.weights, "mixture": fitted.mixture}
    document = {
        "features": list(FEATURES),
        **{name: [round(float(v), 6) for v in values] for name, values in numbers.items()},
        "bias": round(fitted.bias, 6),
        "start": round(start, 6),
        "trees": trees,
        "threshold": fitted.threshold,
    }
    version = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:12]
    digests = sorted({pair_digest(row.text, row.reply) for row in rows if row.source not in ("beside", "joined")})
    return {**document, "version": version, "trained_on": "".join(digests)}


def _tree(tree: Any, rate: float) -> dict[str, list[float]]:
    return {
        "feature": [max(-1, int(v)) for v in tree.feature],
        "limit": [round(float(v), 6) if f >= 0 else 0.0 for v, f in zip(tree.threshold, tree.feature, strict=True)],
        "left": [int(v) for v in tree.children_left],
        "right": [int(v) for v in tree.children_right],
        "value": [round(rate * float(v[0, 0]), 6) if f < 0 else 0.0 for v, f in zip(tree.value, tree.feature, strict=True)],
    }  # fmt: skip


def _leaf(tree: dict[str, list[float]]) -> float:
    """What a tree adds where every count is 0."""
    node = 0
    while tree["feature"][node] >= 0:
        node = int(tree["left"][node] if tree["limit"][node] >= 0 else tree["right"][node])
    return tree["value"][node]


def nested(table: Table) -> dict[str, dict[str, float]]:
    """Five folds, everything chosen anew inside each: what the whole procedure is worth, without a look at the held-out rows."""
    found, judged = np.empty(len(table.rows)), np.empty(len(table.rows), dtype=bool)
    for inside, outside in splits(table, 5, 1):
        fitted = fit(table.take(inside))
        found[outside] = fitted.probability(table.features[outside])
        judged[outside] = found[outside] >= fitted.threshold
    parts = {"begin": table.human, "begin, hard": table.human & table.hard}
    parts |= {name: np.array([row.source == name for row in table.rows]) for name in SHARES}
    return {f"folds: {name}": figures(table.take(part), found[part], judged[part]) for name, part in parts.items()}


def left_out(table: Table) -> dict[str, dict[str, float]]:
    """Trained without one source, judged on it alone."""
    found = {}
    for name in ("wow", "cmu"):
        groups = {row.group for row in table.rows if row.source == name}
        of_it = np.array([row.source == name for row in table.rows])
        near = np.array([row.group in groups or row.source == "joined" for row in table.rows])
        fitted, rest = fit(table.take(~near)), table.take(of_it)
        probability = fitted.probability(rest.features)
        found[f"left out: {name}"] = figures(rest, probability, probability >= fitted.threshold)
    return found


def validate(
    head: FaithfulnessHead, begin: Sequence[Row], changed: Sequence[Row], said: Sequence[Row]
) -> dict[str, dict[str, float]]:
    """Figures of the written head on rows never trained on."""
    fresh = [row for row in (*begin, *changed) if not head.seen_before(row.text, row.reply)]
    chance = random.Random(13)  # noqa: S311 - no secret
    kept = [row for row in fresh if row.held_out and row.source in ("wow", "cmu")]
    people = [row for row in fresh if row.source in SHARE_ALIKE or (row.held_out and row.source in ("wow", "cmu"))]
    parts = {
        "begin, held-out fifth": kept,
        "begin topicalchat": [row for row in fresh if row.source in SHARE_ALIKE],
        "begin, both": people,
        "begin, both, hard": [row for row in people if content_overlap(row.text, row.reply) >= HARD],
        "begin, both, texts beside": list(beside_others(people, chance)),
        "begin, both, replies joined": list(joined(people, chance)),
        "one number or negation changed": [row for row in fresh if row.source == "edited" and row.held_out],
        "agents' own words": list(said),
    }
    return {name: _judge(head, rows) for name, rows in parts.items() if rows}


def _judge(head: FaithfulnessHead, rows: Sequence[Row]) -> dict[str, float]:
    table = tabulate(rows)
    probability = np.array([head.probability(row.text, row.reply) for row in rows])
    return figures(table, probability, probability >= head.threshold)


def figures(table: Table, probability: Array, judged: Flags) -> dict[str, float]:
    """Balanced accuracy and AUROC with 95 % bounds over conversations, Brier score, calibration error."""
    from sklearn.metrics import roc_auc_score

    groups = [row.group for row in table.rows]
    agreement = measure_agreement(judged.tolist(), table.faithful.tolist(), groups, 0.025).balanced_accuracy
    low, high = resampled(lambda s: float(roc_auc_score(table.faithful[s], probability[s])), groups, table.faithful)
    values = {
        "balanced_accuracy": agreement.estimate, "low": agreement.low, "high": agreement.high,
        "auroc": float(roc_auc_score(table.faithful, probability)), "auroc_low": low, "auroc_high": high,
        "brier": float(np.mean((probability - table.faithful) ** 2)),
        "calibration_error": calibration_error(probability, table.faithful),
    }  # fmt: skip
    return {"rows": len(groups), **{name: round(value, 3) for name, value in values.items()}}


def resampled(
    measured: Callable[[npt.NDArray[np.int64]], float], groups: Sequence[str], faithful: Flags
) -> tuple[float, float]:
    """95 % bounds by drawing whole conversations again."""
    _, number = np.unique(np.array(groups), return_inverse=True)
    of_group = [np.flatnonzero(number == one) for one in range(number.max() + 1)]
    chance, values = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([of_group[one] for one in chance.integers(0, len(of_group), len(of_group))])
        if 0 < faithful[drawn].sum() < len(drawn):
            values.append(measured(drawn))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def balanced_accuracy(judged: Flags, truth: Flags) -> float:
    return float((judged[truth].mean() + 1 - judged[~truth].mean()) / 2)


def log_loss(probability: Array, faithful: Flags) -> float:
    right = np.where(faithful, probability, 1 - probability)
    return float(-np.log(np.maximum(right, 1e-9)).mean())


def calibration_error(probability: Array, labels: Flags) -> float:
    """Mean absolute gap between stated probability and share of faithful rows, over ten bins of equal width."""
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [abs(probability[bins == b].mean() - labels[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any()]  # fmt: skip
    return float(sum(gaps))


def sigmoid(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -60, 60))), dtype=np.float64)


if __name__ == "__main__":
    main()
