"""The score that chooses the weights."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from sklearn.metrics import roc_auc_score
from torch import nn

from chestmap.errors import BadInput
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.tensors import Output
from chestmap.training import Run, Schedule, Task
from chestmap.training.optimization.validation import mean_auc, mean_iou, validation_iou
from training.small import Classify, Net, run_settings


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 10**6))
def test_the_area_agrees_with_scikit_learn(images, findings, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (images, findings)).astype(np.float32)  # many ties
    labels = random.choice([0.0, 1.0, np.nan, 0.4], (images, findings), p=[0.5, 0.3, 0.1, 0.1]).astype(np.float32)
    expected = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = (label == 0) | (label == 1)
        if len(set(label[known])) == 2:
            expected.append(roc_auc_score(label[known], score[known]))
    if expected:
        assert mean_auc(scores, labels) == pytest.approx(np.mean(expected))
    else:
        with pytest.raises(BadInput, match="no finding is both present and absent"):
            mean_auc(scores, labels)


class Drawn(Task):
    """Its maps are given: a square of each finding, lower at the right places than at one wrong one."""

    def __init__(self, maps, *, normalized=True):
        super().__init__(nn.Identity())
        self.drawn, self.maps_are_normalized = maps, normalized

    def predict(self, batch):
        return Output(batch.labels.nan_to_num() + torch.rand(len(batch), 3) * 0.1, self.drawn(batch))


def over_boxes(height):
    def draw(batch):
        maps = batch.masks(*batch.images.shape[-2:]) * height
        maps[:, :, :2, :2] = 1.0
        return maps

    return draw


def test_boxes_are_scored_at_the_best_level_of_each_finding(data):
    """Squares at .6 with a corner of 4 pixels at 1, cut below .6; a map that is cut as it is may lie below all levels."""
    fabric, part = Fabric(accelerator="cpu", devices=1), data.validation
    batches = list(Loader(part=part, settings=LoaderSettings(batch_size=5), shuffle=False).epoch(0))
    boxes = sum(len(batch.boxed.nonzero()) for batch in batches)
    assert boxes > 2
    found = validation_iou(fabric, Drawn(over_boxes(0.6)), batches, len(part), 3)
    assert found["validation_iou"] == pytest.approx(64 / 68, rel=1e-5)
    assert found["validation_iou_over_0.5"] == 1.0
    assert found["validation_auc"] == 1.0
    low = validation_iou(fabric, Drawn(lambda batch: over_boxes(0.5)(batch) * 0.01, normalized=False), batches, len(part), 3)
    assert low["validation_iou"] == 0.0
    with pytest.raises(BadInput, match="no validation image has a box; set select to"):
        mean_iou(np.zeros((0, 32)))


def test_a_run_keeps_the_epoch_that_covers_boxes_best(data, tmp_path):
    schedule = Schedule(epochs=3, batch_size=4, learning_rate=1e-2, select="iou")
    with Run(tmp_path, run_settings(), progress=False) as run:
        run.fit("learn", Classify(Net()), data.train, schedule, data.validation)
    done = json.loads((tmp_path / "1-learn" / "done.json").read_text())
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    scores = [float(row[5]) for row in rows if row[4] == "validation_iou"]
    assert len(scores) == 3
    assert done["measure"] == "iou"
    assert done["score"] == pytest.approx(max(scores), rel=1e-5)
    assert {"validation_auc", "validation_iou_over_0.3"} <= {row[4] for row in rows}


def test_the_last_weights_need_no_validation_score(data, tmp_path):
    """One validation image ranks nothing: refused where a score chooses, and left out of the log where none does."""
    one, step = data.validation.select(np.arange(len(data.validation)) == 0), {"epochs": 1, "batch_size": 4}
    with Run(tmp_path / "last", run_settings(), progress=False) as run:
        run.fit("learn", Classify(Net()), data.train, Schedule.model_validate(step | {"select": "last"}), one)
    assert "validation_auc" not in (tmp_path / "last" / "log.csv").read_text()
    with Run(tmp_path / "auc", run_settings(), progress=False) as run, pytest.raises(BadInput, match="present and absent"):
        run.fit("learn", Classify(Net()), data.train, Schedule.model_validate(step | {"select": "auc"}), one)
