"""`python -m evals.train faithfulness --data DIR`: reads labelled data, writes the head, prints its validation figures.

Trained on BEGIN's Wizard of Wikipedia and CMU-DoG parts (CC-BY-4.0) and on edited answers of the DSTC10 knowledge base
(Apache-2.0). BEGIN's TopicalChat part (CDLA-Sharing) is only validated on. A fifth of the conversations, by digest, is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.judges.faithfulness import WEIGHTS, FaithfulnessHead, pair_digest
from evals.judges.overlap import FEATURES, content_overlap, measure

SHARE_ALIKE = frozenset({"tc"})
HARD = 0.7  # content overlap from which counting words no longer tells
EDITED_DOCUMENTS = 1200
EDITED_WEIGHT = 0.1
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    reply: str
    faithful: bool
    source: str
    held_out: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.train", description=__doc__)
    parser.add_argument("head", choices=["faithfulness"])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled data (CALLGATE_DATA_DIR)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the head")
    chosen = parser.parse_args(arguments)
    begin, edited = read_begin(chosen.data), edit_answers(chosen.data, random.Random(7))  # noqa: S311 - no secret
    chosen.out.write_text(json.dumps(train([*begin, *edited])) + "\n", encoding="utf-8")
    print(json.dumps(validate(FaithfulnessHead.load(chosen.out), [*begin, *edited]), indent=1))


def read_begin(data: Path) -> list[Row]:
    """BEGIN's rows; faithful is 'Fully attributable'. Conversations about one text stay on one side of the split."""
    rows = [json.loads(line) for line in (data / "judge_faithfulness_begin.jsonl").read_text("utf-8").splitlines()]
    return [
        Row(row["knowledge"], row["response"], bool(row["faithful"]), row["source"], _held_out(row["group"]))
        for row in rows
    ]


def edit_answers(data: Path, chance: random.Random) -> list[Row]:
    """Answers of a knowledge base with one thing changed (a number, a negation), and the same answers as they are.

    BEGIN is extractive and seldom wrong by a single figure; a call centre's worst answer is exactly that.
    """
    documents = [json.loads(line) for line in (data / "rag_dstc10_kb.jsonl").read_text("utf-8").splitlines()]
    bodies = sorted({document["body"] for document in documents if len(document["body"].split()) > 4})
    chance.shuffle(bodies)
    rows = []
    for body in bodies:
        wrong = _change(body, chance)
        if wrong is None:
            continue
        lead = chance.choice(["", "", "Yes, ", "Of course. ", "Thank you for waiting. "])
        text = " ".join([*chance.sample(bodies, chance.randint(0, 2)), body])
        rows += [Row(text, lead + reply, reply == body, "edited", _held_out(body)) for reply in (body, wrong)]
        if len(rows) >= 2 * EDITED_DOCUMENTS:
            break
    return rows


def _change(text: str, chance: random.Random) -> str | None:
    numbers = list(re.finditer(r"\d+", text))
    if numbers:
        one = chance.choice(numbers)
        other = str(int(one[0]) + chance.choice([1, 2, 5, 10])).zfill(len(one[0]))
        return text[: one.start()] + other + text[one.end() :]
    match = re.search(r"\b(is|are|do|does|can|will|has) (not )?", text)
    if match is None:
        return None
    return f"{text[: match.start()]}{match[1]} {'' if match[2] else 'not '}{text[match.end() :]}"


def _held_out(name: str) -> bool:
    return hashlib.sha256(f"faithfulness/{name}".encode()).digest()[0] % 5 == 0


def train(rows: Sequence[Row]) -> dict[str, Any]:
    """The head as a document. The threshold is chosen on cross-validated probabilities of the training part alone."""
    used = [row for row in rows if not row.held_out and row.source not in SHARE_ALIKE]
    features, labels = _features(used), np.array([row.faithful for row in used])
    begin = np.array([row.source != "edited" for row in used])
    share = np.where(begin, 1.0, EDITED_WEIGHT)
    groups = np.array([row.text for row in used])
    folded = _fold(features, labels, share, groups)
    hard = np.array([content_overlap(row.text, row.reply) >= HARD for row in used])
    threshold = _threshold(folded[begin], labels[begin], hard[begin])
    mean, scale, weights, bias = _fit(features, labels, share)
    digests = sorted({pair_digest(row.text, row.reply) for row in used})
    document = {
        "features": list(FEATURES),
        **{name: [round(float(v), 6) for v in values] for name, values in (("mean", mean), ("scale", scale), ("weights", weights))},
        "bias": round(bias, 6),
        "threshold": threshold,
    }  # fmt: skip
    version = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:12]
    return {**document, "version": version, "trained_on": "".join(digests)}


def _features(rows: Sequence[Row]) -> Array:
    return np.array([measure(row.text, row.reply) for row in rows], dtype=np.float64)


def _fit(features: Array, labels: npt.NDArray[np.bool_], share: Array) -> tuple[Array, Array, Array, float]:
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    model = LogisticRegression(C=0.1, max_iter=5000).fit((features - mean) / scale, labels, sample_weight=share)
    return mean, scale, model.coef_[0], float(model.intercept_[0])


def _fold(features: Array, labels: npt.NDArray[np.bool_], share: Array, groups: npt.NDArray[np.str_]) -> Array:
    from sklearn.model_selection import GroupKFold

    found = np.empty(len(labels))
    for inside, outside in GroupKFold(8).split(features, labels, groups):
        mean, scale, weights, bias = _fit(features[inside], labels[inside], share[inside])
        found[outside] = 1 / (1 + np.exp(-(((features[outside] - mean) / scale) @ weights + bias)))
    return found


def _threshold(found: Array, labels: npt.NDArray[np.bool_], hard: npt.NDArray[np.bool_]) -> float:
    """Best on the hard rows among those that cost at most .003 of the best balanced accuracy over all rows."""
    tried = np.round(np.linspace(0.1, 0.9, 81), 2)
    overall = [balanced_accuracy(found >= t, labels) for t in tried]
    allowed = [t for t, value in zip(tried, overall, strict=True) if value >= max(overall) - 0.003]
    return float(max(allowed, key=lambda t: balanced_accuracy(found[hard] >= t, labels[hard])))


def balanced_accuracy(judged: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    return float((judged[truth].mean() + 1 - judged[~truth].mean()) / 2)


def validate(head: FaithfulnessHead, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Balanced accuracy, AUROC and calibration (mean absolute gap of ten bins) on the rows never trained on."""
    from sklearn.metrics import roc_auc_score

    found = {}
    parts: dict[str, Callable[[Row], bool]] = {
        "begin, held-out fifth": lambda r: r.source in ("wow", "cmu") and r.held_out,
        "begin, held-out fifth, hard": lambda r: r.source in ("wow", "cmu") and r.held_out and content_overlap(r.text, r.reply) >= HARD,
        "topicalchat (never trained on)": lambda r: r.source in SHARE_ALIKE,
        "one number or negation changed, held-out fifth": lambda r: r.source == "edited" and r.held_out,
    }  # fmt: skip
    for name, chosen in parts.items():
        some = [row for row in rows if chosen(row) and not head.seen_before(row.text, row.reply)]
        labels = np.array([row.faithful for row in some])
        probability = np.array([head.probability(row.text, row.reply) for row in some])
        found[name] = {
            "rows": len(some),
            "balanced_accuracy": round(balanced_accuracy(probability >= head.threshold, labels), 3),
            "auroc": round(float(roc_auc_score(labels, probability)), 3),
            "calibration_error": round(calibration_error(probability, labels), 3),
        }
    return found


def calibration_error(probability: Array, labels: npt.NDArray[np.bool_]) -> float:
    """Mean absolute gap between stated probability and share of faithful rows, over ten bins of equal width."""
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [abs(probability[bins == b].mean() - labels[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any()]  # fmt: skip
    return float(sum(gaps))


if __name__ == "__main__":
    main()
