"""Measures how well readers agree with each other: the ceiling to compare a model's localization with.

A model that meets one reader's boxes as often as another reader does cannot be distinguished from a reader by boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chestmap.datasets.readings import Reading
from chestmap.evaluation.maps.overlap import areas, as_array, disjoint, intersections
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.scores import Score
from chestmap.evaluation.statistics.resampling import numbered

Readings = Mapping[str, Mapping[str, Reading]]
"""By image, then by reader; a reader who looked and drew nothing has no boxes."""

RULE = "ceiling readers"


def reader_rows(
    readings: Readings, patients: Mapping[str, str], names: Sequence[str], limits: Limits, how: Resampling
) -> list[Score]:
    """T(IoU), mean IoU and "also marked", over ordered pairs of readers of one image of whom the first marked the finding.

    Boxes are compared as the union of each reader's. A second reader who did not mark the finding is a miss. Images with one reader
    have no part, nor readers who did not look for the finding.
    """
    rows: list[tuple[int, str, float, float]] = []
    for image, by_reader in readings.items():
        for finding, name in enumerate(names):
            judging = [reading for reading in by_reader.values() if reading.looked_for(name)]
            drawn = [as_array([box for box in reading.boxes if box.finding == name]) for reading in judging]
            for first, one in enumerate(drawn):
                if len(one):
                    others = (other for second, other in enumerate(drawn) if second != first)
                    person = patients.get(image) or f"image {image}"
                    rows += [(finding, person, union_iou(one, other), float(len(other) > 0)) for other in others]
    if not rows:
        return []
    finding, patient, overlap, marked = zip(*rows, strict=True)
    iou = np.array(overlap)
    met = [iou > limit if limits.strict else iou >= limit for limit in limits.iou]
    head = {"geometry": "mask", "rule": RULE}
    heads = [head | {"measure": Measure.IOU_MET, "at": limit} for limit in limits.iou]
    heads += [head | {"measure": Measure.MEAN_IOU}, head | {"measure": Measure.ALSO_MARKED}]
    values = np.stack([*met, iou, np.array(marked)], axis=1).astype(np.float64)
    return scores_of(
        Block(finding=np.array(finding), patient=numbered(patient), values=values, heads=heads, unit="pairs of readers"),
        names,
        how,
    )


def union_iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of the ground that two sets of boxes cover; 0 where one is empty."""
    if not len(one) or not len(other):
        return 0.0
    pieces, others = disjoint(one), disjoint(other)
    shared = float(intersections(pieces, others).sum())
    return shared / (float(areas(pieces).sum()) + float(areas(others).sum()) - shared)
