"""Transfer syntaxes, kinds, views and odd headers; `test_grayscale.py` has the greys, `test_dicom_oracle.py` dcmtk."""

import logging
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from chestmap.errors import BadImage
from chestmap.imaging.dicom import read_dicom
from chestmap.imaging.dicom_pixels import FRAMES
from chestmap.imaging.dicom_pixels import NATIVE as UNCOMPRESSED
from chestmap.imaging.limits import LIMITS
from chestmap.imaging.read import ReadSettings, read_radiograph
from chestmap.types import Radiograph
from imaging.dicom_samples import LOSSLESS, LOSSY, NATIVE, as_bytes, chest, compressed, frame, radiograph

STORED = chest()
VALUES = STORED.astype(float)


def shown(stored: np.ndarray = STORED, *, any_view: bool = False, **elements: object) -> Radiograph:
    return read_dicom(as_bytes(radiograph(stored, **elements)), LIMITS, any_view=any_view)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("kind", ["12 bit", "8 bit", "color"])
def test_lossless_transfer_syntaxes_change_nothing(syntax: str, kind: str) -> None:
    stored = {
        "12 bit": STORED,
        "8 bit": chest(bits=8),
        "color": np.dstack([chest(bits=8), STORED >> 5, STORED >> 6]).astype("u1"),
    }
    dataset = radiograph(stored[kind])
    plain = read_dicom(as_bytes(dataset), LIMITS)
    image = read_dicom(as_bytes(compressed(dataset, syntax)), LIMITS)
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert image.patient_id == "patient-7"
    assert (f"decompressed ({syntax.name})" in image.done) == (syntax not in NATIVE)


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda syntax: syntax.name)
def test_lossy_transfer_syntaxes_change_little(syntax: str) -> None:
    stored = chest(bits=8 if syntax == uid.JPEGBaseline8Bit else 12)
    window = {"WindowCenter": int(stored.max()) / 2 + 0.5, "WindowWidth": int(stored.max()) + 1}
    image = read_dicom(as_bytes(compressed(radiograph(stored, **window), syntax)), LIMITS)
    np.testing.assert_allclose(image.pixels, stored / stored.max(), atol=0.03)


def test_jpeg_ls_padded_to_an_even_length_with_any_byte() -> None:
    """DCMTK leaves there what the memory held before."""
    dataset = radiograph(STORED)
    plain, packed = read_dicom(as_bytes(dataset), LIMITS), frame(STORED, uid.JPEGLSLossless, 12).rstrip(b"\0")
    packed_dataset = compressed(dataset, uid.JPEGLSLossless)
    packed_dataset.PixelData = encapsulate([packed + b"Z" if len(packed) % 2 else packed + b"\0\0"])
    np.testing.assert_array_equal(read_dicom(as_bytes(packed_dataset), LIMITS).pixels, plain.pixels)


def test_overshoot_of_a_lossy_codec_does_not_wrap_around_to_black() -> None:
    """Ten stored bits in a 12-bit JPEG whose values go a little over 1023: a mask would make them 0."""
    stored = np.where(STORED > 2000, 1040, 200).astype(np.uint16)
    dataset = compressed(radiograph(stored, BitsStored=12, HighBit=11), uid.JPEGExtended12Bit)
    dataset.BitsStored, dataset.HighBit = 10, 9
    image = read_dicom(as_bytes(dataset), LIMITS)
    assert image.pixels[stored == 1040].min() > 0.95


def test_every_transfer_syntax_that_is_read_was_tried() -> None:
    untried = {uid.HTJ2K, uid.HTJ2KLosslessRPCL}  # decoded by what decodes HTJ2KLossless; nothing here writes them
    assert set(FRAMES) | set(UNCOMPRESSED) == {*NATIVE, *LOSSLESS, *LOSSY, *untried}


def test_color_by_plane_and_the_luma_kinds() -> None:
    red, green, blue = chest(bits=8), chest(bits=8)[::-1], (STORED >> 5).astype(np.uint8)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    by_pixel_image = shown(np.dstack([red, green, blue]))
    np.testing.assert_allclose(by_pixel_image.pixels, luma / 255, atol=1e-6)
    assert by_pixel_image.done == ("color turned to luma (Rec. 601)",)
    planes = shown(np.dstack([red, green, blue]), PlanarConfiguration=1, PixelData=b"".join(map(bytes, (red, green, blue))))
    np.testing.assert_array_equal(planes.pixels, by_pixel_image.pixels)
    full = shown(np.dstack([red, np.full_like(red, 128), np.full_like(red, 128)]), PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(full.pixels, red / 255, atol=1e-6)
    assert full.done == ("luma of YBR_FULL kept",)
    colored = shown(np.dstack([red, green, blue]), PhotometricInterpretation="YBR_FULL")
    assert colored.done == ("luma of YBR_FULL kept, color dropped",)
    halved = np.stack([red[:, ::2], red[:, 1::2], np.full_like(red[:, ::2], 128), np.full_like(red[:, ::2], 128)], -1)
    image = shown(np.dstack([red] * 3), PhotometricInterpretation="YBR_FULL_422", PixelData=halved.tobytes())
    np.testing.assert_allclose(image.pixels, red / 255, atol=1e-6)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
def test_color_jpeg_is_read_by_its_own_marks(photometric: str) -> None:
    grey = chest(bits=8)
    dataset = compressed(radiograph(np.dstack([grey] * 3)), uid.JPEGBaseline8Bit)
    dataset.PhotometricInterpretation = photometric
    np.testing.assert_allclose(read_dicom(as_bytes(dataset), LIMITS).pixels, grey / 255, atol=3 / 255)


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("BitsStored", "no BitsStored: 16"),
        ("HighBit", "no HighBit: 11"),
        ("SamplesPerPixel", "no SamplesPerPixel: 1"),
        ("PixelRepresentation", "no PixelRepresentation: 0"),
        ("Modality", "no modality: taken for a radiograph"),
        ("SOPClassUID", "no SOP class: taken for a radiograph"),
    ],
)
def test_a_missing_element_gets_its_default_and_is_told(missing: str, note: str) -> None:
    image = shown(**{missing: None})
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    assert note in image.done


def test_half_a_rescale_is_completed() -> None:
    assert "no RescaleIntercept: 0" in shown(RescaleSlope=2).done
    assert "no RescaleSlope: 1" in shown(RescaleIntercept=5).done


def test_no_transfer_syntax_means_the_default() -> None:
    dataset = compressed(radiograph(STORED), uid.ImplicitVRLittleEndian)
    content = as_bytes(dataset)
    start = content.index(b"\x02\0\x10\0UI")
    end = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
    image = read_dicom(content[:start] + content[end:], LIMITS)
    np.testing.assert_allclose(image.pixels, VALUES / 4095, atol=1e-6)
    assert image.done[0] == "no transfer syntax: the default, Implicit VR Little Endian"


@pytest.mark.parametrize(
    ("position", "view", "note"),
    [
        ("PA", "PA", None),
        ("ap", "AP", None),
        (None, "", None),
        ("", "", None),
        ("LLD", "", "view LLD: decubitus, taken for a frontal view"),
        ("ERECT", "", "view ERECT: unknown, taken for a frontal view"),
    ],
)
def test_frontal_views(position: str | None, view: str, note: str | None) -> None:
    image = shown(ViewPosition=position)
    assert image.view == view
    assert any("view" in told for told in image.done) == (note is not None)
    assert note is None or note in image.done


@pytest.mark.parametrize(
    ("value", "scheme", "view"),
    [("272479007", "SCT", "PA"), ("399348003", "SCT", "AP"), ("R-10206", "SRT", "AP"), ("399173006", "SCT", "lateral")],
)
def test_the_code_of_the_view_stands_in_for_its_name(value: str, scheme: str, view: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "whatever"
    if view == "lateral":
        with pytest.raises(BadImage, match="lateral view"):
            shown(ViewPosition=None, ViewCodeSequence=[code])
    else:
        assert shown(ViewPosition=None, ViewCodeSequence=[code]).view == view


def test_lateral_views_on_request(tmp_path: Path) -> None:
    assert shown(ViewPosition="LL", any_view=True).view == "LATERAL"
    assert shown(ViewPosition="RAO", any_view=True).view == ""
    path = tmp_path / "side.dcm"
    path.write_bytes(as_bytes(radiograph(STORED, ViewPosition="LATERAL")))
    assert read_radiograph(path, ReadSettings(views="any")).view == "LATERAL"


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "DR", "OT"])
def test_modalities_that_hold_radiographs(modality: str) -> None:
    assert shown(Modality=modality).patient_id == "patient-7"
    assert shown(Modality=modality, SOPClassUID=uid.SecondaryCaptureImageStorage).view == "PA"


@pytest.mark.parametrize("part", ["CHEST", "Thorax", "CHESTABDOMEN", "PORT CHEST", "", None])
def test_parts_that_show_the_chest(part: str | None) -> None:
    assert not any("body part" in note for note in shown(BodyPartExamined=part).done)


def test_a_part_nobody_listed_is_let_through_and_told() -> None:
    assert "body part TORSO: not in the list, taken for a chest" in shown(BodyPartExamined="TORSO").done


@pytest.mark.parametrize(
    ("spacings", "expected"),
    [
        ({}, (0.2, 0.2)),
        ({"PixelSpacing": [0.14, 0.15]}, (0.2, 0.2)),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": [0.14, 0.1401]}, (0.14, 0.1401)),
        ({"ImagerPixelSpacing": None, "PixelSpacing": b"0.1\\x"}, None),
        ({"ImagerPixelSpacing": None}, None),
    ],
)
def test_spacing(spacings: dict[str, object], expected: tuple[float, float] | None) -> None:
    assert shown(**spacings).spacing_mm == expected


def test_what_is_noted_of_a_file_that_could_mislead() -> None:
    told = shown(
        PatientOrientation=["R", "H"], BurnedInAnnotation="YES", PresentationIntentType="FOR PROCESSING",
        SOPClassUID=uid.DigitalXRayImageStorageForProcessing,
    ).done  # fmt: skip
    assert told[0].startswith("raw detector image (FOR PROCESSING)")
    assert "patient orientation R\\H: pixels kept as stored" in told
    assert "burned-in annotation: text stays in the picture" in told
    assert shown(PatientOrientation=["L", "F"]).done == shown().done


def test_overlays_are_no_pixels() -> None:
    dataset = radiograph(STORED)
    dataset.add_new(0x60000010, "US", 48)
    dataset.add_new(0x60000011, "US", 64)
    dataset.add_new(0x60003000, "OW", b"\xff" * 384)
    np.testing.assert_array_equal(read_dicom(as_bytes(dataset), LIMITS).pixels, shown().pixels)


def test_pixels_after_the_image_are_ignored_and_told() -> None:
    image = shown(PixelData=STORED.tobytes() + bytes(100))
    np.testing.assert_array_equal(image.pixels, shown().pixels)
    assert "100 bytes after the pixels ignored" in image.done


@pytest.mark.parametrize("value", [b"A\r\nX-Evil: 1", b"\x1b[31mred", b"x" * 64])
def test_a_patient_id_stays_on_its_line(value: bytes) -> None:
    patient = shown(PatientID=value).patient_id
    assert patient
    assert patient.isprintable()


def test_text_of_any_character_set() -> None:
    assert shown(SpecificCharacterSet="ISO_IR 192", PatientID="山田-7".encode()).patient_id == "山田-7"
    assert shown(SpecificCharacterSet=b"ISO 9999", PatientID=b"p-1").patient_id == "p-1"


def test_a_preamble_may_hold_anything() -> None:
    content = as_bytes(radiograph(STORED))
    np.testing.assert_array_equal(read_dicom(b"<script>".ljust(128) + content[128:], LIMITS).pixels, shown().pixels)


def test_remarks_of_pydicom_reach_nobody(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """From four threads at once, and the filters are as before when all are done."""
    before = list(warnings.filters)
    odd = as_bytes(radiograph(STORED, SpecificCharacterSet=b"ISO 9999", PatientID=b"\xff" * 70, WindowCenter=b"1x"))
    caplog.clear()  # of what writing the file caused
    failures = []

    def read_many() -> None:
        try:
            for _ in range(10):
                read_dicom(odd, LIMITS)
        except Exception as problem:
            failures.append(problem)

    threads = [threading.Thread(target=read_many) for _ in range(4)]
    with caplog.at_level(logging.DEBUG):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert list(warnings.filters) == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger("pydicom").propagate


def test_real_files(shared_data) -> None:
    """The second is the first with MONOCHROME1 written into its header, so it must come out as its negative."""
    folder = shared_data("dicom")
    real = read_radiograph(folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    assert (real.view, real.spacing_mm, real.pixels.shape) == ("PA", (0.168, 0.168), (1024, 1024))
    assert real.image_id == "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    spine, lung = real.pixels[400:900, 480:600].mean(), real.pixels[350:500, 280:350].mean()
    assert spine > 0.7 > 0.45 > lung
    negative = read_radiograph(folder / "Fake_MONOHR1.dcm")
    np.testing.assert_allclose(negative.pixels, 1 - real.pixels, atol=1e-6)
    assert negative.done[-1] == "inverted: low values are white in this file"
