"""From stored values to greys, against the formulas of PS3.3 worked one pixel at a time."""

import math

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from chestmap.imaging.dicom import read_dicom
from chestmap.imaging.limits import LIMITS
from chestmap.types import Radiograph
from imaging.dicom_samples import as_bytes, chest, compressed, look_up_table, radiograph

STORED = chest()
VALUES = STORED.astype(float)


def shown(stored: np.ndarray = STORED, **elements: object) -> Radiograph:
    return read_dicom(as_bytes(radiograph(stored, **elements)), LIMITS)


def by_pixel(function, values: np.ndarray = VALUES) -> np.ndarray:
    return np.array([[function(float(value)) for value in row] for row in values])


def linear(value: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1, word for word."""
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if value > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (center - 0.5)) / (width - 1) + 0.5


def linear_exact(value: float, center: float, width: float) -> float:
    if value <= center - width / 2:
        return 0.0
    if value > center + width / 2:
        return 1.0
    return (value - center) / width + 0.5


def sigmoid(value: float, center: float, width: float) -> float:
    return 1 / (1 + math.exp(min(-4 * (value - center) / width, 700)))


@pytest.mark.parametrize(("name", "function"), [("LINEAR", linear), ("LINEAR_EXACT", linear_exact), ("SIGMOID", sigmoid)])
@pytest.mark.parametrize(("center", "width"), [(2047.5, 4096), (1800, 900), (2048, 2), (300.25, 1000.5)])
def test_window_functions(name: str, function, center: float, width: float) -> None:
    image = shown(WindowCenter=center, WindowWidth=width, VOILUTFunction=name)
    np.testing.assert_allclose(image.pixels, by_pixel(lambda value: function(value, center, width)), atol=1e-6)
    assert image.done == (f"window center {center:g} width {width:g} ({name})",)


def test_a_window_of_width_one_is_a_step() -> None:
    np.testing.assert_array_equal(shown(WindowCenter=2000, WindowWidth=1).pixels, VALUES > 1999.5)


def test_modality_then_window_then_inversion() -> None:
    """Worked by hand for the stored value 100: 2 x 100 - 50 = 150; (150 - 149.5) / 199 + 0.5 = 0.50251; inverted 0.49749."""
    stored = np.tile(np.array([100, 75, 0, 125, 4000], np.uint16), (16, 4))
    image = shown(
        stored,
        RescaleSlope=2,
        RescaleIntercept=-50,
        WindowCenter=150,
        WindowWidth=200,
        PhotometricInterpretation="MONOCHROME1",
    )
    expected = [0.497487, 1 - (100 - 149.5) / 199 - 0.5, 1.0, 1 - (200 - 149.5) / 199 - 0.5, 0.0]
    np.testing.assert_allclose(image.pixels[0, :5], expected, atol=1e-6)
    assert image.done == (
        "rescaled: 2 x value -50",
        "window center 150 width 200 (LINEAR)",
        "inverted: low values are white in this file",
    )


def test_modality_table_before_voi_table() -> None:
    """Both tables are worked through one after the other, with inputs outside of each held at its ends."""
    modality = [7 * entry % 1000 for entry in range(3000)]
    voi = [min(entry * entry // 200, 4095) for entry in range(800)]
    image = shown(
        ModalityLUTSequence=[look_up_table(500, modality, 16)],
        VOILUTSequence=[look_up_table(100, voi, 12), look_up_table(0, [1, 2], 8)],
        WindowCenter=1,
        WindowWidth=2,
    )

    def worked(value: float) -> float:
        between = modality[min(max(int(value) - 500, 0), 2999)]
        return voi[min(max(between - 100, 0), 799)] / 4095

    np.testing.assert_allclose(image.pixels, by_pixel(worked), atol=1e-6)
    assert image.done == ("modality LUT of 3000 entries", "VOI LUT of 800 entries")


def test_a_table_that_starts_below_zero() -> None:
    entries = list(range(4096))
    image = shown(RescaleSlope=1, RescaleIntercept=-2000, VOILUTSequence=[look_up_table(-2000, entries, 12)])
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    unsigned = look_up_table(0, entries, 12)
    unsigned["LUTDescriptor"].value = [4096, 65536 - 2000, 12]
    again = shown(RescaleSlope=1, RescaleIntercept=-2000, VOILUTSequence=[unsigned])
    np.testing.assert_array_equal(again.pixels, image.pixels)


def test_a_table_of_65536_entries_writes_its_count_as_zero() -> None:
    entries = [65535 - entry for entry in range(65536)]
    image = shown(chest(bits=16), BitsStored=16, HighBit=15, VOILUTSequence=[look_up_table(0, entries, 16)])
    np.testing.assert_allclose(image.pixels, 1 - chest(bits=16) / 65535, atol=1e-6)


@pytest.mark.parametrize("vr", ["OW", "US"])
def test_a_table_of_packed_bytes(vr: str) -> None:
    entries = np.arange(256, dtype=np.uint8)[::-1].copy()
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", vr, entries.tobytes() if vr == "OW" else entries.view("<u2").tolist())
    image = shown(chest(bits=8), VOILUTSequence=[item])
    np.testing.assert_allclose(image.pixels, 1 - chest(bits=8) / 255, atol=1e-6)


def test_a_table_that_promises_more_bits_than_it_uses_is_not_left_in_the_dark() -> None:
    image = shown(VOILUTSequence=[look_up_table(0, list(range(4096)), 16)])
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    assert image.done == ("VOI LUT of 4096 entries that says 16 bits and reaches 4095: taken as white",)


def test_without_a_window_the_used_range_is_shown_and_eight_bits_as_they_are() -> None:
    stored = (STORED // 8 + 900).astype(np.uint16)
    image = shown(stored)
    np.testing.assert_allclose(image.pixels, (stored - 900) / 511, atol=1e-6)
    assert image.done == ("no window: 900 is black, 1411 white",)
    eight = (chest(bits=8) // 2 + 20).astype(np.uint8)
    np.testing.assert_allclose(shown(eight).pixels, eight / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("elements", "note"),
    [
        ({"WindowCenter": b"abc", "WindowWidth": b"100"}, "window is no pair of numbers with a positive width: ignored"),
        ({"WindowCenter": b"100", "WindowWidth": b"nan"}, "window is no pair of numbers with a positive width: ignored"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "window is no pair of numbers with a positive width: ignored"),
        ({"WindowCenter": 100, "WindowWidth": -5}, "window is no pair of numbers with a positive width: ignored"),
        ({"WindowCenter": 30_000, "WindowWidth": 10}, "window center 30000 width 10 (LINEAR) leaves a single grey: ignored"),
        ({"VOILUTSequence": [Dataset()]}, "VOI LUT is damaged: ignored"),
    ],
)
def test_a_window_that_makes_no_sense_is_ignored_and_told(elements: dict[str, object], note: str) -> None:
    image = shown(**elements)
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    assert image.done == (note, "no window: 0 is black, 4095 white")


def test_the_first_of_several_windows() -> None:
    image = shown(WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    np.testing.assert_allclose(image.pixels, by_pixel(lambda value: linear(value, 1000, 500)), atol=1e-6)
    assert image.done[0] == "first of 2 windows"


def test_an_unknown_window_function_is_linear() -> None:
    image = shown(WindowCenter=1000, WindowWidth=500, VOILUTFunction="CUBIC")
    np.testing.assert_allclose(image.pixels, by_pixel(lambda value: linear(value, 1000, 500)), atol=1e-6)
    assert "VOI LUT function CUBIC is unknown: LINEAR" in image.done


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "contradiction"),
    [
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_inversion(photometric: str, shape: str | None, inverted: bool, contradiction: bool) -> None:
    image = shown(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    np.testing.assert_allclose(image.pixels, 1 - VALUES / 4095 if inverted else VALUES / 4095, atol=1e-6)
    assert any("contradicts" in note for note in image.done) == contradiction


def test_a_negative_slope_inverts_once() -> None:
    image = shown(RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(image.pixels, by_pixel(lambda value: linear(4095 - value, 2048, 4096)), atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(photometric: str) -> None:
    stored = np.clip(STORED, 500, 3000)
    stored[:6] = 4095
    image = shown(stored, PixelPaddingValue=4095, PhotometricInterpretation=photometric)
    expected = (np.clip(STORED, 500, 3000) - 500) / 2500
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(image.pixels[6:], expected[6:], atol=1e-6)
    assert (image.pixels[:6] == 0).all()
    assert image.done[0] == "padding value 4095 shown black"


def test_a_range_of_padding_values() -> None:
    image = shown(PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    assert (image.pixels[STORED >= 4000] == 0).all()
    assert image.pixels[STORED < 4000].max() == 1
    assert image.done[0] == "padding value 4000 to 4095 shown black"


def test_padding_that_needs_the_high_bits_and_padding_of_the_wrong_sign() -> None:
    stored = STORED.copy()
    stored[:6] = 63536  # -2000 in two's complement, beside 12 stored bits
    image = shown(stored, PixelPaddingValue=63536)
    assert (image.pixels[:6] == 0).all()
    np.testing.assert_allclose(image.pixels[6:], VALUES[6:] / 4095, atol=1e-6)
    signed = (STORED.astype(np.int16) - 2000).astype(np.int16)
    signed[:6] = -2000
    dataset = radiograph(signed, BitsStored=16, HighBit=15)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    again = read_dicom(as_bytes(dataset), LIMITS)
    assert (again.pixels[:6] == 0).all()


def test_bits_outside_the_stored_ones_are_cut_off() -> None:
    junk = np.random.default_rng(0).integers(0, 16, STORED.shape).astype(np.uint16) << 12
    np.testing.assert_allclose(shown(STORED | junk).pixels, VALUES / 4095, atol=1e-6)
    low = np.random.default_rng(1).integers(0, 4, STORED.shape).astype(np.uint16)
    shifted = (STORED << 2) | low
    np.testing.assert_allclose(shown(shifted, HighBit=13).pixels, VALUES / 4095, atol=1e-6)
    told = shown(HighBit=5)
    np.testing.assert_allclose(told.pixels, VALUES / 4095, atol=1e-6)
    assert told.done[0] == "high bit 5 is impossible: 11"


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_signed_values(syntax: str) -> None:
    signed = (STORED.astype(np.int32) - 2048).astype(np.int16)
    dataset = radiograph(signed, BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=4096)
    if syntax != uid.ExplicitVRLittleEndian:
        masked = radiograph(signed.view(np.uint16) & 0xFFF, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
        dataset = compressed(masked, syntax)
    image = read_dicom(as_bytes(dataset), LIMITS)
    np.testing.assert_allclose(image.pixels, by_pixel(lambda value: linear(value - 2048, 0, 4096)), atol=1e-6)
