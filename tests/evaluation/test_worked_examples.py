"""The figures that docs/evaluation.md works out by hand."""

import numpy as np
import pytest

from chestmap.evaluation.maps.comparison_space import Surface
from chestmap.evaluation.maps.passes import Pass, look_at_pairs
from chestmap.evaluation.maps.thresholds import overlap, thresholds_of
from chestmap.evaluation.statistics.auc import delong
from chestmap.evaluation.statistics.intervals import patient_means
from chestmap.evaluation.truth import aligned
from chestmap.predictions.folder import OwnRule
from chestmap.types import Frame


@pytest.mark.parametrize(("own", "known"), [(0.5, (0.571, 0.800, 0.667)), (0.3, (0.435, 0.476, 0.833))])
def test_overlaps_of_the_picture(made, own, known) -> None:
    values = np.full((1, 10, 10), 0.1)
    values[0, 0:6, 0:7] = 0.4
    values[0, 1:5, 1:6] = 1.0
    case = made(["Mass"], canvas=(10, 10)).image(values, {"Mass": [(2, 1, 8, 5)]}, frame=Frame.fit((10.0, 10.0), (10, 10)))
    predictions, truth = case.predictions(OwnRule(own)), case.truth()
    pairs, _ = look_at_pairs(
        predictions, truth, aligned(predictions, truth), Pass(surface=Surface(), own=OwnRule(own), workers=1)
    )
    assert thresholds_of("mask", own)[0] == own
    for geometry in ("mask", "largest"):
        found = [overlap(pairs, geometry, what)[0, 0] for what in ("IoU", "IoR", "IoGT")]
        assert found == pytest.approx(known, abs=5e-4)


@pytest.mark.parametrize(
    ("hits", "patients", "known"),
    [([1, 1, 1, 0], [0, 1, 2, 3], (0.301, 0.954)), ([1] * 4, [0, 1, 2, 3], (0.510, 1)), ([1] * 4, [0] * 4, (0.207, 1))],
)
def test_intervals_of_few_boxes(hits, patients, known) -> None:
    found = patient_means(np.array(hits, float)[:, None], np.array(patients), max(patients) + 1, 0.95)
    assert (found.low[0], found.high[0]) == pytest.approx(known, abs=6e-4)


def test_auc_of_five_images() -> None:
    scores, labels = np.array([0.9, 0.4, 0.5, 0.3, 0.2]), np.array([1.0, 1, 0, 0, 0])
    assert delong(scores, labels).value == pytest.approx(5 / 6)
