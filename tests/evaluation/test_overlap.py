import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes, label

from chestmap.evaluation.maps.overlap import (
    areas,
    as_array,
    clipped,
    disjoint,
    ious,
    one_to_one,
    painted,
    pixel_spans,
    regions,
)
from chestmap.types import Box

span = st.tuples(st.integers(0, 11), st.integers(1, 12)).map(lambda pair: (pair[0], min(12, pair[0] + pair[1])))
rectangles = st.lists(st.tuples(span, span).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1])), min_size=1, max_size=5)


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_regions_are_filled_components(mask: np.ndarray) -> None:
    filled = binary_fill_holes(mask)
    parts, count = label(filled, structure=np.ones((3, 3)))
    expected = set()
    for part in range(1, count + 1):
        y, x = np.nonzero(parts == part)
        expected.add((x.min() + 3, y.min() + 5, x.max() + 4, y.max() + 6, len(x)))
    boxes, sizes = regions(mask, offset=(3, 5))
    assert {(*box, size) for box, size in zip(boxes, sizes, strict=True)} == expected
    assert len(boxes) == count


def test_many_regions_are_measured_like_few() -> None:
    mask = (np.random.default_rng(0).random((90, 120)) < 0.3).astype(np.uint8)
    boxes, sizes = regions(mask, offset=(7, 9))
    parts, count = label(binary_fill_holes(mask), structure=np.ones((3, 3)))
    assert len(boxes) == count > 100
    expected = [
        (x.min() + 7, y.min() + 9, x.max() + 8, y.max() + 10, len(x))
        for y, x in (np.nonzero(parts == k + 1) for k in range(count))
    ]
    assert sorted((*box, size) for box, size in zip(boxes, sizes, strict=True)) == sorted(expected)


@settings(deadline=None)
@given(rectangles)
def test_disjoint_pieces_cover_the_same_ground_once(boxes) -> None:
    as_floats = np.array(boxes, dtype=np.float64)
    covered = painted(np.array(boxes), 12, 12)
    pieces = disjoint(as_floats)
    assert areas(pieces).sum() == covered.sum()
    times = np.zeros((12, 12))
    for x0, y0, x1, y1 in pieces.astype(int):
        times[y0:y1, x0:x1] += 1
    assert (times == covered).all()


@settings(deadline=None)
@given(rectangles, rectangles)
def test_ious_are_those_of_box(one, other) -> None:
    first = [Box("Mass", *map(float, box)) for box in one]
    second = [Box("Mass", *map(float, box)) for box in other]
    found = ious(as_array(first), as_array(second))
    for row, a in enumerate(first):
        for column, b in enumerate(second):
            assert found[row, column] == pytest.approx(a.iou(b))


def test_a_pixel_belongs_to_a_box_that_holds_its_center() -> None:
    spans = pixel_spans(np.array([[0.5, 0.51, 2.5, 3.0], [1.6, 0.0, 2.4, 9.0], [-5.0, -5.0, 99.0, 0.4]]), 4, 5)
    assert spans.tolist() == [[0, 1, 2, 3], [2, 0, 2, 5], [0, 0, 4, 0]]
    assert painted(spans, 4, 5).sum() == 4
    assert clipped(np.array([[-1.0, 2, 9, 9], [7, 7, 9, 9]]), 4, 5).tolist() == [[0, 2, 4, 5], [4, 5, 4, 5]]


def test_no_regions_and_no_boxes_are_empty_arrays() -> None:
    boxes, sizes = regions(np.zeros((4, 4), dtype=np.uint8))
    assert boxes.shape == (0, 4)
    assert sizes.shape == (0,)
    assert as_array([]).shape == (0, 4)


def test_one_region_finds_one_box() -> None:
    overlap = np.array([[0.6, 0.5], [0.1, 0.0], [0.0, 0.2]])
    assert one_to_one(overlap).tolist() == [0.6, 0.2]
    assert one_to_one(np.array([[0.6, 0.5]])).tolist() == [0.6, 0.0]
    assert one_to_one(np.empty((0, 2))).tolist() == [0.0, 0.0]
