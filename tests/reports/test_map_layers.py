"""Maps lie on pictures where evaluation scores them; masks leave the outlines and boxes that they have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.evaluation.maps.comparison_space import Surface, Workspace, sampler
from chestmap.reports.map_layers import colored, map_on_picture, marks_of, palette, picture_size, scaled
from chestmap.types import Box, Frame


@settings(max_examples=30)
@given(
    width=st.integers(60, 300), height=st.integers(60, 300), seed=st.integers(0, 99), flip=st.booleans(),
    fit=st.sampled_from(["letterbox", "squash"]),
)  # fmt: skip
def test_a_map_lies_where_it_is_scored(width, height, seed, flip, fit):
    frame = Frame.fit((float(width), float(height)), (64, 48), fit)
    frame = frame.flipped() if flip else frame
    values = np.random.default_rng(seed).random((6, 8)).astype(np.float32)
    scored = sampler(Surface(), frame, values.shape, Workspace()).sample(values)
    low, high = scored.min(), scored.max()
    shown = map_on_picture(values, frame, (width, height))
    assert shown is not None
    assert np.abs(shown - (scored - low) / (high - low)).max() < 0.05  # OpenCV rounds positions to 1/32 of a cell


@pytest.mark.parametrize("values", [np.ones((4, 4)), np.full((4, 4), np.nan), np.array([[0, np.inf], [1, 2.0]])])
def test_a_map_that_says_nothing_is_none(values):
    assert map_on_picture(values, Frame.fit((40, 40), (32, 32)), (20, 20)) is None


def test_a_map_with_levels_of_its_own_is_not_scaled():
    values = np.array([[0.2, 0.2], [0.2, 0.4]], dtype=np.float32)
    shown = map_on_picture(values, Frame.fit((4, 4), (4, 4)), (4, 4), normalize=False)
    assert shown is not None
    assert (shown.min(), shown.max()) == pytest.approx((0.2, 0.4))


def test_marks_of_two_regions_and_a_speck():
    mask = np.zeros((100, 120), dtype=bool)
    mask[10:30, 20:60] = True
    mask[50:90, 70:110] = True
    mask[99, 0] = True
    marks = marks_of(mask)
    assert marks.boxes == ((70, 50, 110, 90), (20, 10, 60, 30))
    assert {min(outline) for outline in marks.outlines} == {(20, 10), (70, 50)}


def test_a_ring_has_an_inner_outline():
    mask = np.zeros((60, 60), dtype=bool)
    mask[10:50, 10:50] = True
    mask[20:40, 20:40] = False
    assert len(marks_of(mask).outlines) == 2


def test_colors_rise_in_lightness_and_low_values_are_clear():
    colors = palette().astype(float)
    lightness = colors[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness[::16]) > 0).all()
    assert colored(np.zeros((2, 2), dtype=np.float32))[..., 3].max() == 0
    assert colored(np.ones((2, 2), dtype=np.float32))[..., 3].min() > 200
    values = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    np.testing.assert_array_equal(colored(values), palette()[np.rint(values * 255).astype(int)])


def test_boxes_and_sizes_follow_the_picture():
    assert picture_size((2000.0, 1000.0), 384) == (384, 192)
    assert scaled([Box("Mass", 100, 100, 300, 200)], (2000.0, 1000.0), (200, 100)) == (Box("Mass", 10, 10, 30, 20),)
