import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.nn.boxes import MaskRule, between, boxes_from_maps, masks_at, regions, resized, warp_maps
from chestmap.types import Box, Findings, Frame

FINDINGS = Findings(("Mass", "Nodule"))
angles, scales = st.floats(-0.6, 0.6), st.floats(0.6, 1.6)
shifts = st.floats(-6, 6)


def turned(angle, scale, x, y, flip):
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return (-a if flip else a, -b, x, b if not flip else -b, a, y)


def sample(one, x, y):
    """Bilinear between cell centers at (i + 0.5); the border cells reach to the edge; nothing outside."""
    h, w = one.shape
    if not (0 <= x < w and 0 <= y < h):
        return 0.0
    x, y = min(max(x - 0.5, 0), w - 1), min(max(y - 0.5, 0), h - 1)
    x0, y0 = min(int(x), w - 2), min(int(y), h - 2)
    fx, fy = x - x0, y - y0
    upper = one[y0, x0] * (1 - fx) + one[y0, x0 + 1] * fx
    lower = one[y0 + 1, x0] * (1 - fx) + one[y0 + 1, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy


@settings(max_examples=25)
@given(angles, scales, shifts, shifts, st.booleans())
def test_warp_is_bilinear_in_the_frame_convention(angle, scale, x, y, flip):
    matrix = turned(angle, scale, x, y, flip)
    rng = np.random.default_rng(0)
    maps = rng.uniform(size=(1, 2, 6, 8))
    got = warp_maps(torch.tensor(maps), [matrix], (9, 7))[0].numpy()
    a, b, c, d, e, f = Frame((8.0, 6.0), (9, 7), matrix).inverse
    for i in range(7):
        for j in range(9):
            u, v = a * (j + 0.5) + b * (i + 0.5) + c, d * (j + 0.5) + e * (i + 0.5) + f
            if min(abs(u), abs(u - 8), abs(v), abs(v - 6)) > 1e-9:
                for k in range(2):
                    assert got[k, i, j] == pytest.approx(sample(maps[0, k], u, v), abs=1e-9)


def test_identity_scaling_and_flip():
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    same, flip = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (-1.0, 0.0, 5.0, 0.0, 1.0, 0.0)
    torch.testing.assert_close(warp_maps(maps, [same, flip], (5, 4)), torch.stack([maps[0], maps[1].flip(-1)]))
    larger = warp_maps(maps, [(4.0, 0.0, 0.0, 0.0, 3.0, 0.0)] * 2, (20, 12))
    torch.testing.assert_close(larger, resized(maps, 20, 12))


@settings(max_examples=25)
@given(st.floats(0.5, 1.5), shifts, shifts, st.booleans())
def test_a_warped_box_mask_is_the_mask_of_the_moved_box(scale, x, y, flip):
    """What self-refinement needs: stored without augmentation, a mask follows the frame that carries it."""
    base = Frame.fit((100.0, 80.0), (32, 32))
    frame = base.then((scale, 0.0, x, 0.0, scale, y))
    frame = frame.flipped() if flip else frame
    box = Box("Mass", 30.0, 20.0, 80.0, 70.0)
    stored = base.to_canvas([box])[0]
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., round(stored.y0) : round(stored.y1), round(stored.x0) : round(stored.x1)] = 1
    moved = warp_maps(mask, [between(base, frame)], (32, 32))[0, 0] >= 0.5
    wanted = frame.to_canvas([box])[0]
    i, j = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    inside = (j > wanted.x0 + 1.5) & (j < wanted.x1 - 1.5) & (i > wanted.y0 + 1.5) & (i < wanted.y1 - 1.5)
    outside = (j < wanted.x0 - 1.5) | (j > wanted.x1 + 1.5) | (i < wanted.y0 - 1.5) | (i > wanted.y1 + 1.5)
    assert moved[inside].all()
    assert not moved[outside].any()


@given(angles, scales, shifts, shifts, st.booleans())
def test_between_takes_points_from_frame_to_frame(angle, scale, x, y, flip):
    base = Frame.fit((60.0, 90.0), (16, 16))
    frame = base.then(turned(angle, scale, x, y, flip))
    a, b, c, d, e, f = between(base, frame)
    for px, py in ((0.0, 0.0), (60.0, 10.0), (33.0, 90.0)):
        m, n = base.matrix, frame.matrix
        u, v = m[0] * px + m[1] * py + m[2], m[3] * px + m[4] * py + m[5]
        wanted = (n[0] * px + n[1] * py + n[2], n[3] * px + n[4] * py + n[5])
        assert (a * u + b * v + c, d * u + e * v + f) == pytest.approx(wanted, abs=1e-6)


def test_masks_of_flat_maps_are_empty_at_any_level():
    maps = torch.stack([torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.eye(3)])
    assert masks_at(maps, 0.0).sum((1, 2)).tolist() == [0, 0, 9]
    assert masks_at(maps, 1.0).sum((1, 2)).tolist() == [0, 0, 3]


def test_regions_are_eight_connected_and_largest_first():
    mask = np.array([[1, 0, 0, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=bool)
    found = regions(mask)
    assert [one.area for one in found] == [4, 3, 2]
    assert [one.corners for one in found] == [(3, 0, 5, 2), (0, 3, 3, 4), (0, 0, 2, 2)]
    assert sum(one.mask for one in found).tolist() == mask.astype(int).tolist()
    assert regions(np.zeros((3, 3), dtype=bool)) == ()


@given(st.lists(st.booleans(), min_size=30, max_size=30))
def test_regions_share_out_the_mask(cells):
    mask = np.array(cells).reshape(5, 6)
    found = regions(mask)
    assert np.array_equal(sum((one.mask.astype(int) for one in found), np.zeros((5, 6), int)), mask)
    for one in found:
        x0, y0, x1, y1 = one.corners
        assert one.mask.sum() == one.area == one.mask[y0:y1, x0:x1].sum()


def two_blobs():
    maps = np.zeros((2, 8, 8), dtype=np.float16)
    maps[0, 1:3, 1:3] = 4
    maps[0, 5:8, 4:8] = 3
    return maps


def test_boxes_come_back_to_the_image():
    """Canvas equals the grid, image twice as large and flipped: cells 1..3 of 8 become pixels 10..14 of 16."""
    frame = Frame.fit((16.0, 16.0), (8, 8)).flipped()
    found = boxes_from_maps(two_blobs(), np.array([0.8, 0.5]), FINDINGS, frame, MaskRule(levels=(0.5,)))
    assert [one.finding for one in found] == ["Mass", "Mass"]
    assert [one.corners for one in found] == [(10, 2, 14, 6), (0, 10, 8, 16)]
    assert [one.score for one in found] == pytest.approx([0.8, 0.6])


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        (MaskRule(levels=(0.5,), keep="largest"), 1),
        (MaskRule(levels=(0.5, 0.9)), 3),
        (MaskRule(levels=(0.5,), least_area=0.1), 1),
        (MaskRule(levels=(0.5,), of_finding={"Mass": 0.9}), 1),
    ],
)
def test_rules(rule, count):
    frame = Frame.fit((16.0, 16.0), (8, 8))
    assert len(boxes_from_maps(two_blobs(), np.array([1.0, 1.0]), FINDINGS, frame, rule)) == count


def test_boxes_are_clipped_to_the_image_and_gone_in_the_margin():
    """A wide image on a square canvas: rows above and below the picture are no part of it."""
    frame = Frame.fit((16.0, 8.0), (8, 8))
    maps = np.zeros((2, 8, 8), dtype=np.float32)
    maps[0, 0:2, 0:8] = 1  # all in the upper margin
    maps[1, 1:4, 2:4] = 1
    found = boxes_from_maps(maps, np.array([1.0, 1.0]), FINDINGS, frame, MaskRule())
    assert [(one.finding, one.corners) for one in found] == [("Nodule", (4, 0, 8, 4))]


def test_resized_maps_agree_with_canvas_geometry():
    ramp = torch.arange(4.0).expand(1, 4, 4)
    got = resized(ramp, 16, 8)[0, 0]
    wanted = [min(max((j + 0.5) / 4 - 0.5, 0), 3) for j in range(16)]
    torch.testing.assert_close(got, torch.tensor(wanted))
