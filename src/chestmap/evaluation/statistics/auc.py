"""Computes areas under curves: AUC with its variance by patient (or DeLong's), average precision, both also resampled.

All in float64; scores are ranked, so their scale does not matter, and ties count one half (midranks). Unknown labels are left out
by the callers through `known_pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.special import expit, logit

from chestmap.errors import BadInput
from chestmap.evaluation.statistics.intervals import Spread, quantile

Scores = Float[np.ndarray, "image"]
Labels = Float[np.ndarray, "image"]


AucInterval = Literal["patients", "delong", "logit"]
"""`patients`: clustered variance and Wilson's interval; `delong` and `logit` take images as independent."""


@dataclass(frozen=True, kw_only=True)
class Auc:
    """`variance` is NaN where one kind of label came only once (of images for DeLong, of patients otherwise).

    `freedom` and `least` (effective patients) are known where the variance is by patient.
    """

    value: float
    variance: float
    positives: int
    negatives: int
    freedom: float = math.inf
    least: float = math.inf

    def interval(self, confidence: float = 0.95, how: AucInterval = "patients") -> tuple[float, float]:
        """`patients` is `delong` where the variance is not by patient. `delong` is cut to [0, 1]; `logit` stays inside. Both are a point at an AUC of exactly 0 or 1."""
        if how == "patients" and math.isfinite(self.least):
            numbers = (np.array([one]) for one in (self.value, self.variance, self.freedom, self.least))
            low, high = Spread(*numbers).bounded(confidence)
            return float(low[0]), float(high[0])
        reach = quantile(confidence) * math.sqrt(self.variance)
        if how != "logit" or self.value in (0.0, 1.0):
            return max(0.0, self.value - reach), min(1.0, self.value + reach)
        reach /= self.value * (1 - self.value)
        return float(expit(logit(self.value) - reach)), float(expit(logit(self.value) + reach))


def known_pairs(
    scores: Float[np.ndarray, "image"], labels: Labels
) -> tuple[Float[np.ndarray, "known_pairs"], Bool[np.ndarray, "known_pairs"]]:
    """Scores and "is present" of the images with a known label; a score that is no number is refused."""
    kept = ~np.isnan(labels)
    scores = scores[kept].astype(np.float64)
    if not np.isfinite(scores).all():
        raise BadInput(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers; predict again")
    return scores, labels[kept] == 1


@dataclass(frozen=True, eq=False)
class Placements:
    """For each positive the share of negatives below it, for each negative the share of positives above it; ties are half."""

    positive: Float[np.ndarray, "positives"]
    negative: Float[np.ndarray, "negatives"]

    @property
    def auc(self) -> Auc:
        """AUC with DeLong's variance, which takes images as independent."""
        spread = variance(self.positive) + variance(self.negative)
        return Auc(
            value=float(self.positive.mean()), variance=spread, positives=len(self.positive), negatives=len(self.negative)
        )


def variance(values: Float[np.ndarray, "n"]) -> float:
    """The variance of a mean; NaN for a single value."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan


def placements(scores: Float[np.ndarray, "known_pairs"], present: Bool[np.ndarray, "known_pairs"]) -> Placements | None:
    """None where only one kind of label came. O(n log n): one sort, then counts at the places of equal scores."""
    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(scores)
    ordered = scores[order]
    place = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
    positive_at = np.bincount(place, weights=present[order])
    negative_at = np.bincount(place) - positive_at
    below = (np.cumsum(negative_at) - negative_at / 2) / negatives
    above = (positives - np.cumsum(positive_at) + positive_at / 2) / positives
    place_of = np.empty_like(place)
    place_of[order] = place
    return Placements(below[place_of[present]], above[place_of[~present]])


def delong(scores: Float[np.ndarray, "image"], labels: Labels) -> Auc | None:
    """AUC with the variance of DeLong et al. (1988); None where only one kind of label is known."""
    placed = placements(*known_pairs(scores, labels))
    return placed.auc if placed else None


def average_precision(scores: Float[np.ndarray, "image"], labels: Labels) -> float | None:
    """Sum of precision times the step in recall at each score from above; None without positives."""
    recall, precision, _ = precision_recall(scores, labels)
    return float((np.diff(recall, prepend=0.0) * precision).sum()) if len(recall) else None


def precision_recall(scores: Float[np.ndarray, "image"], labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and score at each different score, highest first; empty without positives."""
    thresholds, true, false = _counts_above(*known_pairs(scores, labels))
    if not len(true) or true[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    return true / true[-1], true / (true + false), thresholds


def roc(scores: Float[np.ndarray, "image"], labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, sensitivity and score, from (0, 0); "positive" means score >= threshold. Empty with one kind."""
    thresholds, true, false = _counts_above(*known_pairs(scores, labels))
    if not len(true) or true[-1] == 0 or false[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    start = np.zeros(1)
    return (
        np.concatenate([start, false / false[-1]]),
        np.concatenate([start, true / true[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def _counts_above(
    scores: Float[np.ndarray, "known_pairs"], present: Bool[np.ndarray, "known_pairs"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different scores from the highest down, and the positives and negatives at or above each."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.empty(0, dtype=np.int64)
    true = np.cumsum(present[order])[last]
    return ordered[last], true.astype(np.float64), (last + 1 - true).astype(np.float64)


def resampled(
    scores: Float[np.ndarray, "image"],
    labels: Labels,
    patient: Int[np.ndarray, "image"],
    weights: Int[np.ndarray, "resample patient"],
) -> tuple[Float[np.ndarray, "resample"], Float[np.ndarray, "resample"]]:
    """AUC and average precision of each resample, in which an image counts as often as its patient was drawn.

    NaN where a resample holds only one kind of label.
    """
    values, present = known_pairs(scores, labels)
    patient = patient[~np.isnan(labels)]
    low, high = np.argsort(values[~present]), np.argsort(-values[present])
    negative, positive = values[~present][low], values[present][high]
    ends = np.searchsorted(negative, positive, "left"), np.searchsorted(negative, positive, "right")
    places, where = np.unique(np.concatenate([*ends, [len(negative)]]), return_inverse=True)
    # negatives between two places, by patient: resampling is then one sparse product
    between = np.searchsorted(places, np.arange(len(negative)), "right")
    shape = (len(places), weights.shape[1])
    counts = coo_array((np.ones(len(negative)), (between, patient[~present][low])), shape=shape).tocsr()
    last_of_score = (
        np.flatnonzero(np.append(positive[1:] != positive[:-1], True)) if len(positive) else np.empty(0, np.int64)
    )
    auc, precision = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    for start in range(0, len(weights), 128):
        drawn = np.ascontiguousarray(weights[start : start + 128].T, dtype=np.float64)
        below = np.cumsum(counts @ drawn, axis=0)
        first, last = below[where[: len(positive)]], below[where[len(positive) : -1]]
        hits, negatives = drawn[patient[present][high]], below[-1]
        positives = hits.sum(axis=0)
        true = np.cumsum(hits, axis=0)[last_of_score]
        found = true + negatives - first[last_of_score]
        with np.errstate(invalid="ignore", divide="ignore"):
            auc[start : start + 128] = (hits * (first + last)).sum(axis=0) / 2 / (negatives * positives)
            share = np.where(found > 0, true / found, 0.0)
            precision[start : start + 128] = (np.diff(true, axis=0, prepend=0.0) * share).sum(axis=0) / positives
    return auc, precision
