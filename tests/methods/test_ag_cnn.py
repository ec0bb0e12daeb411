"""AG-CNN: attention, region, crop, branches and maps against plain loops, OpenCV and SciPy."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from chestmap.methods import ag_cnn as ag
from chestmap.types import Findings

FINDINGS = Findings(("Mass", "Nodule", "Effusion"))
NAN = math.nan


def settings(**more):
    return ag.AgCnnSettings.model_validate(dict(ag.METHOD.tiny) | more)


def network(**more):
    """On a grid of 8 x 8 for 64 pixels, as fine as the crop tests need."""
    torch.manual_seed(0)
    made = settings(backbone={"name": "test_resnet", "output_stride": 8}, **more)
    return ag.build(made, FINDINGS, (64, 64)).double().eval()


def region_by_hand(attention, tau):
    """eq. 4 and the maximum connected region: area first, then the peak; everything where nothing stands out."""
    span = attention.max() - attention.min()
    mask = (attention - attention.min()) / (span or 1) > tau
    if not mask.any():
        return np.ones_like(mask)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    best = max(range(1, count + 1), key=lambda one: ((labels == one).sum(), attention[labels == one].max()))
    return labels == best


def box_by_hand(region):
    rows, columns = np.nonzero(region)
    height, width = region.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("statistic", ["max", "L1", "L2"])
def test_attention_of_eq_3(statistic):
    features = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    found = ag.attention_map(torch.from_numpy(features), statistic)
    for b, y, x in np.ndindex(2, 3, 4):
        values = [abs(features[b, k, y, x]) for k in range(5)]
        wanted = {"max": max(values), "L1": sum(values) / 5, "L2": math.sqrt(sum(v * v for v in values)) / 5}[statistic]
        assert found[b, y, x].item() == pytest.approx(wanted)


@hypothesis_settings(max_examples=60)
@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)
    ),
    st.floats(0.05, 0.95),
)
def test_region_of_eq_4(levels, tau):
    distinct = levels + 1e-3 * np.random.default_rng(1).permutation(levels.size).reshape(levels.shape) / levels.size
    found = ag.largest_region(torch.from_numpy(distinct), tau)
    boxes = ag.box_around(found)
    for b, one in enumerate(distinct):
        wanted = region_by_hand(one, tau)
        assert (found[b].numpy() == wanted).all()
        np.testing.assert_allclose(boxes[b], box_by_hand(wanted), atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_region_may_wind(compiled, monkeypatch):
    """The longest way through a grid of 7 x 7; compiled and exported code runs all rounds."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    snake = np.zeros((7, 7))
    snake[::2] = 1
    snake[1, 6] = snake[3, 0] = snake[5, 6] = 1
    snake[6, 6] = 2  # the peak is at one end
    found = ag.largest_region(torch.from_numpy(np.stack([snake, snake[::-1, ::-1].copy()])), 0.3)
    assert (found[0].numpy() == (snake > 0)).all()
    assert torch.equal(found[1], found[0].flip(0, 1))


def test_equal_regions_and_maps_without_a_region():
    attention = torch.zeros(4, 4, 5)
    attention[0, 0, 0], attention[0, 3, 4] = 0.9, 1.0
    attention[1, 0, 0], attention[1, 3, 4] = 1.0, 0.9
    attention[2] = 3.0
    attention[3] = NAN
    boxes = ag.box_around(ag.largest_region(attention, 0.7))
    wanted = [[0.8, 0.75, 1, 1], [0, 0, 0.2, 0.25], [0, 0, 1, 1], [0, 0, 1, 1]]
    torch.testing.assert_close(boxes, torch.tensor(wanted))


@pytest.mark.parametrize("finer", [1, 3])
@pytest.mark.parametrize("statistic", ["max", "L1"])
def test_crops_of_a_batch_are_those_of_a_loop_over_images(finer, statistic):
    """Cut out and enlarged one by one, by SciPy and OpenCV."""
    net, images = network(finer=finer, statistic=statistic), torch.rand(6, 1, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        features = net.global_branch(images)[0]
        look = net.look(images, ("local",))
        closer, _, logits = net.local_branch(ag.crops(images, look.box))
    torch.testing.assert_close(look.closer, closer)
    torch.testing.assert_close(look.logits["local"], logits)
    shapes = set()
    for row, image in enumerate(images[:, 0].numpy()):
        size = np.abs(features[row].numpy())
        attention = size.max(0) if statistic == "max" else size.mean(0)
        attention = cv2.resize(attention, (12 * finer, 8 * finer), interpolation=cv2.INTER_LINEAR)
        box = box_by_hand(region_by_hand(attention, 0.7))
        np.testing.assert_allclose(look.box[row], box, atol=1e-6)
        if finer == 1:  # boxes of whole pixels
            x0, y0, x1, y1 = (round(share * side) for share, side in zip(box, (96, 64, 96, 64), strict=True))
            shapes.add((x1 - x0, y1 - y0))
            wanted = cv2.resize(image[y0:y1, x0:x1], (96, 64), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(ag.crops(images, look.box)[row, 0], wanted, atol=1e-5)
    assert finer > 1 or len(shapes) > 1


def test_the_whole_image_twice():
    net, images = network(cropped=False), torch.rand(2, 1, 64, 64, dtype=torch.float64)
    look = net.look(images, ag.ALL)
    torch.testing.assert_close(look.closer, net.local_branch.backbone(images))
    torch.testing.assert_close(ag.crops(images, look.box), images)


def test_three_branches():
    """Global max pooling and a linear layer; the fusion's is of both poolings, the global one first."""
    net, images = network(), torch.rand(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        look = net.look(images, ag.ALL)
    pools = [one.numpy().max((2, 3)) for one in (look.seen, look.closer)]
    heads = {"global": (net.global_branch.head, pools[0]), "local": (net.local_branch.head, pools[1])}
    heads["fusion"] = (net.fusion_branch, np.concatenate(pools, axis=1))
    for name, (head, pool) in heads.items():
        weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
        for b in range(2):
            wanted = [sum(weight[c, k] * pool[b, k] for k in range(len(pool[b]))) + bias[c] for c in range(4)]
            np.testing.assert_allclose(look.logits[name][b], wanted, atol=1e-6)
        net.answer = name
        np.testing.assert_allclose(net(images).logits.detach(), look.logits[name][:, :3], atol=1e-9)
    assert set(net.look(images, ("global",)).logits) == {"global"}


def bilinear(cells, x, y):
    """At (x, y) in cells, half a cell in from the border at least."""
    height, width = cells.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    i, j = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - i, y - j
    top, bottom = (1 - a) * cells[j, i] + a * cells[j, i + 1], (1 - a) * cells[j + 1, i] + a * cells[j + 1, i + 1]
    return (1 - b) * top + b * bottom


@pytest.mark.parametrize("answer", ag.ALL)
def test_maps_of_the_local_branch_come_back_to_where_the_crop_was(answer):
    net, images = network(), torch.rand(3, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for head in (net.global_branch.head, net.local_branch.head, net.fusion_branch):
            head.weight[0].abs_()  # evidence of the first finding is positive, of the others as it happens
        look = net.look(images, ag.ALL)
        maps = net.averaged(images, (answer,)).maps.numpy()
    width = look.seen.shape[1]
    fusion = net.fusion_branch.weight.detach().numpy()
    whole = {"global": net.global_branch.head.weight.detach().numpy(), "local": None, "fusion": fusion[:, :width]}[answer]
    close = {"global": None, "local": net.local_branch.head.weight.detach().numpy(), "fusion": fusion[:, width:]}[answer]
    for b, c, y, x in np.ndindex(3, 3, 8, 8):
        wanted = 0.0
        if whole is not None:
            wanted += max(0.0, float(whole[c] @ look.seen[b, :, y, x].numpy()))
        x0, y0, x1, y1 = look.box[b].tolist()
        u, v = ((x + 0.5) / 8 - x0) / (x1 - x0), ((y + 0.5) / 8 - y0) / (y1 - y0)
        if close is not None and 0 <= u <= 1 and 0 <= v <= 1:
            wanted += bilinear(np.maximum(np.tensordot(close[c], look.closer[b].numpy(), 1), 0), 8 * u, 8 * v)
        assert maps[b, c, y, x] == pytest.approx(wanted, abs=1e-5)
    assert maps[:, 0].max() > 0.01
