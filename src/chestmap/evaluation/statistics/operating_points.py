"""Chooses the score from which a finding is called present, on validation images, and applies it to others.

The point is chosen on validation images, kept in the model folder, and only applied elsewhere. A finding with one kind of
label gets none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from chestmap.evaluation.statistics.auc import known_pairs, roc

Aim = Literal["youden", "sensitivity", "specificity"]


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A finding is called present where score >= threshold."""

    aim: Aim
    target: float | None
    threshold: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def choose_point(
    scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], aim: Aim, target: float | None = None
) -> OperatingPoint | None:
    """`youden`: most sensitivity + specificity. `sensitivity` (or `specificity`): the most of the other at no less than `target`.

    The threshold is a score that came, so the rates hold exactly on these images. None with one kind of label.
    """
    false, true, thresholds = (part[1:] for part in roc(scores, labels))
    if not len(true):
        return None
    if aim == "youden":
        index = int(np.argmax(np.round(true - false, 12)))  # the highest score among equals
    elif aim == "sensitivity":
        index = int(np.argmax(true >= float(target or 0)))
    else:
        allowed = np.flatnonzero(1 - false >= float(target or 0))
        if not len(allowed):  # even the highest score calls too many images present
            above = float(np.nextafter(thresholds[0], np.inf))
            return measure_point(
                scores,
                labels,
                OperatingPoint(
                    aim=aim, target=target, threshold=above, sensitivity=0.0, specificity=1.0, positives=0, negatives=0
                ),
            )
        index = int(allowed[-1])
    return measure_point(
        scores,
        labels,
        OperatingPoint(
            aim=aim,
            target=target,
            threshold=float(thresholds[index]),
            sensitivity=0.0,
            specificity=0.0,
            positives=0,
            negatives=0,
        ),
    )


def measure_point(
    scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], point: OperatingPoint
) -> OperatingPoint | None:
    """The same threshold on these images; None with one kind of label."""
    values, present = known_pairs(scores, labels)
    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives:
        return None
    called = values >= point.threshold
    return OperatingPoint(
        aim=point.aim,
        target=point.target,
        threshold=point.threshold,
        sensitivity=float(called[present].mean()),
        specificity=float((~called[~present]).mean()),
        positives=positives,
        negatives=negatives,
    )
