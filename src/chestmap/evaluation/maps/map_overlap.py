"""Compares one map with the boxes of its finding at every threshold; finds regions where the finding is absent.

A map is a non-negative array on the canvas grid, seen on the image's surface. The threshold levels are shares of the map's
own range. Overlap is computed with regions (masks) and with their boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from chestmap.evaluation.maps.comparison_space import LEVELS, Levels, Workspace
from chestmap.evaluation.maps.overlap import areas, disjoint, intersections, one_to_one, pixel_spans, regions

OWN = 0
"""The first column of every threshold axis is the method's own threshold; the others are multiples of 1 / 256."""

MASK_LEVELS = np.arange(LEVELS)
"""Columns 1 … of mask counts: pixels with level >= 0, 1, … 255."""

BOX_LEVELS = np.arange(16, 241, 8)
"""Columns 1 … of box overlaps, 1/16 to 15/16; each needs the regions to be traced, so there are fewer."""

FEW = 64
"""Up to so many boxes are averaged one by one."""

EXACT_IN_FLOAT32 = 1 << 24
"""OpenCV counts in float32."""


def mask_column(level: int) -> int:
    """The column of a threshold level in the table of masks; column 0 is the method's own threshold."""
    return 1 + level


def box_column(level: int) -> int:
    """The column of a threshold level in the table of boxes, which has every eighth level."""
    return 1 + (level - int(BOX_LEVELS[0])) // 8


@dataclass(frozen=True, eq=False, kw_only=True)
class PairOverlap:
    """What is kept of one (image, finding) with boxes.

    `area` and `inside` count the mask's pixels, all and within the union of boxes, by mask column; `ground` those of the union.
    Rows of `best` are IoU, IoR and IoGT of the largest region, then the greatest of any region, by box column; `each` is the IoU
    of each true box when regions and boxes pair off. `found` is, for each true box, the greatest confidence of a region that
    meets it (-inf: none).
    """

    area: Int[np.ndarray, "column"]
    inside: Int[np.ndarray, "column"]
    ground: int
    best: Float[np.ndarray, "6 boxcolumn"]
    each: Float[np.ndarray, "box boxcolumn"]
    pointed: bool
    found: Float[np.ndarray, "box boxcolumn"]


def quantized(levels: Float32[np.ndarray, "h w"], work: Workspace) -> UInt8[np.ndarray, "h w"]:
    """floor, so that quantized >= k where the level is >= k; the top level joins the last."""
    capped = work.array("other", levels.shape, np.float32)
    coarse = work.array("coarse", levels.shape, np.uint8)
    np.copyto(coarse, np.clip(levels, 0, LEVELS - 1, out=capped), casting="unsafe")
    return coarse


def overlap_of_pair(
    levels: Levels | None,
    boxes: Float[np.ndarray, "box 4"],
    cut: tuple[float, float],
    work: Workspace,
    size: tuple[int, int],
) -> PairOverlap:
    """`levels` from Sampler.levels (None is a miss everywhere), boxes on the surface and inside it, size (width, height).

    `cut` is the own threshold, and the IoU with which a region meets a box.
    """
    spans = pixel_spans(boxes, *size)
    pieces = disjoint(spans.astype(np.float64)).astype(np.int64)
    ground = int(areas(pieces.astype(np.float64)).sum())
    columns = 1 + len(BOX_LEVELS)
    if levels is None:
        area, inside = np.zeros(1 + LEVELS, dtype=np.int64), np.zeros(1 + LEVELS, dtype=np.int64)
        area[mask_column(0)], inside[mask_column(0)] = size[0] * size[1], ground
        nothing = np.zeros((len(boxes), columns))
        never = np.full((len(boxes), columns), -np.inf)
        return PairOverlap(
            area=area, inside=inside, ground=ground, best=np.zeros((6, columns)), each=nothing, pointed=False, found=never
        )
    pixels = levels.pixels
    coarse = quantized(pixels, work)
    own_mask, corner = levels.reaching(cut[0])
    area, inside = _counts(coarse, own_mask, corner, pieces)
    traced = [regions(own_mask, corner), *_traced(coarse, work)]
    best, each, found = _against(traced, boxes, pixels, cut[1])
    y, x = np.unravel_index(int(pixels.argmax()), pixels.shape)
    pointed = bool(((spans[:, 0] <= x) & (x < spans[:, 2]) & (spans[:, 1] <= y) & (y < spans[:, 3])).any())
    return PairOverlap(area=area, inside=inside, ground=ground, best=best, each=each, pointed=pointed, found=found)


def _counts(
    coarse: UInt8[np.ndarray, "h w"],
    own_mask: UInt8[np.ndarray, "y x"],
    corner: tuple[int, int],
    pieces: Int[np.ndarray, "piece 4"],
) -> tuple[Int[np.ndarray, "column"], Int[np.ndarray, "column"]]:
    """Pixels of the mask, all and inside the boxes, at the own threshold and at level 0, 1, … 255."""
    windows = [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in pieces if x0 < x1 and y0 < y1]
    within = sum((_histogram(coarse[window]) for window in windows), np.zeros(LEVELS, dtype=np.int64))
    moved = np.maximum(pieces - (corner * 2), 0)
    own_within = sum(int(own_mask[y0:y1, x0:x1].sum()) for x0, y0, x1, y1 in moved)
    area = np.concatenate([[int(own_mask.sum())], _histogram(coarse)[::-1].cumsum()[::-1]])
    return area.astype(np.int64), np.concatenate([[own_within], within[::-1].cumsum()[::-1]]).astype(np.int64)


def _histogram(coarse: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "level"]:
    if coarse.size > EXACT_IN_FLOAT32:
        return np.bincount(coarse.ravel(), minlength=LEVELS)
    return cv2.calcHist([coarse], [0], None, [LEVELS], [0, LEVELS]).ravel().astype(np.int64)


def _traced(coarse: UInt8[np.ndarray, "h w"], work: Workspace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Regions at each box level."""
    rows, columns = coarse.max(axis=1), coarse.max(axis=0)
    found = []
    for level in BOX_LEVELS.tolist():  # plain numbers, or numpy compares as int64
        y, x = np.flatnonzero(rows >= level), np.flatnonzero(columns >= level)
        if not len(y):
            found.append((np.empty((0, 4)), np.empty(0)))
            continue
        window = coarse[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        mask = np.greater_equal(window, level, out=work.array("mask", window.shape, np.bool_))
        found.append(regions(mask.view(np.uint8), offset=(int(x[0]), int(y[0]))))
    return found


def confidences(levels: Float32[np.ndarray, "h w"], boxes: Float[np.ndarray, "region 4"]) -> Float[np.ndarray, "region"]:
    """Mean of the map within each region's box, in [0, 1]: how boxes of one map rank among each other."""
    corners = boxes.astype(np.int64)
    if len(boxes) <= FEW:
        means = [cv2.mean(levels[y0:y1, x0:x1])[0] for x0, y0, x1, y1 in corners]
        return np.array(means, dtype=np.float64) / LEVELS
    sums, (x0, y0, x1, y1) = cv2.integral(levels, sdepth=cv2.CV_64F), corners.T
    return (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / areas(boxes) / LEVELS


def _against(
    traced: list[tuple[np.ndarray, np.ndarray]], boxes: Float[np.ndarray, "box 4"], pixels: np.ndarray, met: float
) -> tuple[Float[np.ndarray, "6 boxcolumn"], Float[np.ndarray, "box boxcolumn"], Float[np.ndarray, "box boxcolumn"]]:
    """Overlaps of the regions of each column with the true boxes; see PairOverlap."""
    best, each = np.zeros((6, len(traced))), np.zeros((len(boxes), len(traced)))
    found = np.full((len(boxes), len(traced)), -np.inf)
    every = np.concatenate([there for there, _ in traced])
    shared, region_area, true_area = intersections(every, boxes), areas(every)[:, None], areas(boxes)[None, :]
    overlaps = np.stack([shared / (region_area + true_area - shared), shared / region_area, shared / true_area])
    meeting = (overlaps[0] >= met).any(axis=1)
    confidence = np.full(len(every), -np.inf)
    confidence[meeting] = confidences(pixels, every[meeting])
    start = 0
    for column, (there, sizes) in enumerate(traced):
        if len(there):
            now = slice(start, start + len(there))
            part = overlaps[:, now]
            best[:3, column] = part[:, int(sizes.argmax())].max(axis=1)
            best[3:, column] = part.max(axis=(1, 2))
            each[:, column] = part[0].max(axis=0) if len(boxes) == 1 else one_to_one(part[0])
            found[:, column] = np.where(part[0] >= met, confidence[now, None], -np.inf).max(axis=0)
            start += len(there)
    return best, each, found


def absent_regions(levels: Levels | None, thresholds: tuple[float, ...]) -> tuple[list[int], Float[np.ndarray, "region"]]:
    """Where the finding is absent: how many regions each threshold leaves, and the confidences at the last of them."""
    if levels is None:
        return [0] * len(thresholds), np.empty(0)
    counts, boxes = [], np.empty((0, 4))
    for threshold in thresholds:
        boxes, _ = regions(*levels.reaching(threshold))
        counts.append(len(boxes))
    return counts, confidences(levels.pixels, boxes)


def ranked_regions(
    levels: Levels | None, threshold: float
) -> tuple[Float[np.ndarray, "region 4"], Float[np.ndarray, "region"]]:
    """Boxes and confidences of the regions at one threshold."""
    if levels is None:
        return np.empty((0, 4)), np.empty(0)
    boxes, _ = regions(*levels.reaching(threshold))
    return boxes, confidences(levels.pixels, boxes)
