"""Computes overlaps of boxes and regions as arrays. Boxes are [n, 4] half-open x0, y0, x1, y1, areas are in pixels.

The functions know neither maps nor findings. A box is half-open, so a box of two equal corners has no area and meets
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from chestmap.types import Box

Boxes = Float[np.ndarray, "box 4"]

MANY = 8
"""With more regions than this, numpy measures them together faster than OpenCV one by one."""


def as_array(boxes: Sequence[Box]) -> Boxes:
    """Stacks boxes to an array of float64; none gives an array of shape [0, 4]."""
    return np.array([box.corners for box in boxes], dtype=np.float64).reshape(-1, 4)


def areas(boxes: Float[np.ndarray, "*box 4"]) -> Float[np.ndarray, "*box"]:
    """Areas in square pixels; a box with crossed corners has none."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)


def intersections(one: Float[np.ndarray, "one 4"], other: Float[np.ndarray, "other 4"]) -> Float[np.ndarray, "one other"]:
    """Areas that each box of one set shares with each of the other."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=2)


def ious(one: Float[np.ndarray, "one 4"], other: Float[np.ndarray, "other 4"]) -> Float[np.ndarray, "one other"]:
    """Intersection over union of each pair; boxes without an area give NaN."""
    shared = intersections(one, other)
    return shared / (areas(one)[:, None] + areas(other)[None, :] - shared)


def clipped(boxes: Boxes, width: float, height: float) -> Boxes:
    """Boxes cut at the border; one that lies outside keeps no area."""
    return np.clip(boxes, 0, [width, height, width, height])


def disjoint(boxes: Boxes) -> Float[np.ndarray, "piece 4"]:
    """Rectangles that do not overlap and cover the same ground as `boxes`."""
    if len(boxes) < 2:
        return boxes
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    pieces = []
    for y0, y1 in itertools.pairwise(ys):
        rows = boxes[(boxes[:, 1] <= y0) & (boxes[:, 3] >= y1)]
        for x0, x1 in itertools.pairwise(xs):
            if ((rows[:, 0] <= x0) & (rows[:, 2] >= x1)).any():
                pieces.append((x0, y0, x1, y1))
    return np.array(pieces, dtype=np.float64).reshape(-1, 4)


def pixel_spans(boxes: Boxes, width: int, height: int) -> Int[np.ndarray, "box 4"]:
    """Pixels with their center in the box, as half-open spans inside the surface; a sliver between centers has none."""
    spans = np.ceil(boxes - 0.5).astype(np.int64)
    return np.clip(spans, 0, [width, height, width, height])


def painted(spans: Int[np.ndarray, "box 4"], width: int, height: int) -> UInt8[np.ndarray, "height width"]:
    """1 where any of the spans lies."""
    mask = np.zeros((height, width), dtype=np.uint8)
    for x0, y0, x1, y1 in spans:
        mask[y0:y1, x0:x1] = 1
    return mask


def regions(
    mask: UInt8[np.ndarray, "height width"], offset: tuple[int, int] = (0, 0)
) -> tuple[Float[np.ndarray, "region 4"], Float[np.ndarray, "region"]]:
    """Boxes and areas of the 8-connected regions of a mask, shifted by `offset` (x, y). Holes count as part of their region.

    A region in the hole of another one is a region, too.

    The area is Pick's: pixels inside or on the outer border, which is half the border's steps, the polygon's area and one.
    """
    contours, tree = (
        cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset) if mask.size else ((), None)
    )
    if tree is not None and (tree[0, :, 3] >= 0).any():  # outlines of holes have a parent
        contours = [one for one, outer in zip(contours, tree[0, :, 3] < 0, strict=True) if outer]
    if len(contours) > MANY:
        return _measured(contours)
    boxes, sizes = np.empty((len(contours), 4)), np.empty(len(contours))
    for row, contour in enumerate(contours):
        x, y, width, height = cv2.boundingRect(contour)
        boxes[row] = x, y, x + width, y + height
        sizes[row] = cv2.contourArea(contour) + (len(contour) if len(contour) > 1 else 0) / 2 + 1
    return boxes, sizes


def _measured(contours: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, "region 4"], Float[np.ndarray, "region"]]:
    """The same for many contours at once: specks of a noisy map come in hundreds."""
    lengths = np.array([len(contour) for contour in contours])
    starts = np.cumsum(lengths) - lengths
    points = np.concatenate(contours).reshape(-1, 2).astype(np.float64)
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    twice = points[:, 0] * points[following, 1] - points[following, 0] * points[:, 1]
    boxes = np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts) + 1], axis=1)
    steps = np.where(lengths > 1, lengths, 0)
    return boxes, np.abs(np.add.reduceat(twice, starts)) / 2 + steps / 2 + 1


def one_to_one(overlap: Float[np.ndarray, "region box"]) -> Float[np.ndarray, "box"]:
    """The IoU with which each box is matched when regions and boxes pair off greedily, best pair first; 0 where left over."""
    matched = np.zeros(overlap.shape[1])
    left = overlap.copy()
    for _ in range(min(overlap.shape)):
        region, box = np.unravel_index(int(left.argmax()), left.shape)
        if left[region, box] <= 0:
            break
        matched[box] = left[region, box]
        left[region], left[:, box] = -1.0, -1.0
    return matched
