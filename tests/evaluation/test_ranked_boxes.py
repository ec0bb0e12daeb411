"""Average precision of boxes against plain loops by COCO's rule, with its floor."""

import numpy as np
import pytest

from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.ranked_boxes import LIMITS, Detections, _drawn, coco_ap, matched_boxes
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.statistics.resampling import numbered, patient_weights


def slow_ap(images, limit: float) -> float:
    """`images` are (detections as (score, box), true boxes): greedy matching, then 101 recalls."""
    ranked, boxes = [], sum(len(true) for _, true in images)
    for detections, true in images:
        taken = set()
        for score, box in sorted(detections, key=lambda one: -one[0]):
            best = max(((iou(box, other), place) for place, other in enumerate(true) if place not in taken), default=(0, -1))
            ranked.append((score, best[0] >= limit))
            if best[0] >= limit:
                taken.add(best[1])
    ranked.sort(key=lambda one: -one[0])
    points, met = [], 0
    for place, (_, hit) in enumerate(ranked, 1):
        met += hit
        points.append((met / boxes, met / place))
    return float(np.mean([max((p for r, p in points if r >= k / 100 - 1e-12), default=0.0) for k in range(101)]))


def iou(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_average_precision_of_three_boxes_by_hand() -> None:
    found = coco_ap(np.array([0.7, 0.9, 0.8]), np.array([True, True, False]), 2)
    assert found == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert coco_ap(np.array([0.5]), np.array([False]), 3) == 0
    assert coco_ap(np.empty(0), np.empty(0, bool), 3) == 0


def test_each_true_box_is_met_once_by_the_surest_region() -> None:
    overlap = np.array([[0.6, 0.2], [0.9, 0.0], [0.0, 0.45]])
    met = matched_boxes(np.array([0.5, 0.4, 0.3]), overlap)
    assert met[:, LIMITS.index(0.5)].tolist() == [True, False, False]
    assert met[:, LIMITS.index(0.4)].tolist() == [True, False, True]


def test_an_evaluation_agrees_with_plain_loops(made) -> None:
    rng = np.random.default_rng(4)
    case, images = made(["Mass"], canvas=(16, 16)), []
    for number in range(24):
        spots = [(int(x), int(y)) for x, y in rng.integers(0, 2, (2, 2)) * 8 + rng.integers(0, 3, (2, 2))]
        values, heights = np.zeros((1, 16, 16)), (1.0, float(rng.uniform(0.95, 0.99)))
        for (x, y), height in zip(spots, heights, strict=True):
            values[0, y : y + 4, x : x + 4] = np.maximum(values[0, y : y + 4, x : x + 4], height)
        true = [(x + int(rng.integers(0, 3)), y, x + 4, y + 5) for x, y in spots] if number % 2 else []
        score = float(rng.random())
        case.image(values, {"Mass": true} if true else {}, [number % 2], [score], patient=f"p{number // 2}")
    predictions, truth = case.predictions(), case.truth()
    how = EvaluationSettings(resamples=30, workers=1)
    found = evaluate(predictions, truth, how, EvaluationContext(training=truth_of_others(case)))
    from scipy.ndimage import label

    row = found.only_score("box AP", finding="Mass", at=0.3, rule="validation")
    for index, image_id in enumerate(truth.ids):
        cut = 0.9  # every threshold that is searched, up to 15/16, leaves the same regions
        mask, count = label(np.asarray(case.rows[index][2][0]) >= cut, np.ones((3, 3)))
        detections = []
        for region in range(1, count + 1):
            y, x = np.nonzero(mask == region)
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            inside = np.asarray(case.rows[index][2][0]).astype(np.float16)[box[1] : box[3], box[0] : box[2]].astype(float)
            detections.append((inside.mean() * np.float32(case.rows[index][4][0]), box))
        images.append((detections, [box.corners for box in truth.boxes.get(image_id, ())]))
    assert row.value == pytest.approx(slow_ap(images, 0.3), abs=1e-6)
    assert row.low < row.value < row.high
    assert found.only_score("box AP", finding="Mass", at=0.3, rule="floor medoid").value is not None
    assert found.only_score("box ECE", finding="Mass").value is not None


def truth_of_others(case):
    """The same boxes as if of other images and patients."""
    from dataclasses import replace

    truth = case.truth()
    ids = tuple(f"other-{one}" for one in truth.ids)
    boxes = {f"other-{one}": boxes for one, boxes in truth.boxes.items()}
    return replace(truth, ids=ids, patients=tuple(f"other {p}" for p in truth.patients), boxes=boxes)


def test_resampled_precision_is_that_of_patients_repeated_one_by_one() -> None:
    """Ties, patients without a box, patients without a detection, and a limit that nothing meets."""
    rng, how = np.random.default_rng(0), Resampling(30)
    met = rng.random((60, 5)) < [0.5, 0.4, 0.3, 0.1, 0.0]
    found = Detections(rng.integers(0, 12, 60) / 12, rng.integers(0, 9, 60), met, rng.integers(0, 3, 12))
    found.true[4] = 2  # of whom nothing was detected
    found.patient[found.patient == 4] = 5
    order = numbered([*np.flatnonzero(found.true), *found.patient]).tolist()
    number = dict(zip([*np.flatnonzero(found.true).tolist(), *found.patient.tolist()], order, strict=True))
    weights = patient_weights(max(order) + 1, 30, how.seed)
    drawn = _drawn(found, how)
    for weight, given in zip(weights, drawn, strict=True):
        times = np.array([weight[number[one]] for one in found.patient.tolist()])
        boxes = sum(int(found.true[one]) * weight[place] for one, place in number.items())
        for limit in range(5):
            area = 0.0
            for score in sorted(set(found.score[times > 0]), reverse=True):
                hit, above = met[:, limit] & (found.score >= score), found.score >= score
                gained = times[met[:, limit] & (found.score == score)].sum()
                area += gained * times[hit].sum() / times[above].sum()
            assert given[limit] == pytest.approx(area / boxes, abs=1e-12)
