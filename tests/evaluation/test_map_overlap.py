import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from chestmap.evaluation.maps.comparison_space import Surface, Workspace, sampler
from chestmap.evaluation.maps.map_overlap import (
    BOX_LEVELS,
    absent_regions,
    box_column,
    confidences,
    mask_column,
    overlap_of_pair,
)
from chestmap.evaluation.maps.overlap import as_array, clipped
from chestmap.types import Box, Frame


def slow_regions(mask: np.ndarray) -> list[tuple[Box, int]]:
    """Components with their holes: box and number of pixels."""
    parts, count = label(binary_fill_holes(mask), structure=np.ones((3, 3)))
    found = []
    for part in range(1, count + 1):
        y, x = np.nonzero(parts == part)
        found.append((Box("Mass", float(x.min()), float(y.min()), x.max() + 1.0, y.max() + 1.0), len(x)))
    return found


def slow_one_to_one(regions: list[Box], boxes: list[Box]) -> list[float]:
    pairs = sorted(((r.iou(b), i, j) for i, r in enumerate(regions) for j, b in enumerate(boxes)), reverse=True)
    matched, used = [0.0] * len(boxes), set()
    for iou, i, j in pairs:
        if iou > 0 and i not in used and matched[j] == 0:
            matched[j] = iou
            used.add(i)
    return matched


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(40, 40), (48, 30), (25, 44)]),
    st.integers(1, 3),
    st.sampled_from(["letterbox", "squash"]),
)
def test_every_threshold_agrees_with_one_loop_per_threshold(seed, image, num_boxes, how) -> None:
    rng = np.random.default_rng(seed)
    frame = Frame.fit(image, (32, 32), how)
    values = gaussian_filter(rng.random((8, 8)), 0.8).astype(np.float16)
    corners = rng.uniform(-4, max(image), (num_boxes, 2, 2))
    boxes = [Box("Mass", *np.minimum(a, b), *(np.maximum(a, b) + 1)) for a, b in corners]
    boxes = [box for one in boxes if (box := one.clipped(*image))]
    if not boxes:
        return
    work = Workspace()
    levels = sampler(Surface(), frame, (8, 8), work).levels(values)
    placed = clipped(as_array(boxes), *image)
    found = overlap_of_pair(levels, placed, (0.437, 0.2), work, image)
    x = levels.pixels.astype(np.float64) / 256

    rows, columns = np.mgrid[: image[1], : image[0]] + 0.5
    union = np.zeros((image[1], image[0]), dtype=bool)
    for box in boxes:
        union |= (columns >= box.x0) & (columns < box.x1) & (rows >= box.y0) & (rows < box.y1)
    assert found.ground == union.sum()
    for column, cut in [(0, 0.437)] + [(mask_column(k), k / 256) for k in range(0, 256, 5)]:
        mask = x >= cut if cut else np.ones_like(union)
        assert (found.area[column], found.inside[column]) == (mask.sum(), (mask & union).sum())
    for column, cut in [(0, 0.437)] + [(box_column(k), k / 256) for k in BOX_LEVELS.tolist()[::4]]:
        regions = slow_regions(x >= cut)
        if not regions:
            assert not found.best[:, column].any()
            continue
        biggest = max(size for _, size in regions)
        tops = [box for box, size in regions if size == biggest]
        measures = [
            lambda r, b: r.iou(b),
            lambda r, b: r.intersection(b) / r.area,
            lambda r, b: r.intersection(b) / b.area,
        ]
        for row, measure in enumerate(measures):
            assert any(found.best[row, column] == pytest.approx(max(measure(top, b) for b in boxes)) for top in tops)
            assert found.best[3 + row, column] == pytest.approx(max(measure(r, b) for r, _ in regions for b in boxes))
        assert found.each[:, column] == pytest.approx(slow_one_to_one([r for r, _ in regions], boxes))
    for column, cut in [(0, 0.437), (box_column(96), 96 / 256)]:
        detections = [r for r, _ in slow_regions(x >= cut)]
        mean = [x[int(r.y0) : int(r.y1), int(r.x0) : int(r.x1)].mean() for r in detections]
        for index, box in enumerate(boxes):
            meeting = [m for m, r in zip(mean, detections, strict=True) if r.iou(box) >= 0.2]
            assert found.found[index, column] == pytest.approx(max(meeting, default=-np.inf), abs=1e-6)
    y, x_at = np.unravel_index(x.argmax(), x.shape)
    assert found.pointed == union[y, x_at]


def plain(values: np.ndarray, boxes: list[tuple[float, float, float, float]], own: float = 0.5):
    """Maps of the image's own size are taken as they are."""
    height, width = values.shape
    work = Workspace()
    levels = sampler(Surface(), Frame.fit((width, height), (width, height)), values.shape, work).levels(values)
    return overlap_of_pair(levels, np.array(boxes, dtype=np.float64), (own, 0.3), work, (width, height))


def test_a_rectangle_by_hand() -> None:
    values = np.zeros((8, 8), dtype=np.float16)
    values[2:6, 0:4] = 3.0
    found = plain(values, [(0, 2, 8, 6)])  # the left half of the box, at the border of the image
    assert (found.area[0], found.inside[0], found.ground) == (16, 16, 32)
    assert found.best[:, 0].tolist() == [0.5, 1.0, 0.5, 0.5, 1.0, 0.5]
    assert found.each[:, 0].tolist() == [0.5]
    assert found.pointed
    assert found.found[:, 0].tolist() == [1.0]


def test_two_regions_and_two_boxes_by_hand() -> None:
    values = np.zeros((8, 12), dtype=np.float16)
    values[1:4, 1:4] = 1.0  # 3 x 3, on the first box exactly
    values[1:5, 6:10] = 0.75  # 4 x 4, half of it on the second box
    found = plain(values, [(1, 1, 4, 4), (6, 3, 10, 7)])
    assert (found.area[0], found.inside[0], found.ground) == (25, 17, 25)
    assert found.best[0, 0] == pytest.approx(8 / 24)  # the largest region against the box it meets
    assert found.best[3, 0] == 1.0
    assert found.each[:, 0] == pytest.approx([1.0, 8 / 24])
    assert found.each[:, box_column(200)].tolist() == [1.0, 0.0]  # 0.75 * 256 = 192: only the first is left
    assert found.found[:, 0] == pytest.approx([1.0, 0.75])
    assert found.found[:, box_column(200)].tolist() == [1.0, -np.inf]


def test_overlapping_boxes_are_one_ground() -> None:
    values = np.zeros((8, 8), dtype=np.float16)
    values[0:4, 0:4] = 1.0
    found = plain(values, [(0, 0, 4, 4), (2, 0, 6, 4)])
    assert (found.ground, found.inside[0]) == (24, 16)


@pytest.mark.parametrize("value", [0.0, 2.0, np.nan])
def test_a_map_that_says_nothing_misses_everything(value: float) -> None:
    found = plain(np.full((8, 8), value, dtype=np.float16), [(0, 0, 8, 8)])
    assert not found.pointed
    assert found.area[0] == found.inside[0] == 0
    assert not found.area[mask_column(1) :].any()
    assert (found.area[mask_column(0)], found.inside[mask_column(0)]) == (64, 64)
    assert not found.best.any()
    assert not found.each.any()
    assert (found.found == -np.inf).all()
    assert absent_regions(None, (0.5, 0.2))[0] == [0, 0]


def test_a_level_is_reached_from_its_value_on() -> None:
    values = np.array([[0.0, 0.25, 0.5, 1.0]], dtype=np.float16)
    for own, pixels in [(0.25, 3), (0.2500001, 2), (0.5, 2), (1.0, 1)]:
        assert plain(values, [(0, 0, 1, 1)], own).area[0] == pixels
    found = plain(values, [(0, 0, 1, 1)])
    assert [found.area[mask_column(k)] for k in (0, 1, 64, 65, 128, 129, 255)] == [4, 3, 3, 2, 2, 1, 1]


def test_regions_where_the_finding_is_absent_are_counted_at_each_threshold() -> None:
    values = np.zeros((6, 9), dtype=np.float16)
    values[0:2, 0:2], values[4:6, 7:9] = 1.0, 0.5
    work = Workspace()
    levels = sampler(Surface(), Frame.fit((9, 6), (9, 6)), values.shape, work).levels(values)
    counts, confidence = absent_regions(levels, (0.75, 0.5))
    assert counts == [1, 2]
    assert sorted(confidence) == pytest.approx([0.5, 1.0])
    assert confidences(levels.pixels, np.array([[0.0, 0, 4, 2]])) == pytest.approx([0.5])
    many = np.array([[0.0, 0, 4, 2], [5, 3, 9, 6]] * 40)
    assert confidences(levels.pixels, many) == pytest.approx([0.5, 1 / 6] * 40)
