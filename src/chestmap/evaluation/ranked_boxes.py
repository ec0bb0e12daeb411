"""Ranks boxes over all images of a finding: average precision as COCO counts it, and calibration of a box's score.

Images are those with boxes of the finding and those where it is labeled absent. A region's score is that of the image times the
mean of the map within its box. The floor is one medoid box for each image, ranked by the image's score alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array

from chestmap.evaluation.floors import Floors
from chestmap.evaluation.maps.overlap import ious
from chestmap.evaluation.maps.passes import AbsentPairs, RankedPairs
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Parts, Resampling, macro, resampled_ends
from chestmap.evaluation.scores import Score, number
from chestmap.evaluation.statistics.calibration import brier, reliability
from chestmap.evaluation.statistics.resampling import numbered, patient_weights
from chestmap.evaluation.truth import Truth

LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""IoU from which a box is met: those of the field, not COCO's .5 to .95, which no map of this kind reaches."""

MET = 0.3
"""IoU of the calibration of box scores."""

RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Boxes of one image that count, best first, as COCO has it."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Holds all boxes of one finding, from every image that counts for it.

    `score` ranks the boxes, and `met` marks those that meet a true box, at each limit of `LIMITS`. `true` counts the
    true boxes of each patient; one that no box meets appears there alone.
    """

    score: Float[np.ndarray, "detection"]
    patient: Int[np.ndarray, "detection"]
    met: Bool[np.ndarray, "detection limit"]
    true: Int[np.ndarray, "patient"]


def matched_boxes(
    confidence: Float[np.ndarray, "region"], overlap: Float[np.ndarray, "region box"]
) -> Bool[np.ndarray, "region limit"]:
    """Matches regions to true boxes as COCO does, at each limit by itself.

    At most `MOST` regions come, by falling confidence. Each takes the free box that it overlaps most, if by the limit.
    `overlap` is IoU.
    """
    found = np.zeros((len(confidence), len(LIMITS)), dtype=bool)
    for column, limit in enumerate(LIMITS):
        free = np.ones(overlap.shape[1], dtype=bool)
        for region in np.argsort(-confidence, kind="stable")[:MOST]:
            left = np.where(free, overlap[region], -1.0)
            best = int(left.argmax()) if len(left) else -1
            if best >= 0 and left[best] >= limit:
                found[region, column], free[best] = True, False
    return found


def coco_ap(score: Float[np.ndarray, "detection"], met: Bool[np.ndarray, "detection"], boxes: int) -> float:
    """Averages precision over 101 recalls, as COCO does; NaN without true boxes.

    Precision is first made to fall with recall. `boxes` counts all true boxes; a recall that no box reaches adds 0.
    """
    if not boxes:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(met[order])
    precision = true / np.arange(1, len(order) + 1) if len(order) else np.empty(0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(true / boxes, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())


def box_rows(loc: Localization, ranked: RankedPairs, absent: AbsentPairs, rule: str, how: Resampling) -> list[Score]:
    """Box AP at each limit, and ECE and Brier score of the boxes' scores, by finding and on average."""
    total = int(loc.patient.max()) + 1
    each = {name: _of_finding(loc, ranked, absent, index, total) for index, name in _findings(loc, ranked)}
    return _ap_rows(each, how, rule) + _calibration_rows(each, rule)


def box_floor_rows(
    loc: Localization, ranked: RankedPairs, absent: AbsentPairs, floors: Floors, truth: Truth, how: Resampling
) -> list[Score]:
    """The same average precision for the medoid of the training boxes, ranked by the image's score."""
    total, each = int(loc.patient.max()) + 1, {}
    for index, name in _findings(loc, ranked):
        fitted = floors.boxes.get(name)
        if fitted is not None:
            each[name] = _of_medoid(loc, (ranked, absent), fitted["medoid"], truth, (index, name, total))
    return _ap_rows(each, how, "floor medoid")


def _findings(loc: Localization, ranked: RankedPairs) -> list[tuple[int, str]]:
    """Lists index and name of each finding that has ranked pairs, by rising index."""
    return [(index, loc.names[index]) for index in np.unique(ranked.finding).tolist()]


def _of_finding(loc: Localization, ranked: RankedPairs, absent: AbsentPairs, finding: int, total: int) -> Detections:
    """Gathers the regions of a finding's boxed images, then those of images where it is absent.

    A region's score is its confidence times the image's score. Where the finding is absent a region meets nothing.
    """
    rows = np.flatnonzero(ranked.finding == finding)
    false = absent.finding[absent.region_row] == finding
    region = absent.region_row[false]
    score = [ranked.confidence[row] * ranked.score[row] for row in rows] + [absent.confidence[false] * absent.score[region]]
    patient = [np.full(len(ranked.confidence[row]), loc.patient[ranked.image[row]]) for row in rows]
    met = [matched_boxes(ranked.confidence[row], ranked.ious[row]) for row in rows]
    met.append(np.zeros((len(region), len(LIMITS)), dtype=bool))
    patients = np.concatenate([*patient, loc.patient[absent.image[region]]]).astype(np.int64)
    return Detections(np.concatenate(score), patients, np.concatenate(met), _boxes(loc, ranked, rows, total))


def _boxes(loc: Localization, ranked: RankedPairs, rows: np.ndarray, total: int) -> Int[np.ndarray, "patient"]:
    """Counts the true boxes of each of `total` patients; 0 for those without one in these rows."""
    counts = [ranked.ious[row].shape[1] for row in rows]
    return np.bincount(loc.patient[ranked.image[rows]], weights=counts, minlength=total).astype(np.int64)


def _of_medoid(
    loc: Localization, looked: tuple[RankedPairs, AbsentPairs], medoid: np.ndarray, truth: Truth, which: tuple[int, str, int]
) -> Detections:
    """Makes the detections of a predictor that gives every image one box, the medoid of the training boxes.

    `medoid` is in shares of the image's width and height. Only the image's score ranks its box. `which` is the
    finding's index and name, and the number of patients.
    """
    (ranked, absent), (finding, name, total) = looked, which
    rows, without = np.flatnonzero(ranked.finding == finding), np.flatnonzero(absent.finding == finding)
    met = np.zeros((len(rows) + len(without), len(LIMITS)), dtype=bool)
    for place, row in enumerate(rows):
        image = int(ranked.image[row])
        boxes = np.array([box.corners for box in truth.boxes[truth.ids[image]] if box.finding == name], dtype=np.float64)
        met[place] = matched_boxes(np.ones(1), ious(medoid * np.tile(truth.sizes[image], 2), boxes))[0]
    score = np.concatenate([ranked.score[rows], absent.score[without]])
    patient = np.concatenate([loc.patient[ranked.image[rows]], loc.patient[absent.image[without]]])
    return Detections(score, patient, met, _boxes(loc, ranked, rows, total))


def _ap_rows(each: dict[str, Detections], how: Resampling, rule: str) -> list[Score]:
    if not each:
        return []
    heads = [{"measure": Measure.BOX_AP, "at": limit, "geometry": "each", "rule": rule} for limit in LIMITS]
    rows, parts = [], []
    for name, found in each.items():
        value = np.array([coco_ap(found.score, found.met[:, one], int(found.true.sum())) for one in range(len(LIMITS))])
        low, high, errors = resampled_ends(value, _drawn(found, how), found.true, how)
        parts.append((value, low, high, errors))
        shared = {
            "finding": name,
            "support": int(found.true.sum()),
            "patients": int((found.true > 0).sum()),
            "unit": "boxes",
        }
        ends = zip(heads, value, low, high, strict=True)
        rows += [Score(value=number(v), low=number(a), high=number(b), **head, **shared) for head, v, a, b in ends]
    return rows + macro(heads, list(each), Parts(*(np.stack(column) for column in zip(*parts, strict=True))), how, rows)


def _drawn(found: Detections, how: Resampling) -> Float[np.ndarray, "resample limit"]:
    """Computes average precision at each limit for resamples of whole patients.

    It leaves out COCO's smoothing, which hardly changes the spread. Only scores with a hit matter for the sum, so the
    columns hold no others. Resamples come 128 at a time, which bounds the size of the products.
    """
    boxed = found.true > 0
    patient = numbered(np.concatenate([np.flatnonzero(boxed), found.patient]).tolist())
    weights = patient_weights(int(patient.max()) + 1, how.resamples, how.seed)
    of_box, of_detection = np.split(patient, [int(boxed.sum())])
    boxes = weights[:, of_box] @ found.true[boxed].astype(np.float64)
    places = np.unique(-found.score[found.met.any(axis=1)])  # scores with a hit, from the highest down
    drawn = np.zeros((how.resamples, len(LIMITS)))
    if not len(places):
        return drawn
    place = np.searchsorted(places, -found.score)
    shape = (len(places), weights.shape[1])

    def counted(rows: Bool[np.ndarray, "detection"]) -> csr_array:
        return coo_array((np.ones(rows.sum()), (place[rows], of_detection[rows])), shape=shape).tocsr()

    above, met = counted(place < len(places)), [counted(column) for column in found.met.T]
    for start in range(0, how.resamples, 128):
        some = np.ascontiguousarray(weights[start : start + 128].T, dtype=np.float64)
        detections = np.cumsum(above @ some, axis=0).clip(1)
        for column, one in enumerate(met):
            hits = one @ some
            drawn[start : start + 128, column] = (hits * np.cumsum(hits, axis=0) / detections).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(found.met.any(axis=0), drawn / boxes[:, None], 0.0)


def _calibration_rows(each: dict[str, Detections], rule: str) -> list[Score]:
    """Whether a box of score .8 is right in .8 of cases; the floor of Brier's score is the share of boxes that are right."""
    rows, column = [], LIMITS.index(MET)
    for name, found in each.items():
        if not len(found.score) or found.score.max() > 1:  # a map that is not scaled gives no probability
            continue
        right = found.met[:, column].astype(np.float64)
        curve, share = reliability(found.score, right), float(right.mean())
        shared = {"finding": name, "support": len(right), "unit": "boxes", "at": MET, "geometry": "each"}
        rows.append(Score(measure=Measure.BOX_ECE, value=curve.error if curve else None, rule=rule, **shared))
        rows.append(Score(measure=Measure.BOX_BRIER, value=brier(found.score, right), rule=rule, **shared))
        rows.append(Score(measure=Measure.BOX_BRIER, value=share * (1 - share), rule="floor share", **shared))
    return rows
