"""A film whose pixels are twice as wide as high is read as its twin with square ones."""

import numpy as np
import pytest

from chestmap.errors import BadImage
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.limits import Limits
from chestmap.imaging.read import ReadSettings, radiograph_of
from chestmap.imaging.read_with_levels import read_deep
from chestmap.imaging.size import size_of
from imaging.dicom_samples import as_bytes, chest, radiograph

ROWS, COLUMNS = 96, 120


def film(**elements):
    """`chest` with every two columns in one."""
    wide = chest(ROWS, COLUMNS).astype(np.float64)
    return radiograph(np.rint((wide[:, ::2] + wide[:, 1::2]) / 2).astype(np.uint16), **elements)


def twin(**elements):
    return radiograph(chest(ROWS, COLUMNS), ImagerPixelSpacing=[0.25, 0.25], **elements)


@pytest.mark.parametrize(
    "elements",
    [
        {"ImagerPixelSpacing": [0.25, 0.5]},
        {"ImagerPixelSpacing": None, "PixelSpacing": [0.25, 0.5]},
        {"ImagerPixelSpacing": None, "PixelAspectRatio": ["1", "2"]},
    ],
)
def test_it_has_the_twins_shape_and_greys(elements):
    made, wanted = (radiograph_of(as_bytes(one), "film") for one in (film(**elements), twin()))
    assert made.pixels.shape == wanted.pixels.shape
    assert made.size == wanted.size == (COLUMNS, ROWS)
    assert made.spacing_mm == (None if "PixelAspectRatio" in elements else (0.25, 0.25))
    assert float(np.abs(made.pixels - wanted.pixels).max()) < 0.02
    assert f"pixels were not square: {COLUMNS // 2} x {ROWS} resampled to {COLUMNS} x {ROWS}" in made.done
    assert not any("square" in note for note in wanted.done)
    canvas = CanvasSettings(width=64, height=64)
    (one, frame), (other, own) = on_canvas(made, canvas), on_canvas(wanted, canvas)
    assert frame == own
    assert int(np.abs(one.astype(int) - other.astype(int)).max()) <= 3


def test_every_level_lies_where_its_grey_does(tmp_path):
    one = film(ImagerPixelSpacing=[0.25, 0.5])
    made, depth = read_deep(as_bytes(one))
    assert depth.levels.shape == made.pixels.shape
    path = tmp_path / "film.dcm"
    path.write_bytes(as_bytes(one))
    assert size_of(path) == made.size


def test_pixels_that_are_higher_than_wide():
    tall = radiograph(chest(ROWS, COLUMNS)[::2], ImagerPixelSpacing=[0.4, 0.2])
    assert radiograph_of(as_bytes(tall), "film").pixels.shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("spacing", [[0.2, 0.2], [0.14, 0.1401], [0, 0.2], None])
def test_what_is_square_or_unknown_stays(spacing):
    made = radiograph_of(as_bytes(film(ImagerPixelSpacing=spacing)), "film")
    assert made.pixels.shape == (ROWS, COLUMNS // 2)


def test_a_ratio_beyond_all_bounds_is_refused():
    with pytest.raises(BadImage, match="6000000 x 96 pixels; at most"):
        radiograph_of(as_bytes(film(ImagerPixelSpacing=[0.001, 100])), "film", ReadSettings(Limits()))
