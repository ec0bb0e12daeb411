"""CIA-Net: attention, total loss, partners, the gallery, and the settings of every published row."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from chestmap.errors import BadModel, BadSettings
from chestmap.methods import METHODS
from chestmap.methods import cia_net as cia
from chestmap.nn.similar_images import thumbnails
from chestmap.packs.views import Views
from chestmap.training import Data, Run, RunSettings
from chestmap.training.config import read_config
from chestmap.types import Findings

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "cia_net").glob("*.toml"))


def settings(**more):
    return cia.CiaNetSettings.model_validate(dict(cia.METHOD.tiny) | more)


def network(findings=3, canvas=(64, 64), **more):
    torch.manual_seed(0)
    return cia.CiaNet(settings(**more), findings, canvas)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_contrast_keeps_the_scale():
    rng = np.random.default_rng(3)
    plus, minus = rng.normal(size=(2, 1, 4, 6)), rng.normal(size=(2, 1, 4, 6))
    found = cia.contrast(torch.from_numpy(plus), torch.from_numpy(minus))
    for b in range(2):
        difference = np.abs(plus[b] - minus[b])
        np.testing.assert_allclose(found[b], difference * 24 / difference.sum())
        assert found[b].sum().item() == pytest.approx(24)
    same = torch.from_numpy(plus).requires_grad_()
    alike = cia.contrast(same, same)
    assert (alike == 1).all()
    alike.sum().backward()
    assert torch.isfinite(same.grad).all()


def test_eq_3_and_the_finer_grid_as_the_paper_orders_them():
    """Features weighted cell by cell, then convolved; at test upsampled before both convolutions. Here the other way round."""
    net = network(aligned=False).double().eval()
    images, partners = torch.rand(2, 1, 64, 64, dtype=torch.float64), torch.rand(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        grid = net(images, partners)
        blobs, features = [], None
        for one in (images, partners):
            c4, c5 = net.backbone.stages(one)
            features = c5 if features is None else features
            blobs.append(functional.max_pool2d(c4, 2))
        weight, bias = net.head.weight[:, :, None, None], net.head.bias
        for scale, found in ((1, grid.cells), (2, grid.maps)):
            larger = [functional.interpolate(one, scale_factor=scale, mode="bilinear") for one in (*blobs, features)]
            plus, minus = (functional.conv2d(one, net.attention_head.weight[:, :, None, None]) for one in larger[:2])
            delta = (plus - minus).abs()
            delta = delta * delta[0].numel() / delta.sum((-2, -1), keepdim=True)
            expected = functional.conv2d(larger[2] * delta, weight, bias)
            torch.testing.assert_close(found, expected if scale == 1 else expected.sigmoid())


def test_with_a_pyramid_cells_lie_on_the_finer_grid_of_both_stages():
    """Cells are read from C4 and C5 joined; attention still comes from C4."""
    tiny = {**cia.METHOD.tiny["backbone"]}
    coarse, fine = (network(aligned=False, backbone=tiny | {"pyramid": width}).eval() for width in (0, 16))
    images, partners = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        plain, joined = (net(images, partners) for net in (coarse, fine))
    assert joined.cells.shape[-2:] == (2 * plain.cells.shape[-2], 2 * plain.cells.shape[-1])
    assert fine.head.in_features == 16
    assert fine.get_buffer("attentions").shape[1:] == joined.cells.shape[-2:]
    assert fine.attention_of(images).shape[1:] == joined.cells.shape[-2:]


def test_an_untrained_network_expects_few_findings():
    net = network(contrast=False, aligned=False).eval()
    torch.nn.init.zeros_(net.head.weight)
    scores = torch.sigmoid(net(torch.rand(2, 1, 64, 64)).logits)
    torch.testing.assert_close(scores, torch.full((2, 3), 0.05), rtol=1e-4, atol=0)


@pytest.fixture
def data(part):
    return Data(findings=part.findings, pack=part.pack.settings, train=part, validation=None, test=None, split="all")


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", RunSettings(device="cpu", workers=0, tensorboard=False), progress=False) as run:
        yield run


@pytest.fixture
def partners(part, tmp_path):
    cia.write_partners(part, tmp_path)
    return cia.Partners(part, "similar", tmp_path)


def test_partners_are_the_most_similar_normal_images(part, batch, partners):
    assert partners.rows.tolist() == [4, 6, 7]  # the fifth has an unknown label
    codes = thumbnails(batch.images).numpy().astype(np.float64)
    for place, image_id in enumerate(part.ids):
        cosines = {
            row: codes[place] @ codes[position] / np.linalg.norm(codes[place]) / np.linalg.norm(codes[position])
            for row, position in enumerate(partners.rows)
            if position != place
        }
        assert partners.row_of[image_id] == max(cosines, key=cosines.get)
    found = partners.images(batch, training=True)
    rows = [partners.row_of[image_id] for image_id in batch.ids]
    torch.testing.assert_close(found, batch.images[partners.rows[rows]])


def test_partners_of_images_never_seen(batch, partners):
    unseen = replace(batch, ids=tuple(f"new {one}" for one in batch.ids))
    partners.part.pack.row_of.update({f"new {one}": row for row, one in enumerate(batch.ids)})
    found = partners.images(unseen, training=False)
    for one, position in enumerate(partners.rows):
        torch.testing.assert_close(found[position], batch.images[partners.rows[one]])  # its own nearest


def test_partners_move_with_their_images(batch, moved, partners):
    still, turned = partners.images(batch, training=True), partners.images(moved, training=True)
    for row in range(len(batch)):
        here = torch.corrcoef(torch.stack([moved.images[row].flatten(), batch.images[row].flatten()]))[0, 1]
        alike = torch.corrcoef(torch.stack([turned[row].flatten(), still[row].flatten()]))[0, 1]
        a, b, c, d, e, f = moved.frames[row].matrix
        assert (here < 0.99) == (alike < 0.99)
        ys, xs = np.mgrid[0:64, 0:64] + 0.5
        x, y = a * 20.5 + b * 40.5 + c, d * 20.5 + e * 40.5 + f
        if 4 < x < 60 and 4 < y < 60:  # the brightness around a place follows that place
            there = (np.hypot(xs - x, ys - y) < 4) * turned[row, 0].numpy()
            before = (np.hypot(xs - 20.5, ys - 40.5) < 4) * still[row, 0].numpy()
            assert there.sum() / (there > 0).sum() == pytest.approx(before.sum() / (before > 0).sum(), abs=0.03)


def test_kept_features_are_compared_with_partners_as_pixels_are(batch, partners, data):
    net = network(aligned=False, backbone=cia.METHOD.tiny["backbone"] | {"frozen": 3}).eval()
    task = cia.Contrast(net, 1.0, partners)
    unseen = tuple(f"new {one}" for one in batch.ids)
    partners.part.pack.row_of.update(dict(zip(unseen, range(len(batch)), strict=True)))
    for ids in (batch.ids, unseen):
        pixels = replace(batch, ids=ids)
        with torch.no_grad():
            found = task.predict(replace(pixels, images=net.backbone.kept(batch.images)))
            torch.testing.assert_close(found.cells, task.predict(pixels).cells)
    kept = replace(data, train=replace(data.train, views=object.__new__(Views)))
    with pytest.raises(BadSettings, match=r"data\.views: an aligner reads pixels.*aligned = false"):
        cia.recipe(object.__new__(Run), kept, settings())


def test_random_partners_change_in_training_only(batch, partners):
    partners.kind = "random"
    torch.manual_seed(1)
    first, second = (partners.images(batch, training=True) for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(partners.images(batch, training=False), partners.images(batch, training=False))


def test_terms_of_eq_6(batch, partners):
    """Boxed pairs by their cells, the other known ones by their images, over the images of the batch."""
    net = network()
    task = cia.Contrast(net, 3.0, partners)
    assert not any(parameter.requires_grad for parameter in net.aligner.parameters())
    task.eval()
    with torch.no_grad():
        terms = task(batch)
        cells = net(batch.images, partners.images(batch, training=False)).cells.double().numpy()
    targets = cia.cell_targets(batch.boxes, batch.frames, batch.findings, (2, 2)).numpy()
    boxes = images = 0.0
    for i, k in np.ndindex(8, 3):
        y = batch.labels[i, k].item()
        if any(box.finding == batch.findings.names[k] for box in batch.boxes[i]):
            for z, cell in zip(cells[i, k].flat, targets[i, k].flat, strict=True):
                boxes += -math.log(sigmoid(z)) if cell else -math.log(1 - sigmoid(z))
        elif not math.isnan(y):
            none = math.prod(1 - (1 - net.floor) * sigmoid(z) for z in cells[i, k].flat)
            images += -math.log(1 - none) if y else -math.log(none)
    assert terms["boxes"].item() == pytest.approx(3 * boxes / 8, rel=1e-4)
    assert terms["images"].item() == pytest.approx(images / 8, rel=1e-4)


def test_without_a_weight_boxes_are_not_read_and_their_images_count_by_their_labels(batch, partners):
    """As in the room of patches."""
    net = network(contrast=False)
    with torch.no_grad():
        terms = cia.Contrast(net, 0.0, None).eval()(batch)
        unboxed = cia.Contrast(net, 1.0, None).eval()(replace(batch, boxes=tuple(() for _ in batch.boxes)))
        boxed = cia.Contrast(net, 1.0, None).eval()(batch)
    assert any(batch.boxes)
    assert terms["images"].item() == unboxed["images"].item() > boxed["images"].item()
    assert terms["boxes"].item() == 0


def test_boxes_follow_the_alignment(batch, partners):
    net = network()
    torch.nn.init.zeros_(net.aligner.head.weight)
    net.aligner.head.bias.data.copy_(torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0]))  # looks 0.3 of the canvas further right
    net.eval()
    grid = net(batch.images, batch.images)
    frames = cia.aligned_frames(batch.frames, grid.theta)
    (box,) = frames[0].to_canvas(batch.boxes[0])
    assert box.x0 == pytest.approx(batch.boxes[0][0].x0 - 0.3 * 64, abs=1e-3)


def test_recipe_fills_the_gallery_and_predicts_with_it(run, data, part, batch):
    torch.manual_seed(0)
    net = cia.recipe(run, data, settings(gallery=5)).eval()
    steps = ["1-anchor", "2-align", "3-pairs", "4-partners", "5-attend", "6-gallery"]
    assert [step.step for step in run.steps] == steps
    assert net.thumbs[:3].any(1).all()
    assert not net.thumbs[3:].any()
    found = np.load(run.folder / "6-gallery" / "thumbs.npy")
    order = [np.flatnonzero((found == one).all(1))[0] for one in thumbnails(batch.images[[4, 6, 7]]).numpy()]
    with torch.no_grad():
        alone = net(batch.images[:4])
        nearest = cia.nearest(thumbnails(batch.images[:4]), net.thumbs)
        gallery = batch.images[[4, 6, 7]][np.argsort(order)]
        pair = net(batch.images[:4], gallery[nearest])
    torch.testing.assert_close(alone.logits, pair.logits, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(alone.maps, pair.maps, atol=2e-2, rtol=1e-2)
    assert alone.maps.shape == (4, 3, 8, 8)
    assert ((alone.maps >= 0) & (alone.maps <= 1)).all()
    (run.folder / "6-gallery" / "thumbs.npy").write_bytes(b"no")
    with pytest.raises(BadModel, match="make it anew"):
        cia.read_gallery(net, run.folder / "6-gallery")


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"contrast": False, "aligned": False}, ["1-attend"]),
        ({"contrast": False}, ["1-anchor", "2-align", "3-pairs", "4-attend"]),
        ({"partner": "random", "aligned": False}, ["1-partners", "2-attend", "3-gallery"]),
        ({"partner": "canonical"}, ["1-anchor", "2-align", "3-pairs", "4-attend", "5-gallery"]),
        ({"partner": "canonical", "aligned": False}, ["1-anchor", "2-attend", "3-gallery"]),
    ],
    ids=["base", "base aligned", "random", "canonical", "canonical unaligned"],
)
def test_rows_of_the_tables_are_steps(run, data, more, steps):
    net = cia.recipe(run, data, settings(**more)).eval()
    assert [step.step for step in run.steps] == steps
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images).logits, net(images).logits)
        if more.get("partner") == "canonical":
            anchor = torch.from_numpy(np.load(run.folder / "1-anchor" / "anchor.npy"))
            pair = net(images, anchor.expand(2, 1, -1, -1))
            torch.testing.assert_close(net(images).logits, pair.logits, atol=1e-2, rtol=1e-2)


def test_the_paper_s_network():
    with torch.device("meta"):
        net = cia.build(cia.CiaNetSettings(), Findings(("Mass", "Nodule")), (512, 512))
        shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
        grid = net(torch.empty(1, 1, 512, 512), torch.empty(1, 1, 512, 512))
    assert shapes["head.weight"] == (2, 2048)
    assert shapes["attention_head.weight"] == (1, 1024)
    assert grid.cells.shape == (1, 2, 16, 16)
    assert grid.maps.shape == (1, 2, 128, 128)
    assert net.attentions.shape == (8192, 16, 16)


def test_a_part_of_the_alignment_s_table_keeps_the_paper_s_other_numbers():
    made = cia.CiaNetSettings.model_validate({"alignment": {"anchor_images": 400}})
    assert (made.alignment.anchor_images, made.alignment.pool) == (400, 1)
    assert made.alignment.crop != (0, 0, 1, 1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_the_paper_s(path):
    config = read_config(path, [], METHODS)
    made, split, name = config.settings, config.data.split, path.stem
    assert made.backbone.weights == "imagenet"
    assert (made.attend.epochs, made.attend.batch_size, made.attend.every) == (15, 6, 5)
    assert made.attend.learning_rate == pytest.approx(6 * 1e-3)
    assert made.attend.weight_decay == pytest.approx(1e-4 / 6)
    assert not made.attend.augment
    assert not made.align.augment
    assert not made.contrast or made.gallery == (1 if name == "partner-canonical" else 65_536)
    assert made.contrast == (not name.startswith("base"))
    assert made.aligned == (name not in {"base-0", "base-40", "base-80", "boxes-80-unaligned"})
    assert made.partner == {"partner-random": "random", "partner-canonical": "canonical"}.get(name, "similar")
    if name.endswith("-0"):
        assert split.name == "official-boxes"
        return
    fractions = {"base-40": (0.4, 1.0), "boxes-40": (0.4, 1.0), "boxes-80-half": (0.8, 0.5), "boxes-70": (0.7, 0.7)}
    assert split.name == "fold-1"
    assert (split.annotated, split.unannotated) == fractions.get(name, (0.8, 1.0))
    assert (split.test_on == "all") == (name == "boxes-70")


def test_every_row_has_its_config():
    published = Path(cia.__file__).parents[1] / "evaluation" / "published.toml"
    tables = tomllib.loads(published.read_text())["table"]
    asked = {config for table in tables.values() for config in table.get("configs", {}).values()}
    assert {name.split("/")[1] for name in asked if name.startswith("cia_net/")} == {path.stem for path in CONFIGS}
