"""Where a detector begins to flag: chosen on out-of-fold scores, at shares of ordinary texts that may be flagged.

After it a logit of 0 (a score of .5) is the operating point of every label, for short and long texts alike; the slope is that of calibrated probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guardrails.detectors.cascade import HARMLESS, harmless
from guardrails.train.cascade import Floats, balanced
from guardrails.train.fit import Mask, Scores, Trainer


@dataclass(frozen=True, slots=True)
class Limits:
    """For one label: sets of ordinary texts, and the share of each that may be flagged. ``short`` and ``long`` say what of them counts."""

    short: tuple[tuple[Mask, float], ...]
    long: tuple[tuple[Mask, float], ...]


@dataclass(frozen=True, slots=True)
class Points:
    """Arrays of guardrails.detectors.cascade.Weights, all of k rows; and ``logits`` (texts, k) that they give out of fold."""

    arrays: dict[str, Floats]
    logits: Floats


def operating_points(trainer: Trainer, scores: Scores, limits: list[Limits], asked: list[Mask], share: float) -> Points:
    """``asked``: kinds of ordinary turns, and the ``share`` of each that the head may be asked about (by all labels together)."""
    best, features = trainer.combined(scores)
    doubt = np.max([_doubt(trainer, scores, turns, share) for turns in asked], axis=0)
    kept: dict[str, list[object]] = {name: [] for name in ("slope", "shift", "text_weights", "text_bias", "margin")}
    for k, limit in enumerate(limits):
        one = _one_label(trainer, best[:, k], features[:, k], trainer.labels[:, k], limit)
        for name, value in one.items():
            kept[name].append(value)
    arrays = {name: np.array(values) for name, values in kept.items()}
    arrays["doubt"] = doubt
    return Points(arrays, final_logits(trainer, scores, arrays))


def final_logits(trainer: Trainer, scores: Scores, arrays: dict[str, Floats]) -> Floats:
    """What the cascade says of each text at these operating points, shape (texts, k): as guardrails.detectors.cascade says it.

    A text that the head was not fitted on counts as harmless.
    """
    best, features = trainer.combined(scores)
    of_piece = arrays["slope"] * trainer.worst(scores, arrays["margin"]) + arrays["shift"]
    as_text = (features * arrays["text_weights"]).sum(axis=2) + arrays["text_bias"]
    logits = np.where(trainer.long[:, None], np.maximum(as_text, of_piece), of_piece)
    over = np.full_like(best, -np.inf)
    np.maximum.at(over, trainer.corpus.owner, scores.pieces - arrays["doubt"])
    read = (over.max(axis=1) >= 0) & (best[:, 0] > -30)
    return np.asarray(np.where(read[:, None], logits, harmless(np.minimum(over, 0))))


def _doubt(trainer: Trainer, scores: Scores, turns: Mask, share: float) -> Floats:
    """The n-gram logits (k,) that ``share`` of these turns reach with a piece, for whatever label."""
    highest = np.full((len(turns), scores.pieces.shape[1]), -np.inf)
    np.maximum.at(highest, trainer.corpus.owner, scores.pieces)
    highest = highest[turns]
    ranks = np.argsort(np.argsort(highest, axis=0), axis=0).max(axis=1) / len(highest)
    return np.asarray(np.quantile(highest, float(np.quantile(ranks, 1 - share)), axis=0))


def _one_label(trainer: Trainer, best: Floats, features: Floats, wanted: Floats, limits: Limits) -> dict[str, object]:
    heard = (best > -30) & ~np.isnan(wanted)
    short, real_long = heard & ~trainer.long, heard & trainer.long & ~trainer.written
    limit = max(float(np.quantile(best[short & mask], 1 - share)) for mask, share in limits.short)
    slope = fit_slope(best[short], wanted[short], trainer.weight[short])
    weights, bias = np.zeros(features.shape[1]), HARMLESS
    offset = margin = 0.0
    if len(set(wanted[real_long] > 0.5)) == 2:
        weights, bias = fit_text(features[real_long], wanted[real_long], trainer.weight[real_long])
    if limits.long and bias != HARMLESS:
        as_text = features @ weights + bias
        flagged = [(heard & trainer.long & mask, share) for mask, share in limits.long]
        offset = max(float(np.quantile(as_text[mask], 1 - share)) for mask, share in flagged)
        margin = max(0.0, *(float(np.quantile(best[mask], 1 - share / 4)) - limit for mask, share in flagged))
    return {
        "slope": slope,
        "shift": -slope * limit,
        "text_weights": weights,
        "text_bias": bias - offset,
        "margin": margin,
    }


def calibration_error(logits: Floats, wanted: Floats, weight: Floats, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al., 2015; bins of equal mass), positives weighted to one in three.

    The operating point moved the logits; what is left to find is that one shift, so it is fitted first.
    """
    known = ~np.isnan(wanted)
    logits, yes, mass = logits[known], wanted[known] > 0.5, balanced(wanted[known], weight[known])
    shift = 0.0
    for _ in range(50):  # Newton's method for the shift
        chance = 1 / (1 + np.exp(-np.clip(logits + shift, -30, 30)))
        shift += float((mass * (yes - chance)).sum() / max(1e-9, (mass * chance * (1 - chance)).sum()))
    chance = 1 / (1 + np.exp(-np.clip(logits + shift, -30, 30)))
    order = np.argsort(chance, kind="stable")
    place = np.minimum((np.cumsum(mass[order]) / mass.sum() * bins).astype(int), bins - 1)
    gaps = np.bincount(place, mass[order] * (yes[order] - chance[order]), bins)
    return float(np.abs(gaps).sum() / mass.sum())


def fit_text(features: Floats, wanted: Floats, weight: Floats) -> tuple[Floats, float]:
    """A logistic regression over text_features: its weights (6,) and bias."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=1000).fit(features, wanted > 0.5, sample_weight=balanced(wanted, weight))
    return model.coef_[0], float(model.intercept_[0])


def fit_slope(logits: Floats, wanted: Floats, weight: Floats) -> float:
    """From logits to those of calibrated probabilities (Platt, 1999), but for where zero is: that is the operating point."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(logits[:, None], wanted > 0.5, sample_weight=balanced(wanted, weight))
    return float(model.coef_[0, 0])
