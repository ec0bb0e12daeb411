"""Patches as instances: the loss against plain loops, values and gradients, and what becomes of features and patches."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from chestmap.methods import METHODS
from chestmap.methods import patch_mil as patches
from chestmap.models.folder import open_model, write_model
from chestmap.nn.instances import InstanceSettings, cell_logit, limited_loss
from chestmap.storage.manifest import seal
from chestmap.training.train import Trained
from chestmap.types import Box, Findings

NAN = math.nan
FINDINGS = Findings(("Mass", "Nodule", "Effusion"))
SETTINGS = patches.PatchMilSettings.model_validate({"name": "patch_mil", **patches.METHOD.tiny})


def loss_by_hand(logits, targets, labels, weight, floor=0.0):
    """Each pair by its patches where a box marks one, else by the noisy OR, which is a product of probabilities."""
    images = boxes = 0.0
    for i, k in np.ndindex(*logits.shape[:2]):
        p = 1 / (1 + np.exp(-logits[i, k].ravel()))
        y = targets[i, k].ravel()
        if y.any():
            boxes -= sum(math.log(one) if marked else math.log(1 - one) for one, marked in zip(p, y, strict=True))
        elif not math.isnan(labels[i][k]):
            none = math.prod(floor + (1 - floor) * (1 - p))
            images -= labels[i][k] * math.log(1 - none) + (1 - labels[i][k]) * math.log(none)
    return (images + weight * boxes) / len(logits)


LABELS = {
    "some unknown": [[1, NAN, 0], [0, 1, 1]],
    "all unknown": [[NAN] * 3] * 2,
    "a box beside label 0": [[0, 0, 0], [1, 0, NAN]],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_loss_and_its_gradient(labels):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(-1, 1.5, size=(2, 3, 3, 2)), np.zeros((2, 3, 3, 2))
    targets[0, 0, 1:, 0] = targets[1, 2, 0, :] = 1
    tensor = torch.from_numpy(logits).requires_grad_()
    images, boxes = limited_loss(tensor, torch.from_numpy(targets), torch.tensor(labels, dtype=torch.float64))
    (images + 2.5 * boxes).backward()
    assert (images + 2.5 * boxes).item() == pytest.approx(loss_by_hand(logits, targets, labels, 2.5))
    for place in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        slope = (loss_by_hand(up, targets, labels, 2.5) - loss_by_hand(down, targets, labels, 2.5)) / 2e-6
        assert tensor.grad is not None
        assert tensor.grad[place].item() == pytest.approx(slope, abs=1e-7)


def test_the_task_teaches_patches_that_a_box_overlaps(batch):
    """On a grid of 4 x 4 patches of 16 pixels; weight 0 leaves boxes out and counts their images by labels."""
    torch.manual_seed(0)
    network = patches.build(SETTINGS, FINDINGS, (64, 64))
    with torch.no_grad():
        cells = network.eval()(batch.images).cells.double().numpy()
    targets = np.zeros_like(cells)
    for row, boxes in enumerate(batch.boxes):
        for box in boxes:
            for y, x in np.ndindex(4, 4):
                cell = Box(box.finding, 16 * x, 16 * y, 16 * x + 16, 16 * y + 16)
                targets[row, FINDINGS.index(box.finding), y, x] = cell.intersection(box) > 0
    assert targets.any()
    labels = batch.labels.tolist()
    for weight in (0.0, 3.0):
        terms = patches.Patches(network, weight).eval()(batch)
        marks = targets if weight else np.zeros_like(targets)
        assert sum(value.item() for value in terms.values()) == pytest.approx(
            loss_by_hand(cells, marks, labels, weight, network.floor), rel=1e-5
        )


def test_a_box_off_the_canvas_counts_by_the_label(batch):
    network = patches.build(SETTINGS, FINDINGS, (64, 64)).eval()
    away = replace(batch, boxes=((Box("Mass", 200, 200, 220, 220),), *batch.boxes[1:]))
    without = replace(batch, boxes=((), *batch.boxes[1:]))
    one, other = patches.Patches(network, 1.0).eval()(away), patches.Patches(network, 1.0).eval()(without)
    assert {name: value.item() for name, value in one.items()} == {name: value.item() for name, value in other.items()}


def test_the_score_is_the_noisy_or_and_the_map_its_patches():
    torch.manual_seed(1)
    network = patches.build(SETTINGS, FINDINGS, (64, 64)).eval()
    with torch.no_grad():
        seen = network(torch.rand(2, 1, 64, 64))
    p = torch.sigmoid(seen.cells.double())
    squeezed = SETTINGS.instances.squeezed_to + (1 - SETTINGS.instances.squeezed_to) * (1 - p)
    torch.testing.assert_close(torch.sigmoid(seen.logits.double()), 1 - squeezed.flatten(2).prod(-1), rtol=1e-5, atol=1e-7)
    assert seen.maps.shape == (2, 3, 8, 8)
    for y, x in np.ndindex(8, 8):
        torch.testing.assert_close(seen.maps[:, :, y, x].double(), p[:, :, y // 2, x // 2], rtol=1e-5, atol=1e-7)


def test_training_starts_at_one_in_twenty():
    """Whatever the number of patches, give or take what random weights say."""
    for cells, floor in ((1, 0.0), (16, 0.0), (400, 0.0), (16, 0.95), (256, 0.98), (16384, 0.98)):
        p = 1 / (1 + math.exp(-cell_logit(0.05, cells, floor)))
        assert 1 - (1 - (1 - floor) * p) ** cells == pytest.approx(0.05)
    network = patches.build(SETTINGS, FINDINGS, (64, 64)).eval()
    with torch.no_grad():
        assert torch.sigmoid(network(torch.rand(2, 1, 64, 64)).logits).numpy() == pytest.approx(0.05, abs=0.03)


def test_coarser_features_are_interpolated_and_finer_ones_pooled():
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patches.to_grid(features, (2, 2)).tolist() == [[[[5, 7], [13, 15]]]]
    up = patches.to_grid(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    assert up.tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]  # centers at -1/4, 1/4, 3/4, 5/4 of the way, ends held
    assert patches.to_grid(features, (4, 4)).equal(features)


@pytest.mark.parametrize(("canvas", "grid"), [((64, 64), (16, 16)), ((96, 64), (16, 24)), ((64, 96), (24, 16))])
def test_patches_are_square(canvas, grid):
    assert patches.grid_of(canvas, 16) == grid


def test_a_model_folder_from_before_the_squeezing_is_read_as_it_was(part, tmp_path):
    """Its settings say nothing of instances, and its scores are those of the plain product."""
    settings = SETTINGS.model_copy(update={"instances": InstanceSettings(form="plain")})
    network = patches.build(settings, FINDINGS, (64, 64)).eval()
    about = {"source": "none", "fingerprint": "", "split": "all"}
    write_model(
        tmp_path,
        Trained(
            method=patches.METHOD,
            settings=settings,
            findings=FINDINGS,
            canvas=part.pack.settings,
            network=network,
            data=about,
        ),
    )
    read = json.loads((tmp_path / "model.json").read_text())
    del read["settings"]["instances"]
    (tmp_path / "model.json").write_text(json.dumps(read))
    seal(tmp_path)
    images = torch.rand(2, 1, 64, 64)
    opened = open_model(tmp_path, METHODS).network
    assert opened.floor == 0
    assert torch.equal(opened(images).logits, network(images).logits)
