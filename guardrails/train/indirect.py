"""Training of the sentence-level rail for passages: `python -m guardrails.train indirect --data DIR`.

Orders and tasks (BIPIA's, requests to assistants, a grammar) are put between the sentences of e-mails, articles and manuals, or stand for themselves; the
same texts without them are the ordinary ones. BIPIA's e-mails and its categories of attack are each left out of the folds that score them.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guardrails.detectors.cascade import MODELS
from guardrails.detectors.indirect import sentence_features, sentences
from guardrails.detectors.ngrams import Grams, grams
from guardrails.detectors.normalise import plain
from guardrails.train.cascade import FittedHead, FittedLinear, Vectors, fit_head, fit_linear, matrix_of
from guardrails.train.data import rows, sentence_embedder
from guardrails.train.detector import note
from guardrails.train.fit import quantised
from guardrails.train.grammar import load_grammar
from guardrails.train.points import fit_slope

SEED = 19
FOLDS = 4
FLAGGED = 0.04  # of ordinary passages, out of fold
PASSAGES = 2500


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences and which of them are orders. ``order_fold`` and ``text_fold``: folds of what it is made of; -1: in every training part."""

    sentences: list[str]
    orders: list[bool]
    source: str
    text_fold: int = -1
    order_fold: int = -1

    @property
    def attacked(self) -> bool:
        return any(self.orders)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=MODELS / "indirect" / "weights.npz", help="where the weights go")
    parser.add_argument("--vectors", type=Path, help="a file that keeps sentence vectors between runs (.npz)")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    from sklearn.metrics import roc_auc_score

    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    found = passages(chosen.data, rng)
    vectors = Vectors(sentence_embedder(1), chosen.vectors)
    known = {text: grams(text) for passage in found for text in passage.sentences}
    note(f"{len(found)} passages, {len(known)} sentences")
    vectors(list(known))  # all at once
    scores = np.full(len(found), np.nan)
    for fold in range(FOLDS):
        test = [n for n, p in enumerate(found) if fold in ((p.order_fold,) if p.attacked else (p.text_fold,))]
        part = [p for p in found if fold not in (p.text_fold, p.order_fold)]
        model = _fit(part, known, vectors)
        scores[test] = [_logit(found[n], model, known, vectors) for n in test]
        note(f"fold {fold}")
    attacked, heard = np.array([p.attacked for p in found]), ~np.isnan(scores)
    bipia = np.array([p.source.startswith("bipia") for p in found]) & heard
    composed = heard & ~bipia
    limit = max(float(np.quantile(scores[one & ~attacked], 1 - FLAGGED)) for one in (heard, bipia))
    slope = fit_slope(scores[heard], attacked[heard].astype(float), np.ones(int(heard.sum())))
    _save(chosen.out, _fit(found, known, vectors), slope, limit)
    figures = {
        "bipia.auroc": float(roc_auc_score(attacked[bipia], scores[bipia])),
        "bipia.tpr": float((scores[bipia & attacked] > limit).mean()),
        "bipia.fpr": float((scores[bipia & ~attacked] > limit).mean()),
        "enlarged.auroc": float(roc_auc_score(attacked[heard], scores[heard])),
        "enlarged.tpr_bipia_at_5": float(
            (scores[bipia & attacked] > np.quantile(scores[heard & ~attacked], 0.95)).mean()
        ),
        "composed.tpr": float((scores[composed & attacked] > limit).mean()),
        "composed.fpr": float((scores[composed & ~attacked] > limit).mean()),
        "ordinary": float((heard & ~attacked).sum()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


Model = tuple[FittedLinear, FittedHead]


def _fit(part: Sequence[Passage], known: dict[str, Grams], vectors: Vectors) -> Model:
    """The n-gram model on every sentence, the head on what it says of sentences that it was not fitted on (two halves)."""
    texts = [text for p in part for text in p.sentences]
    wanted = np.array([order for p in part for order in p.orders], dtype=float)
    matrix = matrix_of([known[text] for text in texts])
    half = np.array([hashlib.sha256(text.encode()).digest()[0] % 2 == 0 for text in texts])
    logits = np.zeros(len(texts))
    for rest in (half, ~half):
        logits[~rest] = fit_linear(matrix[rest], wanted[rest], np.ones(int(rest.sum())), 10.0).logits(matrix[~rest])
    features, begin = [], 0
    for p in part:
        rows_of = slice(begin, begin + len(p.sentences))
        features.append(sentence_features(vectors(p.sentences), logits[rows_of].astype(np.float32)))
        begin += len(p.sentences)
    head = fit_head(
        np.vstack(features).astype(np.float64), wanted[:, None], np.ones(len(wanted)), alpha=3e-2, epochs=12
    )
    return fit_linear(matrix, wanted, np.ones(len(wanted)), 10.0), head


def _logit(passage: Passage, model: Model, known: dict[str, Grams], vectors: Vectors) -> float:
    linear, head = model
    logits = linear.logits(matrix_of([known[text] for text in passage.sentences]))
    features = sentence_features(vectors(passage.sentences), logits.astype(np.float32))
    return float((head.logits(features.astype(np.float64))[:, 0] + logits).max())


def _save(path: Path, model: Model, slope: float, limit: float) -> None:
    linear, scale = quantised([model[0]])
    head = {name: getattr(model[1], name).astype(np.float16) for name in ("w1", "b1", "w2", "b2")}
    path.parent.mkdir(parents=True, exist_ok=True)
    bias = np.array([model[0].bias], dtype=np.float32)
    np.savez_compressed(path, linear=linear, scale=scale, bias=bias, slope=slope, shift=-slope * limit, **head)


def passages(data: Path, rng: random.Random) -> list[Passage]:
    """BIPIA's e-mails as they are, and composed ones."""
    mails = rows(data / "guard_bipia_email.jsonl")
    found = [_bipia(row) for row in mails]
    ordinary = [*_articles(data, rng), *_mails(rng, 900)]
    orders = _orders(data, rng)
    for number in range(PASSAGES):
        text = list(rng.choice(ordinary))
        fold = (
            int(rng.random() < 0.3) * (1 + number % FOLDS) - 1
        )  # three in ten are scored, by models that have not seen them
        found.append(Passage(text, [False] * len(text), "composed", fold))
        order = rng.choice(orders)
        place = rng.choice([0, len(text), rng.randrange(len(text) + 1)])
        mixed = [*text[:place], *order, *text[place:]]
        marks = [place <= n < place + len(order) for n in range(len(mixed))]
        found.append(Passage(mixed, marks, "composed", -1, fold))
    return found


def _bipia(row: dict[str, Any]) -> Passage:
    text, attack = row["text"], row["attack"] or ""
    if row["label"] != 1 or attack not in text:
        found = sentences(text)
        return Passage(found, [False] * len(found), "bipia", _fold(row["question"]))
    before, _, after = text.partition(attack)
    parts = [sentences(before), sentences(attack) or [plain(attack)], sentences(after)]
    marks = [mark for part, mark in zip(parts, (False, True, False), strict=True) for _ in part]
    return Passage(
        [one for part in parts for one in part], marks, "bipia", _fold(row["question"]), _fold(row["attack_category"])
    )


def _fold(key: str) -> int:
    return hashlib.sha256(key.encode()).digest()[0] % FOLDS


def _articles(data: Path, rng: random.Random) -> list[list[str]]:
    texts = [f"{row['title']}\n{row['body']}" for row in rng.sample(rows(data / "rag_dstc10_kb.jsonl"), 900)]
    begin = [row["knowledge"] for row in rows(data / "judge_faithfulness_begin.jsonl") if row["source"] != "tc"]
    texts += rng.sample(sorted(set(begin)), min(900, len(set(begin))))
    texts += [f"{row['title']}\n{row['body']}" for row in rows(data / "rag_abcd_guidelines_kb.jsonl")] * 3
    return [found for text in texts if (found := sentences(text[:1500]))]


def _mails(rng: random.Random, wanted: int) -> list[list[str]]:
    grammar, other = load_grammar("documents"), load_grammar("ordinary")
    out = []
    for _ in range(wanted):
        lines = [grammar.one("sentences", rng) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.3:
            lines.insert(rng.randrange(len(lines)), other.one("documents", rng))
        out.append(sentences("\n".join(lines)))
    return out


def _orders(data: Path, rng: random.Random) -> list[list[str]]:
    """What attackers hide: orders about the answer, tasks of any kind, injections."""
    grammar, attacks = load_grammar("documents"), load_grammar("attacks")
    texts = [text for family in ("orders", "tasks") for text in grammar.many(family, 1500, rng)]
    for family in ("indirect", "override", "output_control", "exfiltration", "extraction", "mode", "call_centre"):
        texts += attacks.many(family, 100, rng)
    asked = [
        row["prompt"] for row in rows(data / "judge_hallucination_halueval_general.jsonl") if len(row["prompt"]) < 160
    ]
    texts += rng.sample(asked, min(900, len(asked)))
    texts += [
        row["text"]
        for row in rows(data / "topic_clinc150.jsonl")
        if row["domain"] in ("kitchen_and_dining", "travel", "oos")
    ][:500]
    texts += [row["text"] for row in rows(data / "guard_harmful_requests.jsonl")][:300]
    return [found for text in texts if (found := sentences(text)[:3])]
