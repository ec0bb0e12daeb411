"""Scores predictors that never look at the image, and the most that a grid of a given fineness could reach.

Every table carries these: a row below the class-medoid box has not shown that its map sees anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from chestmap.evaluation.maps.overlap import areas, as_array, clipped, disjoint, intersections, ious
from chestmap.evaluation.measure import MEAN_OVERLAP, MET, Measure
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.scores import Score
from chestmap.evaluation.truth import Truth

Floor = Literal["medoid", "mean", "whole image", "random", "pixel"]
"""`medoid`: the training box with the largest mean IoU with all training boxes of the finding. `mean`: their mean corners.
`random`: one of them drawn at random; its rates are exact expectations. `pixel`: the middle pixel of the medoid, which shows
what T(IoR) alone is worth."""

FLOORS: tuple[Floor, ...] = get_args(Floor)
GRIDS = (7, 14, 16, 20, 32, 64)


@dataclass(frozen=True, eq=False)
class Floors:
    """Keeps the guesses of each floor for each finding: boxes [n, 4] in shares of the image's width and height.

    Only `random` has more than one. `support` counts a finding's training boxes; a finding without any is in neither
    table.
    """

    boxes: Mapping[str, Mapping[Floor, Float[np.ndarray, "box 4"]]]
    support: Mapping[str, int]


def fit_floors(training: Truth) -> Floors:
    """Fits the floors to training boxes; images of unknown size are left out.

    Boxes become shares of their image's width and height, so that a guess can be placed on an image of any size.
    """
    boxes: dict[str, list[np.ndarray]] = {}
    for row, image_id in enumerate(training.ids):
        size = training.sizes[row]
        if np.isnan(size).any():
            continue
        for box in training.boxes.get(image_id, ()):
            boxes.setdefault(box.finding, []).append(np.array(box.corners) / np.tile(size, 2))
    fitted = {finding: _fitted(np.stack(found)) for finding, found in boxes.items()}
    return Floors(fitted, {finding: len(found) for finding, found in boxes.items()})


def _fitted(boxes: Float[np.ndarray, "box 4"]) -> dict[Floor, Float[np.ndarray, "_ 4"]]:
    """Chooses the boxes of each floor from all training boxes of one finding, as shares of the image.

    `pixel` keeps the whole medoid, since its middle pixel is known only once an image's size is.
    """
    medoid = boxes[int(ious(boxes, boxes).mean(axis=1).argmax())]
    return {
        "medoid": medoid[None],
        "mean": boxes.mean(axis=0)[None],
        "whole image": np.array([[0.0, 0.0, 1.0, 1.0]]),
        "random": boxes,
        "pixel": medoid[None],
    }


def _in_pixels(floor: Floor, boxes: Float[np.ndarray, "box 4"], size: Float[np.ndarray, "2"]) -> Float[np.ndarray, "box 4"]:
    """Places a floor's boxes on an image of `size` (width, height), in pixels.

    Of the floor `pixel` only the pixel in the middle of the box is left.
    """
    placed = boxes * np.tile(size, 2)
    if floor != "pixel":
        return placed
    corner = np.floor((placed[:, :2] + placed[:, 2:]) / 2)
    return np.concatenate([corner, corner + 1], axis=1)


@dataclass(frozen=True, eq=False)
class FloorPairs:
    """Holds true boxes by (image, finding), cut to the image, in image pixels.

    All four fields have one entry for each pair. `image` is a row of the truth, `sizes` are (width, height).
    """

    finding: np.ndarray
    image: np.ndarray
    boxes: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]


def boxed_pairs(truth: Truth) -> FloorPairs:
    """Collects the pairs with true boxes, in the order of findings, then images.

    Left out are images of unknown size, and boxes of which nothing lies inside the image.
    """
    found = []
    for image, image_id in enumerate(truth.ids):
        given = truth.boxes.get(image_id, ())
        for name in dict.fromkeys(box.finding for box in given):
            inside = clipped(as_array([box for box in given if box.finding == name]), *truth.sizes[image])
            inside = inside[areas(inside) > 0]
            if len(inside):
                found.append((truth.findings.index(name), image, inside))
    found.sort(key=lambda one: one[:2])
    finding, image = (np.array([one[index] for one in found], dtype=np.int64) for index in (0, 1))
    return FloorPairs(finding, image, tuple(one[2] for one in found), tuple(truth.sizes[row] for row in image))


def floor_overlaps(
    floors: Floors, floor: Floor, pairs: FloorPairs, names: tuple[str, ...]
) -> list[Float[np.ndarray, "measure box"]]:
    """Computes IoU, IoR and IoGT of each of a floor's boxes with the union of true ones.

    A pair gives an array [3, boxes of the floor], with no columns where the finding had no training boxes.
    """
    found = []
    for finding, true, size in zip(pairs.finding, pairs.boxes, pairs.sizes, strict=True):
        fitted = floors.boxes.get(names[finding])
        if fitted is None:
            found.append(np.empty((3, 0)))
            continue
        guess = _in_pixels(floor, fitted[floor], size)
        pieces = disjoint(true)
        shared, ground, own = intersections(guess, pieces).sum(axis=1), areas(pieces).sum(), areas(guess)
        found.append(np.stack([shared / (own + ground - shared), shared / own, shared / ground]))
    return found


def floor_rows(floors: Floors, truth: Truth, limits: Limits, how: Resampling) -> list[Score]:
    """Scores every floor at every limit.

    A guess is one box against the union of the finding's boxes, so mask and box IoU agree. For `random` the mean over
    all its boxes is the exact expectation, so nothing is drawn.
    """
    pairs, names = boxed_pairs(truth), truth.findings.names
    values, heads = [], []
    for floor in FLOORS:
        overlaps = floor_overlaps(floors, floor, pairs, names)
        for index, (what, steps) in enumerate((("IoU", limits.iou), ("IoR", limits.ior), ("IoGT", limits.ior))):
            for step in steps:
                met = [one[index] > step if limits.strict else one[index] >= step for one in overlaps]
                values.append([one.mean() if len(one) else np.nan for one in met])
                heads.append({"measure": MET[what], "at": step, "rule": f"floor {floor}"})
            values.append([one[index].mean() if one.shape[1] else np.nan for one in overlaps])
            heads.append({"measure": MEAN_OVERLAP[what], "rule": f"floor {floor}"})
    patient = truth.patient[pairs.image]
    return scores_of(
        Block(finding=pairs.finding, patient=patient, values=np.array(values).T.reshape(len(patient), -1), heads=heads),
        names,
        how,
    )


def ceiling(boxes: Float[np.ndarray, "box 4"], across: Float[np.ndarray, "x"], down: Float[np.ndarray, "y"]) -> float:
    """The highest IoU that any union of grid cells can have with the union of boxes; `across` and `down` are the grid's lines.

    The best union takes cells in order of the share of them that is covered, so one pass over that order finds it.
    """
    pieces = disjoint(boxes)
    wide = _covered(across, pieces[:, 0], pieces[:, 2])
    high = _covered(down, pieces[:, 1], pieces[:, 3])
    inside = np.einsum("py,px->yx", high, wide).ravel()
    cell = np.outer(np.diff(down), np.diff(across)).ravel()
    touched = np.flatnonzero(inside > 0)
    order = touched[np.argsort(-inside[touched] / cell[touched], kind="stable")]
    taken, spilled = np.cumsum(inside[order]), np.cumsum(cell[order] - inside[order])
    return float((taken / (areas(pieces).sum() + spilled)).max(initial=0.0))


def _covered(lines: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How much of each interval between lines lies in each piece, [piece, interval]."""
    return np.maximum(np.minimum(lines[1:], high[:, None]) - np.maximum(lines[:-1], low[:, None]), 0)


def ceiling_rows(truth: Truth, limits: Limits, how: Resampling, grids: tuple[int, ...] = GRIDS) -> list[Score]:
    """T(IoU) that no map of so many hard cells over the whole image can pass; interpolation can pass it a little."""
    pairs = boxed_pairs(truth)
    values, heads = [], []
    for grid in grids:
        best = np.array(
            [
                ceiling(boxes, np.linspace(0, size[0], grid + 1), np.linspace(0, size[1], grid + 1))
                for boxes, size in zip(pairs.boxes, pairs.sizes, strict=True)
            ]
        )
        for step in limits.iou:
            values.append(best > step if limits.strict else best >= step)
            heads.append({"measure": Measure.IOU_MET, "at": step, "rule": f"ceiling {grid}x{grid}", "geometry": "mask"})
    patient = truth.patient[pairs.image]
    table = np.array(values, dtype=np.float64).T.reshape(len(patient), -1)
    return scores_of(Block(finding=pairs.finding, patient=patient, values=table, heads=heads), truth.findings.names, how)
