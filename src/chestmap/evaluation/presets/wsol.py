"""Computes the three scores of Choe et al., "Evaluating weakly supervised object localization methods right" (CVPR 2020), as
its code does.

Maps are resized to 224 x 224 (cubic), scaled to [0, 1] and stored in 8 bits (truncated); a mask is > int(t * 255) for
t = 0, 0.001 … 0.999, which are 255 different masks. Boxes [x0, y0, x1, y1] are cut to whole pixels of the image, then scaled and
cut again. Their x1 is at most 223, and their sides count one pixel more than x1 - x0.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float

from chestmap.evaluation.maps.comparison_space import Surface, is_informative, sampler
from chestmap.evaluation.maps.overlap import ious, painted, pixel_spans
from chestmap.evaluation.maps.passes import Map
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Resampling, Sums, scores_of_sums
from chestmap.evaluation.scores import Score

SIDE = 224
SURFACE = Surface("image", SIDE, "cubic")
CUTS = 255
LIMITS = (0.3, 0.5, 0.7)
EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
ALL = "all pairs"
"""The reference has one threshold for all images; our rows by finding have one for each finding."""


def scaled(seen: Map, surface: Surface) -> Float[np.ndarray, "h w"]:
    """Resized first, then scaled to [0, 1], so that the highest pixel is exactly 1; zeros for a map without information."""
    made = sampler(surface, seen.frame, seen.values.shape, seen.work)
    nothing = np.zeros(made.size[::-1], dtype=np.float32)
    if not is_informative(seen.values):  # resizing would add noise to a constant
        return nothing
    values = made.sample(seen.values.astype(np.float32)).copy()
    values -= values.min()
    return values / values.max() if values.max() > 0 else nothing


def _note(seen: Map, *, largest: bool) -> Float[np.ndarray, "255"]:
    """The best IoU with any true box at each cut, by the largest region or by any; outlines of holes are regions too, as there."""
    grey = (scaled(seen, SURFACE) * 255).astype(np.uint8)
    true = np.trunc(np.trunc(seen.boxes) * SIDE / np.tile(seen.frame.image, 2))
    best = np.empty(CUTS)
    for cut in range(CUTS):
        mask = np.asarray(cv2.threshold(grey, cut, 255, cv2.THRESH_BINARY)[1])
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        if largest and contours:
            contours = [max(contours, key=cv2.contourArea)]
        found = [cv2.boundingRect(contour) for contour in contours]
        boxes = [(x, y, min(x + width, SIDE - 1), min(y + height, SIDE - 1)) for x, y, width, height in found]
        best[cut] = _pixel_ious(np.array(boxes or [(0, 0, 0, 0)], dtype=np.float64), true).max()
    return best


def _pixel_ious(one: Float[np.ndarray, "one 4"], other: Float[np.ndarray, "other 4"]) -> Float[np.ndarray, "one other"]:
    wider = np.array([0, 0, 1, 1])
    return ious(one + wider, other + wider)


def note_largest(seen: Map) -> Float[np.ndarray, "255"]:
    """Best IoU of the largest region's box with any true box, at 255 levels: MaxBoxAcc."""
    return _note(seen, largest=True)


def note_any(seen: Map) -> Float[np.ndarray, "255"]:
    """Best IoU of any region's box with any true box, at 255 levels: MaxBoxAccV2."""
    return _note(seen, largest=False)


def v1_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """MaxBoxAcc: IoU >= 0.5 with the best cut of all."""
    return _max_box_acc(
        noted, loc, how, (0.5,), {"measure": Measure.MAX_BOX_ACC, "geometry": "largest", "rule": "preset wsol-v1"}
    )


def v2_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """MaxBoxAccV2: the mean over IoU >= 0.3, 0.5 and 0.7, each with its own best cut."""
    return _max_box_acc(
        noted, loc, how, LIMITS, {"measure": Measure.MAX_BOX_ACC_V2, "geometry": "any", "rule": "preset wsol-v2"}
    )


def _max_box_acc(
    noted: np.ndarray, loc: Localization, how: Resampling, limits: tuple[float, ...], head: dict[str, str]
) -> list[Score]:
    """Each limit takes the cut at which most pairs meet it; the score is the mean over limits."""
    hits = np.concatenate([noted >= limit for limit in limits] + [np.ones((len(noted), 1))], axis=1).astype(np.float64)

    def measures(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            rates = sums[..., :-1] / sums[..., -1:]
        return rates.reshape(*rates.shape[:-1], len(limits), CUTS).max(axis=-1).mean(axis=-1, keepdims=True)

    return _together_and_apart(hits, measures, loc, how, head)


def note_pixels(seen: Map) -> Float[np.ndarray, "2004"]:
    """How many pixels lie in each of the reference's bins, inside the boxes and outside.

    Boxes are painted on the image (pixels with their center inside) and then resized by OpenCV's nearest neighbor.
    """
    values = scaled(seen, SURFACE)
    size = Surface().size(seen.frame)
    mask = cv2.resize(painted(pixel_spans(seen.boxes, *size), *size), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0
    inside, outside = (np.histogram(values[part], bins=EDGES)[0] for part in (mask, ~mask))
    return np.concatenate([inside, outside]).astype(np.float64)


def pxap_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """Area under the precision-recall curve of pixels; the first step of recall, from nothing to the highest bin, is not in it."""

    def measures(sums: np.ndarray) -> np.ndarray:
        inside, outside = np.split(sums, 2, axis=-1)
        true, false = inside[..., ::-1].cumsum(axis=-1), outside[..., ::-1].cumsum(axis=-1)
        with np.errstate(invalid="ignore"):
            recall, precision = true / true[..., -1:], np.where(true + false > 0, true / (true + false), 0.0)
        return (precision[..., 1:] * np.diff(recall, axis=-1)).sum(axis=-1, keepdims=True)

    return _together_and_apart(
        noted, measures, loc, how, {"measure": Measure.PXAP, "geometry": "mask", "rule": "preset pxap"}
    )


def _together_and_apart(
    columns: np.ndarray,
    measures: Callable[[np.ndarray], np.ndarray],
    loc: Localization,
    how: Resampling,
    head: dict[str, str],
) -> list[Score]:
    """The row of the reference, over all pairs, then ours by finding with their means."""
    pairs = loc.pairs
    patient, one = loc.pair_patient(), np.zeros(len(pairs), dtype=np.int64)
    together = scores_of_sums(Sums(one, patient, columns, measures), [head], [ALL], how, macros=False)
    return together + scores_of_sums(Sums(pairs.finding, patient, columns, measures), [head], loc.names, how)
