import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch.nn.functional import interpolate

from chestmap.evaluation.maps.comparison_space import LEVELS, Surface, Workspace, reached, sampler
from chestmap.types import Frame

RNG = np.random.default_rng(0)


def sampled(surface: Surface, frame: Frame, values: np.ndarray) -> np.ndarray:
    return sampler(surface, frame, values.shape, Workspace()).sample(values).copy()


def by_rule(frame: Frame, values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Each pixel's center to the canvas, to the map, and a weighted mean of the four cells around it."""
    out = np.empty((height, width))
    a, b, c, d, e, f = frame.matrix
    rows, columns = values.shape
    for j in range(height):
        for i in range(width):
            x, y = (i + 0.5) * frame.image[0] / width, (j + 0.5) * frame.image[1] / height
            u = (a * x + b * y + c) * columns / frame.canvas[0] - 0.5
            v = (d * x + e * y + f) * rows / frame.canvas[1] - 0.5
            u, v = min(max(u, 0), columns - 1), min(max(v, 0), rows - 1)
            u0, v0 = min(int(u), columns - 2), min(int(v), rows - 2)
            s, t = u - u0, v - v0
            top = (1 - s) * values[v0, u0] + s * values[v0, u0 + 1]
            bottom = (1 - s) * values[v0 + 1, u0] + s * values[v0 + 1, u0 + 1]
            out[j, i] = (1 - t) * top + t * bottom
    return out


@pytest.mark.parametrize(("resize", "corners"), [("bilinear", False), ("corners", True)])
def test_square_images_are_sampled_as_torch_does(resize: str, corners: bool) -> None:
    values = RNG.random((16, 16)).astype(np.float32)
    frame = Frame.fit((128, 128), (64, 64))
    surface = Surface(resize=resize) if resize == "bilinear" else Surface("canvas", resize=resize)
    size = surface.size(frame)[::-1]
    expected = interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=corners)[0, 0].numpy()
    assert sampled(surface, frame, values) == pytest.approx(expected, abs=2e-6)


def test_cubic_is_opencv_and_the_same_through_a_letterbox() -> None:
    values = RNG.random((14, 14)).astype(np.float32)
    surface = Surface("image", 224, "cubic")
    whole = sampled(surface, Frame.fit((100, 100), (448, 448)), values)
    assert np.array_equal(whole, cv2.resize(values, (224, 224), interpolation=cv2.INTER_CUBIC))
    # a wide image fills the middle half of the canvas: cells 3.5 … 10.5 of 14
    wide = sampled(surface, Frame.fit((200, 100), (448, 448)), values)
    tall = cv2.resize(values, (224, 448), interpolation=cv2.INTER_CUBIC)
    assert wide == pytest.approx(tall[112:336], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(5, 40), st.integers(5, 40)),
    st.sampled_from(["letterbox", "squash"]),
    st.booleans(),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_any_upright_frame_is_sampled_by_the_rule(image, how, flip, shape) -> None:
    frame = Frame.fit(image, (32, 24), how)
    frame = frame.flipped() if flip else frame
    values = np.random.default_rng(1).random(shape).astype(np.float32)
    found = sampled(Surface(), frame, values)
    assert found == pytest.approx(by_rule(frame, values, *image), abs=1e-5)
    made = sampler(Surface(), frame, values.shape, Workspace())
    low, high = made.bounds(values[None])
    assert (low[0], high[0]) == (pytest.approx(found.min(), abs=1e-6), pytest.approx(found.max(), abs=1e-6))


def test_turned_frames_are_sampled_by_the_rule() -> None:
    frame = Frame.fit((60, 40), (48, 48)).then((0.9, -0.3, 8.0, 0.3, 0.9, -4.0))
    values = RNG.random((12, 12)).astype(np.float32)
    near = 1e-5 if int(cv2.__version__.split(".")[0]) >= 5 else 0.02
    found = sampled(Surface(), frame, values)
    assert found == pytest.approx(by_rule(frame, values, 60, 40), abs=near)
    x, y = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    a, b, c, d, e, f = frame.matrix
    places = [(d * x + e * y + f) / 4 - 0.5, (a * x + b * y + c) / 4 - 0.5]
    assert found == pytest.approx(map_coordinates(values, places, order=1, mode="nearest"), abs=near)


def test_levels_run_from_nothing_to_the_top_on_the_surface() -> None:
    frame = Frame.fit((64, 64), (32, 32))
    values = RNG.random((8, 8)).astype(np.float16)
    made = sampler(Surface(), frame, (8, 8), Workspace())
    found = made.levels(values).pixels.copy()
    raw = made.sample(values.astype(np.float32)).astype(np.float64)
    assert (found.min(), found.max()) == (pytest.approx(0, abs=1e-3), pytest.approx(LEVELS, abs=1e-3))
    assert found == pytest.approx((raw - raw.min()) / (raw.max() - raw.min()) * LEVELS, abs=1e-2)
    as_it_is = made.levels(values, normalize=False).pixels
    assert as_it_is == pytest.approx(raw * LEVELS, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf])
def test_a_map_that_says_nothing_has_no_levels(value: float) -> None:
    made = sampler(Surface(), Frame.fit((20, 20), (8, 8)), (4, 4), Workspace())
    values = np.full((4, 4), value, dtype=np.float16)
    assert made.levels(values) is None
    assert made.levels(values, normalize=False) is None
    spoiled = RNG.random((4, 4)).astype(np.float16)
    spoiled[1, 1] = value
    assert (made.levels(spoiled) is None) == (not np.isfinite(value))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["letterbox", "squash"]), st.booleans())
def test_maps_that_are_scaled_together_are_as_each_alone(seed: int, how, flip: bool) -> None:
    """And a window holds every pixel that reaches its level, and the first and last of them near its edges."""
    random = np.random.default_rng(seed)
    frame = Frame.fit((int(random.integers(5, 40)), int(random.integers(5, 40))), (32, 24), how)
    maps = random.random((6, *random.integers(2, 7, 2))).astype(np.float16)
    maps[1], maps[2, 0, 0] = 0.5, np.nan
    normalize, levels = random.random(6) < 0.5, random.random(6)
    made = sampler(Surface(), frame.flipped() if flip else frame, maps.shape[1:], Workspace())
    cells, known = made.scaled(maps, normalize, top=1.0)
    assert not known[1]
    assert not known[2]
    for row, (rows, columns) in enumerate(made.windows(cells, levels)):
        alone = made.levels(maps[row], normalize=bool(normalize[row]), top=1.0)
        assert (alone is not None) == known[row]
        if alone is None:
            continue
        assert np.array_equal(alone.cells, cells[row])
        reach = alone.pixels >= levels[row]
        assert reach[rows, columns].sum() == reach.sum()


@given(st.floats(0.001, 1.0))
def test_comparing_in_float32_equals_comparing_in_float64(threshold: float) -> None:
    exact = threshold * LEVELS
    near = np.float32(exact)
    around = np.array([np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(1e9))])
    assert ((around >= reached(threshold)) == (around.astype(np.float64) >= exact)).all()


def test_boxes_are_placed_where_the_image_goes() -> None:
    frame = Frame.fit((200.0, 100.0), (64, 64))
    boxes = np.array([[0.0, 0.0, 200.0, 100.0], [50.0, 20.0, 100.0, 60.0]])
    assert Surface().place(boxes, frame) == pytest.approx(boxes)
    assert Surface("image", 50).place(boxes, frame)[1] == pytest.approx([12.5, 10, 25, 30])
    assert Surface("canvas").place(boxes, frame)[0] == pytest.approx([0, 16, 64, 48])
    quarter = Frame((100.0, 100.0), (100, 100), (0.0, -1.0, 100.0, 1.0, 0.0, 0.0))
    assert Surface("canvas").place(np.array([[10.0, 20.0, 40.0, 30.0]]), quarter)[0] == pytest.approx([70, 10, 80, 40])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.01, 1.0),
    st.sampled_from(["bilinear", "corners", "cubic"]),
    st.booleans(),
    st.integers(1, 7),
)
def test_the_window_holds_every_pixel_that_reaches_the_level(seed, threshold, resize, turned, side) -> None:
    frame = Frame.fit((37.0, 23.0), (32, 32))
    frame = frame.then((0.9, -0.3, 5.0, 0.3, 0.9, -3.0)) if turned else frame.flipped()
    values = np.random.default_rng(seed).random((side, 7)).astype(np.float16)
    levels = sampler(Surface(resize=resize), frame, values.shape, Workspace()).levels(values)
    mask, (x, y) = levels.reaching(threshold)
    whole = np.zeros(levels.pixels.shape, dtype=np.uint8)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    assert (whole == (levels.pixels.astype(np.float64) >= threshold * LEVELS)).all()


def test_large_images_are_scored_smaller_in_the_same_proportions() -> None:
    frame = Frame.fit((3000.0, 2000.0), (512, 512))
    surface = Surface(longest=1024)
    assert surface.size(frame) == (1024, 683)
    assert surface.place(np.array([[0.0, 0, 3000, 2000]]), frame)[0] == pytest.approx([0, 0, 1024, 683])
    assert Surface(longest=4000).size(frame) == (3000, 2000)
