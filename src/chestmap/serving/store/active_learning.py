"""Orders studies by what a review of them would teach: models are unsure or differ, and the study is unlike those chosen.

Worth of a finding: uncertainty 4 s (1 - s), the spread of the models' scores, and s (1 - IoU of their boxes): is it there, do
they agree on that, and on where. All lie in [0, 1]; a study's worth is the mean over findings of their mean. Diversity is farthest-
first traversal (Gonzalez 1985; k-center in Sener and Savarese 2018) in score space, weighted with worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from chestmap.types import Box

Told = Mapping[str, Any]
"""One model's answer for one finding, as the store has it: name, score, threshold, boxes."""


def scaled_score(score: float, threshold: float | None) -> float:
    """0.5 at the operating point, straight on both sides of it, so that findings can be compared."""
    point = min(max(0.5 if threshold is None else threshold, 1e-6), 1 - 1e-6)
    return 0.5 * score / point if score < point else 0.5 + 0.5 * (score - point) / (1 - point)


def scores_of(results: Sequence[Sequence[Told]]) -> dict[str, list[float]]:
    """Scaled scores by finding, one from each model that knows it."""
    scores: dict[str, list[float]] = {}
    for one in (told for findings in results for told in findings):
        scores.setdefault(one["name"], []).append(scaled_score(one["score"], one["threshold"]))
    return scores


def worth(results: Sequence[Sequence[Told]]) -> float:
    """Of one study, from the answer of each model."""
    boxes: dict[str, list[list[Box]]] = {}
    for one in (told for findings in results for told in findings):
        corners = ([box[key] for key in ("x0", "y0", "x1", "y1")] for box in one["boxes"])
        boxes.setdefault(one["name"], []).append([Box(one["name"], *four) for four in corners])
    parts = [
        (4 * (mean := sum(scores) / len(scores)) * (1 - mean), max(scores) - min(scores), mean * _disagreement(boxes[name]))
        for name, scores in scores_of(results).items()
    ]
    return float(np.mean(parts)) if parts else 0.0


def _disagreement(boxes: Sequence[Sequence[Box]]) -> float:
    """1 - the best IoU of two models' boxes, mean over pairs; a box against none counts as 1, none against none as 0."""
    pairs = [(one, other) for one, other in combinations(boxes, 2) if one or other]
    best = (max((a.iou(b) for a in one for b in other), default=0.0) for one, other in pairs)
    return sum(1 - overlap for overlap in best) / len(pairs) if pairs else 0.0


def in_order(
    worths: Float[np.ndarray, "study"], places: Float[np.ndarray, "study finding"], known: Float[np.ndarray, "known finding"]
) -> list[int]:
    """Numbers of studies: the next has the greatest worth times distance to the nearest that is known or chosen before it.

    Distances are root mean squares over findings, so they lie in [0, 1], as worths do; what equals one chosen comes last, by worth.
    """

    def distances(place: np.ndarray) -> np.ndarray:
        return np.sqrt(((places - place) ** 2).mean(axis=1))

    rank, order = np.lexsort((np.arange(len(worths)), -worths)), []  # of equal gains the first: the greatest worth
    worths, places = worths[rank], places[rank]
    nearest, left = np.min([np.ones(len(places)), *map(distances, known)], axis=0), np.ones(len(places), dtype=bool)
    while left.any():
        best = int(np.argmax(np.where(left, worths * nearest, -1.0)))
        order.append(int(rank[best]))
        left[best], nearest = False, np.minimum(nearest, distances(places[best]))
    return order
