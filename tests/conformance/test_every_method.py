"""What every method must hold, whatever its paper says; a method is tested from the moment it is listed in METHODS."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chestmap.methods import METHODS
from chestmap.models.folder import open_model, write_model
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.tensors import Output
from chestmap.training import train as train_module
from chestmap.training.optimization.loop import Loop
from chestmap.training.train import train
from chestmap.training.training_data import open_data
from chestmap.types import Findings
from conformance.watched import (
    SIDE,
    WatchedRun,
    an_absent_finding_does_no_harm,
    gradients_are_finite,
    pieces_add_up,
    tiny_config,
)

FINDINGS = Findings(("Effusion", "Mass", "Nodule"))

GOLDEN, RECORDED = Path(__file__).parents[1] / "golden", 5
"""Where the first losses of each method are kept, and of how many optimizer steps of each step of its recipe."""

every_method = pytest.mark.parametrize("name", list(METHODS))


def built(name: str, canvas: tuple[int, int] = (SIDE, SIDE), **changes: object) -> nn.Module:
    torch.manual_seed(0)
    method = METHODS[name]
    settings = method.settings.model_validate({"name": name, **method.tiny, **changes})
    return method.build(settings, FINDINGS, canvas).eval()


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """As losses were recorded: one thread sums otherwise, which mining in steps enlarges to 2 % (`5-mine2 preservation`)."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(METHODS))
def trained(request, dataset, tmp_path_factory):
    """Name, run folder and trained network of a tiny training whose tasks were looked at."""
    folder, kept = tmp_path_factory.mktemp(request.param) / "run", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Run", WatchedRun)
        patch.setattr(WatchedRun, "checks", (gradients_are_finite, an_absent_finding_does_no_harm, pieces_add_up))

        def write(place, result):
            kept.append(result.network)
            write_model(place, result)

        train(tiny_config(request.param, dataset), folder, write, progress=False)
    return request.param, folder, kept[0]


@every_method
@pytest.mark.parametrize("canvas", [(64, 64), (96, 64)])
def test_shapes_for_two_sizes(name, canvas):
    width, height = canvas
    images = torch.rand(2, 1, height, width)
    with torch.no_grad():
        output = built(name, canvas)(images)
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 3)
    assert output.maps.shape[:2] == (2, 3)
    high, wide = output.maps.shape[2:]
    assert high * width == wide * height  # the grid has the canvas' shape
    assert torch.isfinite(output.logits).all()
    assert torch.isfinite(output.maps).all()
    assert (output.maps >= 0).all()


@every_method
def test_an_image_does_not_depend_on_its_batch(name):
    network, images = built(name), torch.rand(3, 1, SIDE, SIDE)
    with torch.no_grad():
        together, alone = network(images), [network(image[None]) for image in images]
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.maps, torch.cat([one.maps for one in alone]), rtol=1e-4, atol=1e-5)


@every_method
def test_the_own_rule_is_a_threshold(name):
    method = METHODS[name]
    rule = method.own_rule(method.settings.model_validate({"name": name, **method.tiny}))
    assert np.isfinite(rule.threshold)
    assert not rule.normalize or 0 < rule.threshold <= 1


def test_trains_with_finite_gradients_and_still_frozen_parts(trained):
    """The checks are those of `WatchedRun`; here only that something was trained and logged."""
    name, folder, _ = trained
    assert list(folder.glob("*/done.json"))
    terms = {line.split(",")[4] for line in (folder / "log.csv").read_text().splitlines()[1:]}
    assert "loss" in terms, name


def terms_of(folder: Path) -> list[str]:
    """`step update term value`, without what depends on the machine."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    dropped = {"images_per_second", "memory_gb", "learning_rate", "loss", "validation_auc", "validation_loss"}
    return [
        f"{row[0]} {row[2]} {row[4]} {float(row[5]):.5g}"
        for row in rows
        if row[4] not in dropped and not row[4].endswith(("_raw", "_share")) and int(row[2]) <= RECORDED
    ]


def test_the_first_losses_are_as_recorded(trained):
    """As text: a change of numbers is seen, and reviewed with `make golden`.

    Another processor rounds otherwise, so the comparison allows a few tenths of a percent.
    """
    name, folder, _ = trained
    path, found = GOLDEN / f"{name}.txt", terms_of(folder)
    if os.environ.get("CHESTMAP_WRITE_GOLDEN"):
        path.write_text("\n".join(found) + "\n")
    recorded = path.read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in found] == [line.rsplit(" ", 1)[0] for line in recorded]
    for line, expected in zip(found, recorded, strict=True):
        one, other = float(line.split()[-1]), float(expected.split()[-1])
        assert math.isclose(one, other, rel_tol=5e-3, abs_tol=1e-5), f"{line} instead of {expected.split()[-1]}"


def test_saved_and_opened_computes_the_same(trained):
    _, folder, network = trained
    model = open_model(folder / "model", METHODS)
    assert not any(value.is_meta for value in (*model.network.parameters(), *model.network.buffers()))
    images = torch.rand(3, 1, SIDE, SIDE)
    with torch.no_grad():
        one, other = network(images), model.network.to(memory_format=torch.channels_last)(images)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.maps, other.maps)


def test_the_same_seed_gives_the_same_losses_and_an_interrupted_run_the_same_weights(
    trained, dataset, tmp_path, monkeypatch
):
    name, folder, _ = trained
    real = Loop._update

    def interrupted(loop):
        real(loop)
        if loop.at.update == 1 and loop.at.epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_update", interrupted)
    stops = 0
    while True:
        try:
            train(tiny_config(name, dataset), tmp_path, progress=False)
        except KeyboardInterrupt:
            stops += 1
        else:
            break
    assert stops == len(list(folder.glob("*/done.json")))  # once in every step
    for weights in folder.glob("[0-9]*/weights.safetensors"):
        assert (tmp_path / weights.parent.name / weights.name).read_bytes() == weights.read_bytes(), weights.parent.name
    assert losses(tmp_path) == losses(folder)


def losses(folder) -> list[str]:
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return [",".join((*row[:3], *row[4:])) for row in rows if row[4] not in {"images_per_second", "memory_gb"}]


NOT_MIRRORED: dict[str, str] = {}
"""Methods whose maps need not be mirrored with the image, each with the reason."""


@every_method
def test_flipping_the_image_flips_the_map(name):
    """True of a convolutional network whose kernels are symmetric, at sizes whose strided grids have a center pixel."""
    if name in NOT_MIRRORED:
        pytest.skip(NOT_MIRRORED[name])
    backbone = {
        **METHODS[name].tiny["backbone"],
        "name": "resnet18",
    }  # test_resnet averages over pairs, which have no center
    network = built(name, (65, 65), backbone=backbone)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    images = torch.rand(2, 1, 65, 65)
    with torch.no_grad():
        straight, flipped = network(images), network(images.flip(-1))
    torch.testing.assert_close(flipped.logits, straight.logits, rtol=1e-3, atol=1e-4)
    one, other = straight.maps / straight.maps.max(), flipped.maps / straight.maps.max()
    torch.testing.assert_close(other, one.flip(-1), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(one, one.flip(-1), rtol=1e-3, atol=1e-4)  # or the test would say nothing


def test_the_tiny_dataset_has_what_the_suite_needs(dataset):
    data = open_data(tiny_config("cam", dataset).data, progress=False)
    batch = next(Loader(part=data.train, settings=LoaderSettings(batch_size=8), shuffle=False).epoch(0))
    assert any(batch.boxes)
    assert (batch.labels == 1).any(0).all()
    assert (batch.labels == 0).any(0).all()
