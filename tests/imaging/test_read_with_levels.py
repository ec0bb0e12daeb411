"""All levels of a file for a viewer: nothing cut, greater is brighter, and a window that shows what the network saw."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.errors import BadImage
from chestmap.imaging.read_with_levels import is_dicom, read_deep
from imaging.dicom_samples import as_bytes, radiograph
from imaging.picture_samples import saved

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown(levels, center, width):
    return np.clip((levels.astype(float) - center) / width + 0.5, 0, 1)


def deep(stored=RAMP, **elements):
    return read_deep(as_bytes(radiograph(stored, **elements)))


def test_a_window_cuts_the_radiograph_and_not_the_levels():
    seen, depth = deep(WindowCenter=1000, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(depth.levels, RAMP)
    assert (depth.bits, depth.ends) == (12, (0, 4095))
    assert (depth.center, depth.width) == pytest.approx((1000, 400))
    assert len(np.unique(seen.pixels)) < 405


def test_low_values_that_are_white_are_turned_round():
    _, depth = deep(
        PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=400, VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_array_equal(depth.levels, 4095 - RAMP)
    assert (depth.center, depth.width) == pytest.approx((3095, 400))


@settings(max_examples=20)
@given(
    st.floats(0.1, 4), st.integers(-2000, 2000), st.integers(500, 3500), st.integers(50, 6000), st.sampled_from(["1", "2"])
)
def test_the_window_shows_what_the_network_saw(slope, intercept, center, width, sense):
    seen, depth = deep(
        RescaleSlope=round(slope, 3), RescaleIntercept=intercept, WindowCenter=round(slope, 3) * center + intercept,
        WindowWidth=width, VOILUTFunction="LINEAR_EXACT", PhotometricInterpretation=f"MONOCHROME{sense}",
    )  # fmt: skip
    squeezed = 0.51 / depth.width  # a level is a whole number
    np.testing.assert_allclose(shown(depth.levels, depth.center, depth.width), seen.pixels, atol=max(2e-3, squeezed))


def test_pictures_keep_their_depth():
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    _, depth = read_deep(saved(eight))
    np.testing.assert_array_equal(depth.levels, eight)
    assert (depth.bits, depth.center, depth.width) == (8, 127.5, 255)
    _, depth = read_deep(saved((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16) // 3))
    assert depth.bits == 16
    assert len(np.unique(depth.levels)) == 256


def test_a_picture_is_no_dicom_whatever_stands_at_128():
    assert is_dicom(as_bytes(radiograph(RAMP)))
    assert not is_dicom(b"\x89PNG\r\n\x1a\n" + bytes(120) + b"DICM")
    with pytest.raises(BadImage, match=r"^empty file"):
        read_deep(b"")
