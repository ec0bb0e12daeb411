"""The anchor, the task that aligns to it, and what is written of both."""

import json

import cv2
import numpy as np
import pytest
import torch

from chestmap.errors import BadInput, BadSettings
from chestmap.nn.alignment import Aligner, AlignerSettings, aligned, blurred, euclidean_loss, perceptual_loss
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.training import Run, Schedule
from chestmap.training.alignment_steps import Align, AlignmentSettings, align, make_anchor, normal
from training.small import run_settings

SMALL = BackboneSettings(name="test_resnet", stages=(1, 2))
SETTINGS = AlignmentSettings(
    aligner=AlignerSettings(backbone=BackboneSettings(name="test_resnet")), judge=SMALL, anchor_images=5, pool=64
)
SCHEDULE = Schedule(epochs=1, batch_size=8, learning_rate=1e-3, augment=False, select="last")


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", run_settings(), progress=False) as run:
        yield run


def test_normal_images_are_those_known_to_show_nothing(data):
    part = data.train
    assert normal(part).tolist() == [all(value == 0 for value in row) for row in part.labels]
    with pytest.raises(BadInput, match=r"none of .* is known to be normal"):
        normal(part.select(~normal(part)))


def test_smoothing_scales_with_the_canvas():
    """It is given in pixels of a canvas of 512."""
    assert [AlignmentSettings(pool=16).pixels(torch.zeros(1, 1, side, 2 * side)) for side in (1024, 512, 128, 16)] == [
        32,
        16,
        4,
        1,
    ]


def test_anchor_is_the_mean_of_normal_images(run, data):
    anchor = make_anchor(run, data.train, SETTINGS)
    folder = run.folder / "1-anchor"
    ids = (folder / "images.txt").read_text().split()
    healthy = set(np.array(data.train.ids)[normal(data.train)])
    assert len(ids) == min(5, len(healthy))
    assert set(ids) <= healthy
    mean = sum(data.train.pack.images[row].astype(np.float64) for row in data.train.pack.rows(ids)) / len(ids) / 255
    np.testing.assert_allclose(anchor, mean, atol=1e-6)
    picture = cv2.imread(str(folder / "anchor.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_allclose(picture / 255, anchor, atol=0.5 / 255 + 1e-6)


def test_a_cropped_anchor_fills_the_canvas(run, data):
    whole = make_anchor(run, data.train, SETTINGS)
    half = make_anchor(run, data.train, SETTINGS.model_copy(update={"crop": (0.25, 0.0, 0.75, 0.5)}))
    assert half.shape == whole.shape == (32, 32)
    np.testing.assert_allclose(half, cv2.resize(whole[:16, 8:24], (32, 32)), atol=1e-6)
    with pytest.raises(ValueError, match="expected x0 < x1"):
        AlignmentSettings(crop=(0.5, 0, 0.5, 1))


def test_the_task_s_terms_are_the_losses(data):
    torch.manual_seed(0)
    anchor = torch.rand(1, 1, 32, 32)
    judge = Backbone(SMALL)
    settings = SETTINGS.model_copy(update={"euclidean_weight": 2.0, "perceptual_weight": 3.0})
    task = Align(Aligner(SETTINGS.aligner), judge, anchor, settings)
    torch.nn.init.normal_(task.network.head.weight, std=0.1)
    batch = batch_of(data.train)
    task.eval()
    terms = task(batch)
    seen = blurred(aligned(batch.images, task.network(batch.images)), 4)
    assert terms["euclidean"].item() == pytest.approx(2 * euclidean_loss(seen, anchor, "mean").item())
    expected = perceptual_loss(judge.stages(seen), judge.stages(anchor), "mean").item()
    assert terms["perceptual"].item() == pytest.approx(3 * expected)
    task.train()
    assert not judge.training
    sum(task(batch).values()).backward()
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in task.network.parameters())


def batch_of(part):
    from chestmap.packs.loader import Loader, LoaderSettings

    return next(Loader(part=part, settings=LoaderSettings(batch_size=4), shuffle=False).epoch(0))


def test_aligning_writes_its_steps_and_pictures(run, data):
    found = align(run, data, SETTINGS, SCHEDULE)
    assert [step.step for step in run.steps] == ["1-anchor", "2-align", "3-pairs"]
    told = json.loads((run.folder / "3-pairs" / "alignment.json").read_text())
    assert told["images"] == len(data.train)
    assert 0 < told["distance_after"] < 1
    picture = cv2.imread(str(run.folder / "3-pairs" / "pairs.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (64, 9 * 32)
    assert not found.aligner.training
    with pytest.raises(BadSettings, match="an alignment has no AUC and no maps"):
        align(run, data, SETTINGS, Schedule())
