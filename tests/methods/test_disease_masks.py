"""Disease masks: equations against plain loops, the masks' files, and the settings of every published row."""

import json
import math
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from chestmap.errors import BadModel, UnknownFinding
from chestmap.methods import METHODS
from chestmap.methods import disease_masks as dm
from chestmap.nn.losses import balanced_bce
from chestmap.training import Data, Run, RunSettings
from chestmap.training.config import read_config
from chestmap.types import Findings
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14, CHESTXRAY14

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "disease_masks").glob("*.toml"))
NAN = math.nan
FINDINGS = Findings(("Mass", "Cardiomegaly", "Effusion"))


def settings(**more):
    return dm.DiseaseMasksSettings.model_validate(dict(dm.METHOD.tiny) | more)


def squashed(m):
    low, high = min(m.flat), max(m.flat)
    return (m - low) / (high - low)


def masks_by_hand(evidence, logits, mirrored, least, level):
    """eq. 3: of the confident images' maps (flipped and added where mirrored), each normalized; mean; threshold."""
    masks = np.zeros(evidence.shape[1:])
    for c in range(evidence.shape[1]):
        kept = []
        for image, logit in zip(evidence, logits, strict=True):
            if 1 / (1 + math.exp(-logit[c])) >= least:
                one = image[c]
                if mirrored[c]:
                    one = np.array([[row[-1 - i] + row[i] for i in range(len(row))] for row in one])
                kept.append(squashed(one))
        if kept:
            mean = sum(kept) / len(kept)
            masks[c] = np.where(squashed(mean) >= level, mean, 0)
    return masks


def test_masks_of_eq_3():
    rng = np.random.default_rng(0)
    evidence, logits = rng.normal(size=(9, 3, 4, 5)), rng.normal(1, 1.5, size=(9, 3))
    logits[:, 2] = -1  # nobody is confident: no mask
    mirrored = np.array([True, False, True])
    mean = dm.MaskMean(torch.from_numpy(mirrored), 0.8)
    for part in (slice(0, 4), slice(4, 9)):
        mean.add(torch.from_numpy(evidence[part]), torch.from_numpy(logits[part]))
    found = mean.masks(0.6)
    np.testing.assert_allclose(found, masks_by_hand(evidence, logits, mirrored, 0.8, 0.6), atol=1e-6)
    assert (found[2] == 0).all()
    assert mean.count.tolist() == (1 / (1 + np.exp(-logits)) >= 0.8).sum(0).tolist()
    whole = mean.masks(0.0)
    torch.testing.assert_close(whole[0], whole[0].flip(-1))
    assert not torch.allclose(whole[1], whole[1].flip(-1))


def test_attention_of_eq_4_and_5():
    """With f' made for each finding, as printed: the same maps and scores."""
    torch.manual_seed(0)
    net = dm.Classifier(settings().backbone, 3, (96, 64)).double().eval()
    psi = torch.rand(3, 2, 3, dtype=torch.float64)
    net.get_buffer("masks").copy_(psi)
    images = torch.rand(2, 1, 64, 96, dtype=torch.float64)
    out = net(images)
    features, weight = net.backbone(images).detach().numpy(), net.head.weight.detach().numpy()
    for b in range(2):
        for c in range(3):
            attended = psi[c].numpy() * features[b] + features[b]
            shown = sum(weight[c, k] * attended[k] for k in range(len(attended)))
            np.testing.assert_allclose(out.maps[b, c].detach(), np.maximum(shown, 0), atol=1e-10)
            assert out.logits[b, c].item() == pytest.approx(shown.mean() + net.head.bias[c].item())


def test_without_masks_it_is_the_plain_classifier_at_any_size():
    torch.manual_seed(0)
    net = dm.Classifier(settings().backbone, 3, (64, 64)).eval()
    images = torch.rand(2, 1, 96, 64)
    plain = net.head(net.backbone(images).mean((-2, -1)))
    torch.testing.assert_close(net(images).logits, plain)
    net.get_buffer("masks").fill_(1.0)
    torch.testing.assert_close(net(images).logits - net.head.bias, 2 * (plain - net.head.bias))


@pytest.mark.parametrize(
    "labels",
    [[[1, 0, NAN], [0, 0, 1]], [[0, 0, 0], [0, NAN, 0]], [[1, 1, 1], [NAN, 1, 1]], [[NAN] * 3] * 2, [[0.3, 1, 0], [1, 0.8, NAN]]],
    ids=["both", "no positive", "no negative", "unknown", "soft"],
)  # fmt: skip
def test_weighted_loss_of_eq_10(labels):
    def by_hand(logits):
        positive = [(m, y) for row, z in zip(labels, logits, strict=True) for y, m in zip(row, z, strict=True) if y > 0]
        negative = [(m, 1 - y) for row, z in zip(labels, logits, strict=True) for y, m in zip(row, z, strict=True) if y < 1]
        many, few = sum(y for _, y in positive), sum(y for _, y in negative)
        total = 0.0
        if many:
            total += (many + few) / many * sum(-y * math.log(1 / (1 + math.exp(-z))) for z, y in positive)
        if few:
            total += (many + few) / few * sum(-y * math.log(1 - 1 / (1 + math.exp(-z))) for z, y in negative)
        return total / max(many + few, 1)

    logits = np.random.default_rng(1).normal(size=(2, 3))
    tensor = torch.from_numpy(logits).requires_grad_()
    loss = balanced_bce(tensor, torch.tensor(labels, dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(logits))
    for place in np.ndindex(2, 3):
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        assert tensor.grad[place].item() == pytest.approx((by_hand(up) - by_hand(down)) / 2e-6, abs=1e-7)


def test_pseudo_masks_are_the_polygons():
    """A cell is in when at least half of its area is; a triangle by the sign of its edges."""
    triangle = ((0.1, 0.1), (0.9, 0.3), (0.3, 0.95))
    areas = {"triangle": triangle, "left": ((0, 0), (0.5, 0), (0.5, 1), (0, 1))}
    asked = settings(areas=areas, drawn={"Mass": ["triangle"], "Effusion": ["left"]})
    masks = dm.drawn_masks(asked, FINDINGS, (8, 6))
    assert masks.shape == (3, 8, 6)
    assert masks[1].sum() == 0
    assert (masks[2] == (np.arange(6) < 3)).all()
    for j in range(8):
        for i in range(6):
            inside = 0
            for v in range(20):
                for u in range(20):
                    x, y = (i + (u + 0.5) / 20) / 6, (j + (v + 0.5) / 20) / 8
                    sides = [
                        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
                        for a, b in zip(triangle, triangle[1:] + triangle[:1], strict=True)
                    ]
                    inside += all(side >= 0 for side in sides)
            if abs(inside / 400 - 0.5) > 0.03:  # not a close call
                assert masks[0, j, i] == (inside >= 200)
    with pytest.raises(UnknownFinding):
        dm.drawn_masks(settings(areas=areas, drawn={"Masses": ["left"]}), FINDINGS, (8, 6))


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="draws polygons"):
        settings(masks="pseudo")
    with pytest.raises(ValueError, match="at least 3 items"):
        settings(areas={"line": [[0, 0], [1, 1]]})
    with pytest.raises(ValueError, match='no area is called "lfet"; did you mean "left"'):
        settings(areas={"left": [[0, 0], [1, 0], [1, 1]]}, drawn={"Mass": ["lfet"]})


@pytest.fixture
def data(part):
    return Data(findings=part.findings, pack=part.pack.settings, train=part, validation=None, test=None, split="all")


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", RunSettings(device="cpu", workers=0, tensorboard=False), progress=False) as run:
        yield run


def test_recipe_makes_masks_and_trains_on_with_them(run, data):
    network = dm.recipe(run, data, settings(least_score=0.3))
    steps = ["1-pretrain", "2-anchor", "3-align", "4-pairs", "5-classify", "6-masks", "7-attend"]
    assert [step.step for step in run.steps] == steps
    folder = run.folder / "6-masks"
    masks = np.load(folder / "masks.npy")
    assert masks.shape == (3, 2, 2)
    assert torch.equal(network.network.masks, torch.from_numpy(masks))
    told = json.loads((folder / "masks.json").read_text())
    assert told["findings"] == list(data.findings)
    assert all((masks[row].max() > 0) == (told["masks"][name]["maps"] > 0) for row, name in enumerate(data.findings))
    assert cv2.imread(str(folder / "Mass.png")).shape == (64, 64, 3)
    aligner = network.aligner.state_dict()
    assert all(torch.equal(value, aligner[name]) for name, value in saved(run.folder / "3-align").items())
    out = network.eval()(torch.rand(2, 1, 64, 64))
    assert out.maps.shape == (2, 3, 8, 8)
    assert (out.maps >= 0).all()


def saved(folder):
    from safetensors.torch import load_file

    tensors = load_file(folder / "weights.safetensors")
    return {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"aligned": False, "masks": "none"}, ["1-classify"]),
        ({"masks": "none"}, ["1-pretrain", "2-anchor", "3-align", "4-pairs", "5-classify"]),
        ({"aligned": False, "masks": "pseudo", "areas": {"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}, "drawn": {"Mass": ["left"]}},
         ["1-classify", "2-anchor", "3-masks", "4-attend"]),
    ],
    ids=["resnet50", "aligned", "pseudo-masks without alignment"],
)  # fmt: skip
def test_rows_of_the_tables_are_steps(run, data, more, steps):
    network = dm.recipe(run, data, settings(**more))
    assert [step.step for step in run.steps] == steps
    if more["masks"] == "pseudo":
        assert network.masks[0].tolist() == [[1, 0], [1, 0]]
        assert network.masks[1:].sum() == 0


def test_damaged_masks_are_refused(tmp_path):
    np.save(tmp_path / "masks.npy", np.zeros((3, 4, 4), np.float32))
    with pytest.raises(BadModel, match="delete the folder"):
        dm.read_masks(tmp_path, torch.Size((3, 2, 2)))
    (tmp_path / "masks.npy").write_bytes(b"no")
    with pytest.raises(BadModel, match="make it anew"):
        dm.read_masks(tmp_path, torch.Size((3, 4, 4)))


def test_the_paper_s_network():
    with torch.device("meta"):
        net = dm.build(dm.DiseaseMasksSettings(), FINDINGS, (512, 512))
        shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert net.network.masks.shape == (3, 16, 16)
    assert shapes["network.head.weight"] == (3, 2048)
    assert shapes["aligner.head.weight"] == (5, 512)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_the_paper_s(path):
    config = read_config(path, [], METHODS)
    made = config.settings
    assert made.backbone.weights == "imagenet"
    assert (made.classify.epochs, made.classify.batch_size, made.classify.learning_rate) == (5, 32, 1e-4)
    assert (made.align.optimizer, made.align.learning_rate, made.align.batch_size) == ("sgd", 1e-3, 16)
    assert not any(schedule.augment for schedule in (made.pretrain, made.align, made.classify, made.attend))
    assert config.data.split.name == "official"
    assert made.aligned == (path.stem != "resnet50")
    kind = {"masks": "data", "pseudo-masks": "pseudo"}.get(path.stem, "none")
    assert made.masks == kind
    if kind == "pseudo":
        assert set(made.drawn) == set(BOXED_IN_CHESTXRAY14)
        masks = dm.drawn_masks(made, CHESTXRAY14, (16, 16))
        assert ((masks.sum((1, 2)) > 10) == np.isin(CHESTXRAY14.names, BOXED_IN_CHESTXRAY14)).all()


def test_every_row_has_its_config():
    published = Path(dm.__file__).parents[1] / "evaluation" / "published.toml"
    tables = tomllib.loads(published.read_text())["table"]
    asked = {config for table in tables.values() for config in table.get("configs", {}).values()}
    wanted = {name.split("/")[1] for name in asked if name.startswith("disease_masks/")}
    assert wanted == {path.stem for path in CONFIGS}
