"""Measures of the protocol on plain arrays.

Scores are probabilities [image]; labels are 0, 1 or NaN (unknown) and of floating type. Boxes are `chestmap.Box`.

Examples:
    >>> import numpy as np
    >>> from chestmap import metrics
    >>> scores, labels = np.array([0.1, 0.6, 0.8]), np.array([0.0, 1.0, np.nan])
    >>> metrics.auc(scores, labels).value, round(metrics.brier(scores, labels), 3)
    (1.0, 0.085)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from chestmap.evaluation.maps.overlap import as_array, ious, one_to_one
from chestmap.evaluation.statistics.auc import Auc, average_precision, delong, precision_recall, roc
from chestmap.evaluation.statistics.auc_by_patient import PairedAuc, paired_delong
from chestmap.evaluation.statistics.calibration import brier, reliability
from chestmap.types import Box

__all__ = [
    "Auc",
    "PairedAuc",
    "auc",
    "average_precision",
    "brier",
    "calibration_error",
    "compare_auc",
    "hits",
    "precision_recall",
    "roc",
]


def auc(scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"]) -> Auc | None:
    """Area under the ROC curve with DeLong's interval; None where only one kind of label is known.

    Examples:
        >>> import numpy as np
        >>> from chestmap import metrics
        >>> metrics.auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])).value
        0.75
    """
    return delong(scores, labels)


def compare_auc(
    first: Float[np.ndarray, "image"], second: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"]
) -> PairedAuc | None:
    """Tests whether two scores of the same images differ in AUC (DeLong, two-sided).

    Examples:
        >>> import numpy as np
        >>> from chestmap import metrics
        >>> labels = np.array([0.0, 0.0, 1.0, 1.0])
        >>> metrics.compare_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.1, 0.2, 0.7, 0.8]), labels).difference
        -0.25
    """
    return paired_delong(first, second, labels)


def calibration_error(
    scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], bins: int = 15
) -> float | None:
    """Expected calibration error over bins of equal width; None without labels.

    Examples:
        >>> import numpy as np
        >>> from chestmap import metrics
        >>> round(metrics.calibration_error(np.array([0.2, 0.9]), np.array([0.0, 1.0])), 3)
        0.15
    """
    found = reliability(scores, labels, bins)
    return None if found is None else found.error


def hits(boxes: Sequence[Box], truth: Sequence[Box], iou: float = 0.3) -> list[bool]:
    """Whether each true box of an image is met by a box of the same finding with at least this IoU, one to one.

    Examples:
        >>> from chestmap import Box, metrics
        >>> metrics.hits([Box("Mass", 0, 0, 10, 10)], [Box("Mass", 0, 0, 10, 8), Box("Nodule", 0, 0, 2, 2)])
        [True, False]
    """
    met = dict.fromkeys(range(len(truth)), False)
    for finding in dict.fromkeys(box.finding for box in truth):
        rows = [row for row, box in enumerate(truth) if box.finding == finding]
        ours = [box for box in boxes if box.finding == finding]
        if not ours:
            continue
        best = one_to_one(ious(as_array(ours), as_array([truth[row] for row in rows])))
        met |= {row: bool(value >= iou) for row, value in zip(rows, best, strict=True)}
    return list(met.values())
