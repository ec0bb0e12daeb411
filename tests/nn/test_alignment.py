"""Alignment against plain loops in float64, written from the papers; and that it aligns."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from chestmap.nn.alignment import (
    Aligned,
    Aligner,
    AlignerSettings,
    aligned,
    aligned_frames,
    blurred,
    euclidean_loss,
    inverted,
    maps_back,
    matrices,
    perceptual_loss,
    sampling_matrices,
)
from chestmap.nn.backbone import BackboneSettings
from chestmap.tensors import Output
from chestmap.types import Box, Frame

SMALL = AlignerSettings(backbone=BackboneSettings(name="test_resnet"))
numbers = st.tuples(
    st.floats(0.7, 1.4), st.floats(0.7, 1.4), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(-0.5, 0.5)
)


def theta_of(*rows, ratio=1.0):
    table = torch.tensor(rows, dtype=torch.float64)
    return sampling_matrices(table[:, :2], table[:, 2:4], table[:, 4], ratio)


def looked_up(image, x, y):
    """Bilinear at continuous pixels (x, y), zero outside; pixel i has its center at i + 0.5."""
    height, width = image.shape
    total, column, row = 0.0, math.floor(x - 0.5), math.floor(y - 0.5)
    for j in (row, row + 1):
        for i in (column, column + 1):
            if 0 <= i < width and 0 <= j < height:
                total += image[j, i] * (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
    return total


def warped_by_hand(image, sx, sy, tx, ty, angle):
    """eq. 1 on a square canvas: for each pixel of the result, where to look in the input."""
    side = len(image)
    out = np.zeros_like(image)
    for j in range(side):
        for i in range(side):
            u, v = (2 * i + 1) / side - 1, (2 * j + 1) / side - 1
            x = sx * math.cos(angle) * u - sy * math.sin(angle) * v + tx
            y = sx * math.sin(angle) * u + sy * math.cos(angle) * v + ty
            out[j, i] = looked_up(image, (x + 1) * side / 2, (y + 1) * side / 2)
    return out


def test_eq_1_by_hand():
    image = np.random.default_rng(0).random((9, 9))
    for row in ((1.2, 0.8, 0.1, -0.2, 0.3), (1, 1, 0, 0, 0), (0.9, 1.1, -0.3, 0.25, -0.4)):
        found = aligned(torch.from_numpy(image)[None, None], theta_of(row))[0, 0]
        np.testing.assert_allclose(found, warped_by_hand(image, *row), atol=1e-12)


def test_starts_as_the_identity_with_a_gradient():
    torch.manual_seed(0)
    net = Aligner(SMALL)
    images = torch.rand(2, 1, 32, 48)
    theta = net(images)
    assert torch.equal(theta, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3))
    torch.testing.assert_close(aligned(images, theta), images)
    aligned(images, theta).square().sum().backward()
    assert net.head.weight.grad.abs().sum() > 0


def test_parameters_stay_within_their_limits():
    net = Aligner(SMALL).eval()
    nn.init.constant_(net.head.bias, 50.0)
    scale = 1.6
    theta = net(torch.rand(1, 1, 32, 32))
    expected = theta_of((scale, scale, 0.6, 0.6, math.radians(30))).float()
    torch.testing.assert_close(theta, expected)
    torch.testing.assert_close(torch.linalg.det(theta[:, :, :2]), torch.full((1,), scale**2))


@given(numbers, st.tuples(st.integers(20, 60), st.integers(20, 60)))
def test_matrices_undo_the_sampling(row, canvas):
    """A point of the aligned canvas, looked up in the input by theta, comes back by the frame's matrix."""
    width, height = canvas
    theta = theta_of(row, ratio=height / width)
    u, v = 0.3, -0.45
    x, y = (theta[0] @ torch.tensor([u, v, 1.0], dtype=torch.float64)).tolist()
    a, b, c, d, e, f = matrices(theta, canvas)[0]
    x, y = (x + 1) * width / 2, (y + 1) * height / 2
    assert a * x + b * y + c == pytest.approx((u + 1) * width / 2)
    assert d * x + e * y + f == pytest.approx((v + 1) * height / 2)
    if row[0] == row[1]:  # a turn keeps right angles in pixels, whatever the canvas
        assert a * b + d * e == pytest.approx(0, abs=1e-9)


@given(numbers)
def test_boxes_come_back_through_the_frame(row):
    frame = Frame.fit((1024, 1024), (64, 64))
    straight = (*row[:4], 0.0)
    box = Box("Mass", 300, 200, 500, 640)
    (step,) = aligned_frames([frame], theta_of(straight))
    (back,) = step.to_image(step.to_canvas([box]))
    assert back.corners == pytest.approx(box.corners)
    (turned,) = aligned_frames([frame], theta_of(row))
    (around,) = turned.to_image(turned.to_canvas([box]))
    assert around.iou(box) > 0.2
    assert around.intersection(box) == pytest.approx(box.area)


def test_a_spot_moves_where_the_matrix_says():
    ys, xs = np.mgrid[0:48, 0:64] + 0.5
    spot = torch.from_numpy(np.exp(-((xs - 40) ** 2 + (ys - 20) ** 2) / 18))[None, None]
    theta = theta_of((1.1, 0.9, 0.1, -0.15, 0.3), ratio=48 / 64)
    moved = aligned(spot, theta)[0, 0].numpy()
    a, b, c, d, e, f = matrices(theta, (64, 48))[0]
    center = (moved * xs).sum() / moved.sum(), (moved * ys).sum() / moved.sum()
    assert center == pytest.approx((a * 40 + b * 20 + c, d * 40 + e * 20 + f), abs=0.05)


def test_maps_come_back():
    """What was aligned and brought back is what it was, but for interpolation; what lay outside is zero."""
    ys, xs = np.mgrid[0:64, 0:64] / 64
    smooth = torch.from_numpy(np.sin(3 * xs) * np.cos(2 * ys) + 1)[None, None]
    theta = theta_of((1.2, 1.1, 0.05, -0.1, 0.2))
    back = maps_back(aligned(smooth, theta), theta, (64, 64))
    inside = back[0, 0, 12:52, 12:52]
    torch.testing.assert_close(inside, smooth[0, 0, 12:52, 12:52], atol=5e-3, rtol=0)
    near = theta_of((0.5, 0.5, 0.0, 0.0, 0.0))  # the aligned canvas is the middle of the input
    ones = maps_back(torch.ones(1, 1, 4, 4, dtype=torch.float64), near, (8, 8))[0, 0]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[2:6, 2:6] = 1
    torch.testing.assert_close(ones, expected)


def test_inverse_of_the_inverse():
    theta = theta_of((1.2, 0.8, 0.1, -0.2, 0.3), (0.9, 1.1, 0.0, 0.2, -0.2))
    torch.testing.assert_close(inverted(inverted(theta)), theta)


@dataclass(frozen=True, eq=False)
class More(Output):
    extra: torch.Tensor
    vector: torch.Tensor | None


class Bright(nn.Module):
    def forward(self, images):
        maps = nn.functional.avg_pool2d(images, 2)
        return More(maps.mean((-2, -1)), maps, maps * 2, None)


def test_any_network_can_be_aligned_and_answers_on_its_own_canvas():
    net = Aligned(Bright(), Aligner(SMALL)).eval()
    nn.init.constant_(net.aligner.head.bias, 0.3)
    images = torch.zeros(1, 1, 64, 64)
    images[:, :, 20:32, 28:44] = 1
    out = net(images)
    assert out.maps.shape == (1, 1, 32, 32)
    seen = out.maps[0, 0] > 0.5
    assert seen.nonzero().float().add(0.5).mul(2).mean(0).tolist() == pytest.approx([26, 36], abs=1)
    torch.testing.assert_close(out.extra, out.maps * 2)
    assert out.vector is None


def test_blur_by_hand():
    image = np.random.default_rng(1).random((8, 12))
    means = np.zeros((2, 3))
    for j in range(2):
        for i in range(3):
            means[j, i] = sum(image[4 * j + y, 4 * i + x] for y in range(4) for x in range(4)) / 16
    expected = np.zeros((8, 12))
    for j in range(8):
        for i in range(12):
            x, y = min(max((i + 0.5) / 4, 0.5), 2.5), min(max((j + 0.5) / 4, 0.5), 1.5)
            expected[j, i] = looked_up(means, x, y)
    tensor = torch.from_numpy(image)[None, None]
    np.testing.assert_allclose(blurred(tensor, 4)[0, 0], expected, atol=1e-12)
    assert blurred(tensor, 1) is tensor


def euclidean_by_hand(images, anchor, form):
    """eq. 8."""
    totals = []
    for image in images:
        total = 0.0
        for j in range(anchor.shape[0]):
            for i in range(anchor.shape[1]):
                total += math.sqrt((image[0, j, i] - anchor[j, i]) ** 2)
        totals.append(total if form == "printed" else total / anchor.size)
    return sum(totals) / len(totals)


def perceptual_by_hand(seen, wanted, form):
    """eq. 7: over stages; the mean over images."""
    count, total = len(seen[0]), 0.0
    for one, other in zip(seen, wanted, strict=True):
        for image in range(count):
            squares = sum((a - b) ** 2 for a, b in zip(one[image].flat, other[0].flat, strict=True))
            total += (math.sqrt(squares) if form == "printed" else squares) / other[0].size
    return total / count


def slope(function, array, step=1e-6):
    """Central differences."""
    gradient = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("form", ["mean", "printed"])
def test_losses_by_hand(form):
    rng = np.random.default_rng(2)
    images, anchor = rng.random((2, 1, 5, 4)), rng.random((5, 4))
    tensor = torch.from_numpy(images).requires_grad_()
    loss = euclidean_loss(tensor, torch.from_numpy(anchor)[None, None], form)
    loss.backward()
    assert loss.item() == pytest.approx(euclidean_by_hand(images, anchor, form))
    np.testing.assert_allclose(tensor.grad, slope(lambda x: euclidean_by_hand(x, anchor, form), images), atol=1e-7)
    seen, wanted = [rng.random((2, 3, 2, 2)), rng.random((2, 4, 1, 1))], [rng.random((1, 3, 2, 2)), rng.random((1, 4, 1, 1))]
    tensors = [torch.from_numpy(one).requires_grad_() for one in seen]
    loss = perceptual_loss(tensors, [torch.from_numpy(one) for one in wanted], form)
    loss.backward()
    assert loss.item() == pytest.approx(perceptual_by_hand(seen, wanted, form))
    by_hand = slope(lambda x: perceptual_by_hand([x, seen[1]], wanted, form), seen[0])
    np.testing.assert_allclose(tensors[0].grad, by_hand, atol=1e-7)


SIDE = 32


def chests(count, side, seed=0):
    """A bright body with two dark lungs and a heart, scaled, shifted and turned; and where the lungs' middle is, in pixels."""
    rng = np.random.default_rng(seed)
    ys, xs = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    images, middles = np.zeros((count, 1, side, side), dtype=np.float32), np.zeros((count, 2))
    for row in range(count):
        scale, shift, angle = np.exp(rng.normal(0, 0.1, 2)), rng.normal(0, 0.15, 2), rng.normal(0, 0.1)
        u = (math.cos(angle) * (xs - shift[0]) + math.sin(angle) * (ys - shift[1])) / scale[0]
        v = (math.cos(angle) * (ys - shift[1]) - math.sin(angle) * (xs - shift[0])) / scale[1]
        image = 0.6 * ((u / 0.85) ** 2 + (v / 0.95) ** 4 < 1)
        for side_of in (-0.38, 0.38):
            image = image - 0.45 * (((u - side_of) / 0.25) ** 2 + (v / 0.5) ** 2 < 1)
        image = np.maximum(image, 0.75 * (((u - 0.12) / 0.25) ** 2 + ((v - 0.25) / 0.22) ** 2 < 1))
        images[row, 0] = (image + rng.normal(0, 0.03, image.shape)).clip(0, 1)
        middles[row] = (shift + 1) / 2 * side
    return torch.from_numpy(images), middles


@pytest.fixture
def one_thread():
    """Many small products: threads that wait for each other on a busy machine made two minutes of two seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_training_lowers_the_spread_of_the_lungs(one_thread):
    """Their middle varies by 2.5 pixels from image to image; after alignment by much less, on images never trained on."""
    torch.manual_seed(0)
    images, middles = chests(160, side=SIDE)
    train, anchor = images[:128], images[:128].mean(0, keepdim=True)
    net = Aligner(SMALL)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(80):
        batch = train[torch.randint(len(train), (16,))]
        loss = euclidean_loss(blurred(aligned(batch, net(batch)), 2), anchor, "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        steps = matrices(net(images[128:]), (SIDE, SIDE))
    after = np.array(
        [(a * x + b * y + c, d * x + e * y + f) for (a, b, c, d, e, f), (x, y) in zip(steps, middles[128:], strict=True)]
    )
    assert middles[128:].std(0).mean() > 2
    assert after.std(0).mean() < 0.6 * middles[128:].std(0).mean()
