"""Measures whether scores are probabilities, and fits the scaling that mends them on validation images.

Scores are probabilities, labels 0 or 1. A fit uses validation images alone and never changes the order of the images, so
AUC stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

from chestmap.errors import BadInput
from chestmap.evaluation.statistics.auc import known_pairs

Kind = Literal["none", "temperature", "platt"]
Binning = Literal["width", "mass"]

NEAREST = 1e-7
"""Scores are kept so far from 0 and 1 before their logit is taken: what float32 can still distinguish from 1."""

STEEPEST = 100.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins that hold images: mean score, share present and count. `share` equals `score` where calibration is perfect."""

    score: Float[np.ndarray, "bin"]
    share: Float[np.ndarray, "bin"]
    count: Float[np.ndarray, "bin"]

    @property
    def error(self) -> float:
        """Expected calibration error: the gaps, weighted by count."""
        return float((np.abs(self.score - self.share) * self.count).sum() / self.count.sum())


def reliability(
    scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], bins: int = 15, binning: Binning = "width"
) -> Reliability | None:
    """`width`: equal widths over [0, 1], the last closed; `mass`: equal counts in order of score. None without labels."""
    values, present = known_pairs(scores, labels)
    if not len(values):
        return None
    if values.min() < 0 or values.max() > 1:
        raise BadInput(f"scores from {values.min():.3g} to {values.max():.3g}: calibration needs probabilities in [0, 1]")
    if binning == "width":
        bin_of = np.minimum((values * bins).astype(np.int64), bins - 1)
    else:
        bin_of = np.empty(len(values), dtype=np.int64)
        bin_of[np.argsort(values, kind="stable")] = np.arange(len(values)) * bins // len(values)
    count = np.bincount(bin_of, minlength=bins).astype(np.float64)
    held = count > 0
    score = np.bincount(bin_of, weights=values, minlength=bins)[held] / count[held]
    share = np.bincount(bin_of, weights=present, minlength=bins)[held] / count[held]
    return Reliability(score, share, count[held])


def brier(scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"]) -> float | None:
    """Mean squared difference of score and label."""
    values, present = known_pairs(scores, labels)
    return float(((values - present) ** 2).mean()) if len(values) else None


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope * logit(score) + offset) for each finding; a finding that could not be fitted keeps its scores."""

    kind: Kind
    slope: tuple[float, ...]
    offset: tuple[float, ...]
    fitted: tuple[bool, ...]

    def apply(self, scores: Float[np.ndarray, "image finding"]) -> Float[np.ndarray, "image finding"]:
        """Rescales scores of every fitted finding; scores of the others stay."""
        mended = expit(np.array(self.slope) * _logits(scores) + np.array(self.offset))
        return np.where(np.array(self.fitted), mended, scores.astype(np.float64))

    def as_dict(self) -> dict[str, Any]:
        """For model.json."""
        return {
            "kind": self.kind,
            "slope": list(self.slope),
            "offset": list(self.offset),
            "fitted": list(self.fitted),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibration:
        """Reads what `as_dict` wrote into `model.json`."""
        return cls(stored["kind"], tuple(stored["slope"]), tuple(stored["offset"]), tuple(stored["fitted"]))


def _logits(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores.astype(np.float64), NEAREST, 1 - NEAREST))


def fit_calibration(
    scores: Float[np.ndarray, "image finding"], labels: Float[np.ndarray, "image finding"], kind: Kind = "platt"
) -> Calibration:
    """Least log loss on validation images. `temperature` fits the slope (1 / temperature) alone, `platt` also the offset.

    Not fitted: a finding with one kind of label only, or one with scores that separate the labels so well that no finite slope is best.
    """
    fits = [_fit_one(scores[:, index], labels[:, index], kind) for index in range(scores.shape[1])]
    return Calibration(
        kind,
        tuple(fit[0] if fit else 1.0 for fit in fits),
        tuple(fit[1] if fit else 0.0 for fit in fits),
        tuple(fit is not None for fit in fits),
    )


def _fit_one(
    scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], kind: Kind
) -> tuple[float, float] | None:
    """Slope and offset; None where a finite slope is not the best one, or where it would turn the order round."""
    values, present = known_pairs(scores, labels)
    if kind == "none" or not 0 < present.sum() < len(present):
        return None
    z = _logits(values)
    if z[present].min() >= z[~present].max() or z[present].max() <= z[~present].min():
        return None
    inputs = np.stack([z, np.ones_like(z)], axis=1)[:, : 1 if kind == "temperature" else 2]
    found = _logistic(inputs, present)
    if found is None or found[0] <= 0:
        return None
    return float(found[0]), float(found[1]) if kind == "platt" else 0.0


def _logistic(inputs: Float[np.ndarray, "image parameter"], present: Bool[np.ndarray, "image"]) -> np.ndarray | None:
    """Newton's method with halved steps; None where it runs away."""
    found = np.zeros(inputs.shape[1])
    found[0] = 1.0
    loss = _log_loss(inputs @ found, present)
    for _ in range(100):
        p = expit(inputs @ found)
        gradient = inputs.T @ (p - present)
        curvature = inputs.T @ (inputs * (p * (1 - p))[:, None]) + 1e-12 * np.eye(len(found))
        step = np.linalg.solve(curvature, gradient)
        while _log_loss(inputs @ (found - step), present) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found - step
        loss = _log_loss(inputs @ found, present)
        if np.abs(found).max() > STEEPEST or not np.isfinite(found).all():
            return None
        if np.abs(step).max() < 1e-10:
            return found
    return found


def _log_loss(logits: np.ndarray, present: np.ndarray) -> float:
    return float((np.logaddexp(0.0, logits) - logits * present).sum())
