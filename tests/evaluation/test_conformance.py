"""Figures against the code of others, where it is at hand. Install `pycocotools` to run the comparison with COCO's evaluator."""

import contextlib
import io

import numpy as np
import pytest

from chestmap.evaluation.maps.overlap import ious
from chestmap.evaluation.ranked_boxes import LIMITS, coco_ap, matched_boxes


def images(seed: int):
    """True boxes, and boxes near them or anywhere with scores that may tie; some images have none of either."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(40):
        corner = rng.integers(0, 60, (int(rng.integers(0, 4)), 2)).astype(float)
        true = np.concatenate([corner, corner + rng.integers(10, 40, corner.shape)], axis=1)
        near = true[rng.random(len(true)) < 0.8] + rng.integers(-9, 10, (1, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        away = rng.integers(0, 70, (int(rng.integers(0, 3)), 2)).astype(float)
        given = np.concatenate([near, np.concatenate([away, away + rng.integers(5, 30, away.shape)], axis=1)])
        found.append((true, given, np.round(rng.random(len(given)), 2)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_box_ap_agrees_with_coco(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluator = pytest.importorskip("pycocotools.cocoeval")
    annotations, results, scores, met, boxes = [], [], [], [], 0
    for image, (true, given, score) in enumerate(images(seed), 1):
        for x0, y0, x1, y1 in true.tolist():
            box = {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "iscrowd": 0}
            annotations.append(box | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
        for (x0, y0, x1, y1), one in zip(given.tolist(), score.tolist(), strict=True):
            results.append({"image_id": image, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": one})
        scores.append(score)
        met.append(matched_boxes(score, ious(given, true)))
        boxes += len(true)
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": n} for n in range(1, 41)],
        "annotations": annotations,
        "categories": [{"id": 1}],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = evaluator.COCOeval(truth, truth.loadRes(results), "bbox")
        run.params.iouThrs = np.array(LIMITS)
        run.evaluate()
        run.accumulate()
    theirs = run.eval["precision"][:, :, 0, 0, -1].mean(axis=1)
    hit, score = np.concatenate(met), np.concatenate(scores)
    ours = [coco_ap(score, hit[:, column], boxes) for column in range(len(LIMITS))]
    assert ours == pytest.approx(theirs.tolist(), abs=1e-9)
