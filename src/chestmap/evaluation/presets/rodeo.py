"""Computes RoDeO of Meissen et al. (2023): how well the boxes of whole images agree, whatever their order.

Boxes of an image pair off so that generalized IoU, and the finding times a weight, are greatest. Three scores follow, each times the
share of boxes that found a partner: nearness of centers, agreement of sizes, agreement of findings. RoDeO is their harmonic mean.

| here | Meissen et al. |
|---|---|
| `matching` | Hungarian matching, weight of a finding = Matthews' correlation of image findings, at least 0 |
| `NEAR` | eq. 2: exp(-ln 2 d²), d between centers in units of the true box's sides |
| `SHAPE` | eq. 3: IoU of the two boxes when moved onto each other |
| `SAME` | eq. 4: Matthews' correlation of the findings of matched boxes, at least 0 |
| `measured` | eq. 5 (all weights 1) and 6 |

Differs from the reference's code: a part of 0 gives a RoDeO of 0 there by 3e-6 more. With a single finding none can be confused, so
the third score is the share of matched boxes; the reference asks for two findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from chestmap.evaluation.detection import cuts
from chestmap.evaluation.floors import Floors
from chestmap.evaluation.maps.comparison_space import Workspace, sampler
from chestmap.evaluation.maps.map_overlap import ranked_regions
from chestmap.evaluation.maps.overlap import areas, as_array, clipped, intersections
from chestmap.evaluation.maps.passes import Pass, Thresholds
from chestmap.evaluation.maps.thresholds import fixed_rules
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Resampling, Sums, scores_of_sums
from chestmap.evaluation.scores import Score
from chestmap.evaluation.truth import Alignment, Truth
from chestmap.predictions.folder import Predictions

EVERY = "all findings"
CALLED = 0.5
"""The score from which a finding is called where validation chose no operating point."""

MEASURES = (Measure.RODEO, Measure.RODEO_PLACE, Measure.RODEO_SHAPE, Measure.RODEO_FINDING)
PAIRED, NEAR, SHAPE, SAME, SPARE, MISSED = range(6)
"""Columns of what an image adds: matched boxes and their three agreements, given and true boxes without a partner."""

Boxes = Float[np.ndarray, "_ 4"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageBoxes:
    """The boxes of one image with the finding of each: those that are given, and the true ones."""

    image: int
    given: Float[np.ndarray, "given 4"]
    given_finding: Int[np.ndarray, "given"]
    true: Float[np.ndarray, "true 4"]
    true_finding: Int[np.ndarray, "true"]


def rodeo_of(
    predictions: Predictions,
    truth: Truth,
    alignment: Alignment,
    loc: Localization,
    chosen: tuple[Pass, Floors | None, Resampling],
) -> list[Score]:
    """The preset's rows, with the floor of medoid boxes where training boxes are known."""
    how, floors, resampling = chosen
    points = np.full(len(loc.names), CALLED) if loc.gates is None else np.where(np.isnan(loc.gates), CALLED, loc.gates)
    called = cuts(loc, fixed_rules(loc.columns)), points
    each = list(called_boxes(predictions, truth, alignment, how, called))
    findings = sum(name in truth.boxed for name in loc.names)
    rows = rodeo_rows(each, loc, findings, "preset rodeo", resampling)
    if floors is not None and floors.boxes:
        guessed = medoid_boxes(each, floors, loc.names, truth, how)
        rows += rodeo_rows(guessed, loc, findings, "preset rodeo floor medoid", resampling)
    return rows


def called_boxes(
    predictions: Predictions, truth: Truth, alignment: Alignment, how: Pass, called: tuple[Thresholds, np.ndarray]
) -> Iterator[ImageBoxes]:
    """Every image with a box: the regions of each boxed finding of which the score reaches its operating point, and the true boxes.

    `called` are the thresholds on maps, of which the last counts, and the operating point of each finding.
    """
    (thresholds, points), work = called, Workspace()
    boxed = [index for index, name in enumerate(alignment.findings) if name in truth.boxed]
    image_of = {int(row): image for image, row in enumerate(alignment.rows) if truth.boxes.get(truth.ids[image])}
    first = 0
    for chunk in predictions.chunks(how.chunk):
        for row in range(len(chunk)):
            image = image_of.get(first + row)
            if image is None:
                continue
            frame, given = chunk.frames[row], []
            for finding in boxed:
                column = int(alignment.predicted[finding])
                if chunk.scores[row][column] < points[finding]:
                    given.append(np.empty((0, 4)))
                    continue
                values = np.asarray(chunk.maps[row][column])
                levels = sampler(how.surface, frame, values.shape, work).levels(values, normalize=how.own.normalize)
                given.append(ranked_regions(levels, thresholds(image, finding)[-1])[0])
            size = how.surface.size(frame)
            boxes = truth.boxes[truth.ids[image]]
            true = [as_array([box for box in boxes if box.finding == alignment.findings.names[one]]) for one in boxed]
            true = [clipped(how.surface.place(one, frame), *size) for one in true]
            true = [one[areas(one) > 0] for one in true]
            yield _drawn(image, boxed, given, true)
        first += len(chunk)


def medoid_boxes(
    each: Sequence[ImageBoxes], floors: Floors, names: Sequence[str], truth: Truth, how: Pass
) -> list[ImageBoxes]:
    """The same calls, each with the medoid of the training boxes in place of the map's regions."""
    found = []
    for one in each:
        width, height = truth.sizes[one.image]
        shrink = min(1.0, (how.surface.longest or np.inf) / max(width, height))
        here = [finding for finding in sorted(set(map(int, one.given_finding))) if names[finding] in floors.boxes]
        sides = shrink * np.array([width, height, width, height])
        given = [floors.boxes[names[finding]]["medoid"] * sides for finding in here]
        found.append(
            ImageBoxes(
                image=one.image,
                given=_joined(given),
                given_finding=np.array(here, dtype=np.int64),
                true=one.true,
                true_finding=one.true_finding,
            )
        )
    return found


def _drawn(image: int, findings: Sequence[int], given: Sequence[Boxes], true: Sequence[Boxes]) -> ImageBoxes:
    numbers = [np.repeat(findings, [len(one) for one in several]).astype(np.int64) for several in (given, true)]
    return ImageBoxes(
        image=image, given=_joined(given), given_finding=numbers[0], true=_joined(true), true_finding=numbers[1]
    )


def _joined(boxes: Sequence[Boxes]) -> Boxes:
    return np.concatenate([np.empty((0, 4)), *boxes])


def rodeo_rows(each: Sequence[ImageBoxes], loc: Localization, findings: int, rule: str, how: Resampling) -> list[Score]:
    """RoDeO and its three scores, over all boxes and by finding; a pair counts for the true box's finding.

    `findings` is the number of those that could be confused. Resamples keep the pairs.
    """
    weight = finding_weight(each, findings)
    rows = [(one.image, *line) for one in each for line in added(one, weight)]
    if not rows:
        return []
    table = np.array(rows, dtype=np.float64)
    patient, finding = loc.patient[table[:, 0].astype(np.int64)], table[:, 1].astype(np.int64)
    heads = [{"measure": measure, "geometry": "each", "rule": rule} for measure in MEASURES]

    def measures(sums: np.ndarray) -> np.ndarray:
        return measured(sums, findings)

    pooled = Sums(np.zeros(len(rows), dtype=np.int64), patient, table[:, 2:], measures)
    by_finding = Sums(finding, patient, table[:, 2:], measures)
    return [
        *scores_of_sums(pooled, heads, [EVERY], how, macros=False),
        *scores_of_sums(by_finding, heads, loc.names, how, macros=False),
    ]


def finding_weight(each: Sequence[ImageBoxes], findings: int) -> float:
    """What an equal finding is worth when boxes pair off: Matthews' correlation of findings by image, at least 0."""
    both = given = true = 0
    for one in each:
        ours, theirs = set(one.given_finding.tolist()), set(one.true_finding.tolist())
        both, given, true = both + len(ours & theirs), given + len(ours), true + len(theirs)
    cells = len(each) * findings
    spread = np.sqrt(float(given) * true * (cells - given) * (cells - true))
    return max(0.0, float(both * cells - given * true) / float(spread)) if spread > 0 else 0.0


def matching(one: ImageBoxes, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the given and of the true boxes that pair off; as many as the fewer of both."""
    same = one.given_finding[:, None] == one.true_finding[None, :]
    return linear_sum_assignment(generalized_ious(one.given, one.true) + weight * same, maximize=True)


def generalized_ious(one: Float[np.ndarray, "one 4"], other: Float[np.ndarray, "other 4"]) -> Float[np.ndarray, "one other"]:
    """IoU less the share of the rectangle around both that neither covers."""
    shared = intersections(one, other)
    union = areas(one)[:, None] + areas(other)[None, :] - shared
    low = np.minimum(one[:, None, :2], other[None, :, :2])
    around = (np.maximum(one[:, None, 2:], other[None, :, 2:]) - low).prod(axis=2)
    return shared / union - (around - union) / around


def added(one: ImageBoxes, weight: float) -> list[np.ndarray]:
    """What an image adds to the sums of each finding: the finding, then the columns."""
    given, true = matching(one, weight)
    ours, theirs = one.given[given], one.true[true]
    side, their_side = ours[:, 2:] - ours[:, :2], theirs[:, 2:] - theirs[:, :2]
    away = ((ours[:, 2:] + ours[:, :2] - theirs[:, 2:] - theirs[:, :2]) / 2 / their_side) ** 2
    shared = np.minimum(side, their_side).prod(axis=1)
    shape = shared / (side.prod(axis=1) + their_side.prod(axis=1) - shared)
    same = one.given_finding[given] == one.true_finding[true]
    pairs = np.stack([np.ones(len(given)), np.exp2(-away.sum(axis=1)), shape, same], axis=1)
    spare, missed = np.delete(one.given_finding, given), np.delete(one.true_finding, true)
    lines = []
    for finding in np.unique([*one.given_finding, *one.true_finding]).tolist():
        sums = pairs[one.true_finding[true] == finding].sum(axis=0)
        lines.append(np.array([finding, *sums, (spare == finding).sum(), (missed == finding).sum()]))
    return lines


def measured(sums: Float[np.ndarray, "... column"], findings: int) -> Float[np.ndarray, "... measure"]:
    """RoDeO, then its scores of place, shape and finding. The findings of matched boxes make one correlation, over all of them."""
    boxes, paired = sums[..., [PAIRED, SPARE, MISSED]].sum(axis=-1), sums[..., PAIRED]
    with np.errstate(invalid="ignore", divide="ignore"):
        right = np.nan_to_num(sums[..., SAME] / paired)
        correlation = np.maximum((right * findings - 1) / (findings - 1), 0.0) if findings > 1 else right
        parts = np.stack([sums[..., NEAR], sums[..., SHAPE], correlation * paired], axis=-1) / boxes[..., None]
        whole = np.where((parts > 0).all(axis=-1), 3 / (1 / parts).sum(axis=-1), 0.0)
    return np.where((boxes > 0)[..., None], np.concatenate([whole[..., None], parts], axis=-1), np.nan)
