"""Every room with alignment, masks and erasing around it: built, trained, opened again, or refused in one line."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from chestmap.errors import BadSettings
from chestmap.methods import METHODS
from chestmap.methods.cam import Cam, CamSettings
from chestmap.models.engines import open_forward
from chestmap.models.folder import open_model, write_model
from chestmap.nn.alignment import Aligner, AlignerSettings
from chestmap.nn.erasing import mined
from chestmap.nn.wrappers import Masked
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.training import train as train_module
from chestmap.training.config import config_of, read_config
from chestmap.training.run import Run
from chestmap.training.train import train
from chestmap.training.wrapper_settings import TINY, AlignedBatches, AroundSettings, build_around, refusals
from chestmap.types import Box, Findings
from conformance.watched import tiny_config

FINDINGS = Findings(("Effusion", "Mass", "Nodule"))
REFUSED = {
    "alignment": {"cia_net", "disease_masks"},
    "masks": {"ag_cnn", "attention_mining", "cia_net", "combined", "disease_masks"},
    "erasing": {"attention_mining", "cia_net", "patch_mil"},
}
BACKBONE = {"name": "test_resnet"}


def around_of(*names: str) -> AroundSettings:
    return AroundSettings.model_validate({name: TINY[name] for name in names})


def settings_of(name: str):
    return METHODS[name].settings.model_validate({"name": name, **METHODS[name].tiny})


def config_around(dataset, name: str, **around: object):
    return config_of({**tiny_config(name, dataset).tree, "around": around}, METHODS, name="around.toml")


@pytest.mark.parametrize("name", list(METHODS))
def test_every_room_takes_it_or_refuses_in_one_line(name):
    """Those that take it return maps of the canvas' shape; masks of zeros leave scores as they are."""
    method, settings = METHODS[name], settings_of(name)
    for kind in TINY:
        lines = refusals(method, settings, around_of(kind))
        assert bool(lines) == (name in REFUSED[kind]), (kind, lines)
        assert all(line.startswith(f"around.{kind}: {name}") and "\n" not in line for line in lines)
    taken = around_of(*(kind for kind in TINY if name not in REFUSED[kind]))
    torch.manual_seed(0)
    network = build_around(method, settings, taken, FINDINGS, (96, 64)).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 1, 64, 96))
    assert output.logits.shape == (2, 3)
    rows, columns = output.maps.shape[2:]
    assert rows * 96 == columns * 64
    assert torch.isfinite(output.maps).all()
    assert (output.maps >= 0).all()


def test_a_refusal_comes_before_anything_is_trained(dataset):
    with pytest.raises(BadSettings) as error:
        config_around(dataset, "cia_net", alignment={}, masks={}, erasing={"steps": 0})
    assert "around.erasing.steps" in str(error.value)
    with pytest.raises(BadSettings) as error:
        config_around(dataset, "cia_net", alignment={}, erasing={})
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(BadSettings, match=r"around\.alignment\.schedule: select: allowed: loss, last"):
        config_around(dataset, "cam", alignment={"schedule": {"select": "auc"}})


class Seen(Run):
    """Which parts came through an alignment."""

    parts: ClassVar[dict[str, bool]] = {}

    def fit(self, name, task, part, schedule, validation=None, **more):
        assert validation is None or (validation.through is None) == (part.through is None)
        Seen.parts[name] = part.through is not None
        return super().fit(name, task, part, schedule, validation, **more)


def test_all_three_around_a_room(dataset, tmp_path, monkeypatch):
    """Trained from one config, opened from its folder, and with other erasing written anew without a step being trained."""
    kept = []

    def write(place, trained):
        kept.append(trained.network)
        write_model(place, trained)

    monkeypatch.setattr(train_module, "Run", Seen)
    config = config_around(dataset, "ham", **TINY)
    folder = train(config, tmp_path, write, progress=False).parent
    steps = ["1-anchor", "2-align", "3-pairs", "4-attend", "5-masks", "6-mask"]
    assert sorted(entry.name for entry in folder.glob("[0-9]-*")) == steps
    assert Seen.parts == {"align": False, "attend": True, "mask": True}
    assert read_config(folder / "config.toml", [], METHODS).around == config.around
    model, images = open_model(folder / "model", METHODS), torch.rand(3, 1, 64, 64)
    assert not any(value.is_meta for value in (*model.network.parameters(), *model.network.buffers()))
    with torch.no_grad():
        one, other = kept[0](images), model.network.to(memory_format=torch.channels_last)(images)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.maps, other.maps)
    assert one.maps.shape == (3, 3, 8, 8)
    logits, maps = open_forward(model)(images)  # folded, as everything that predicts runs it
    np.testing.assert_allclose(logits, one.logits, atol=1e-4)
    np.testing.assert_allclose(maps, one.maps, atol=1e-3)
    weights = folder / "4-attend" / "weights.safetensors"
    before, sha = weights.stat().st_mtime_ns, model.sha256
    train(config_around(dataset, "ham", **{**TINY, "erasing": {"steps": 1}}), tmp_path, write, progress=False)
    assert weights.stat().st_mtime_ns == before
    changed = open_model(folder / "model", METHODS)
    assert (len(kept), changed.about["around"]["erasing"]["steps"]) == (2, 1)
    assert changed.sha256 != sha


def test_an_aligned_batch_keeps_boxes_on_their_pixels(dataset):
    """A bright square and its box, turned, scaled and shifted together; a flip before it changes nothing of that."""
    aligner = Aligner(AlignerSettings.model_validate({"backbone": BACKBONE})).eval()
    aligner.head.bias.data = torch.tensor([0.5, -0.4, 0.3, -0.2, 0.4])
    part = replace(_part(dataset), through=AlignedBatches(aligner))
    batch = next(Loader(part=part, settings=LoaderSettings(batch_size=2), shuffle=False).epoch(0))
    straight = next(Loader(part=_part(dataset), settings=LoaderSettings(batch_size=2), shuffle=False).epoch(0))
    assert batch.images.shape == straight.images.shape
    assert not torch.allclose(batch.images, straight.images, atol=0.05)
    square = torch.zeros_like(straight.images)
    square[:, :, 24:40, 16:36] = 1
    frames = straight.frames
    (box,) = frames[0].to_image([Box("Mass", 16, 24, 36, 40)])
    moved = AlignedBatches(aligner)(replace(straight, images=square, boxes=((box,), (box,))))
    bright = moved.images[0, 0] > 0.5
    inside = moved.masks(64, 64)[0, FINDINGS.index("Mass")] > 0
    assert bright.sum() > 100
    assert (bright & ~inside).sum() <= 2  # the upright box around the turned one holds all of it
    rows, columns = np.nonzero(bright.numpy())
    found = moved.frames[0].to_canvas([box])[0]
    assert found.corners == pytest.approx((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=1.5)


def _part(dataset):
    from chestmap.training.training_data import open_data

    return open_data(tiny_config("cam", dataset).data, progress=False).train


def test_masks_strengthen_features_for_each_finding():
    """With mean pooling and a linear head, (1 + ψ) S by hand; with zeros the network itself."""
    settings = CamSettings.model_validate({"backbone": BACKBONE, "pooling": "mean"})
    torch.manual_seed(0)
    network = Cam(settings, 3).eval()
    masked, images = Masked(network, 3, (64, 64)).eval(), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        plain, same, features = network(images), masked(images), network.features(images).numpy()
    torch.testing.assert_close(same.logits, plain.logits)
    torch.testing.assert_close(same.maps, plain.maps)
    shares = (0.2, 0.0, 1.0)
    masked.get_buffer("masks").copy_(torch.tensor(shares)[:, None, None].expand(3, 8, 8))
    with torch.no_grad():
        output = masked(images)
    weights, bias = network.head.weight.detach().numpy(), network.head.bias.detach().numpy()
    for row in range(2):
        for k, share in enumerate(shares):
            evidence = np.zeros(features.shape[2:])
            for c in range(features.shape[1]):
                evidence += weights[k, c] * features[row, c] * (1 + share)
            np.testing.assert_allclose(output.maps[row, k], np.maximum(evidence, 0), atol=1e-5)
            assert output.logits[row, k].item() == pytest.approx(evidence.mean() + bias[k], abs=1e-5)


def test_erasing_changes_maps_alone():
    method, settings = METHODS["cam"], settings_of("cam")
    torch.manual_seed(0)
    around = AroundSettings.model_validate({"erasing": {"steps": 2, "level": 0.7}})
    network = build_around(method, settings, around, FINDINGS, (64, 64)).eval()
    plain_network, images = network.get_submodule("network"), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        output, plain = network(images), plain_network(images)
    assert torch.equal(output.logits, plain.logits)
    assert torch.equal(output.maps, mined(plain.maps, 2, 0.7))
    assert not torch.allclose(output.maps, plain.maps)
