"""Where results say that something lies, and how gray they show it: in stored pixels, as dcmtk and plain arithmetic have it."""

import copy
import re
from dataclasses import replace

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image

from chestmap.imaging.read import ReadSettings, radiograph_of
from chestmap.reports.dicom import result_objects, write_dicom
from chestmap.reports.dicom.capture import drawn
from chestmap.reports.dicom.finding_marks import MarkedResult
from chestmap.reports.dicom.source_header import referenced
from chestmap.types import Box
from imaging.dicom_samples import as_bytes, chest, radiograph
from reports.dicom.conftest import (
    FOUND,
    HEIGHT,
    WIDTH,
    concept,
    corners,
    errors_of,
    expected,
    of_kind,
    predicted,
    run,
    walk,
)


def test_dsrdump_reads_the_boxes(written):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    text = run("dsrdump", "+Pl", written[0])
    shown = re.findall(r'CODE:\(,,"Finding"\)=\((\S+?),.*?NUM:\(,,"(.*?)"\)="(.*?)".*?POLYLINE,([^)]*)\)', text, re.DOTALL)
    assert [(code, name, float(value)) for code, name, value, _ in shown] == [
        ("8186001", "Cardiomegaly: Model score", 0.91),
        ("60046008", "Effusion: Model score", 0.64),
    ]
    boxes = [corners([float(number) for number in re.split("[,/]", points)]) for *_, points in shown]
    np.testing.assert_allclose(boxes, expected(prediction, "Cardiomegaly", "Effusion"), atol=1e-4)


def test_the_presentation_state_holds_the_same_boxes(results):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    (state,) = results["gsps"]
    boxes = [corners(item.GraphicObjectSequence[0].GraphicData) for item in state.GraphicAnnotationSequence]
    np.testing.assert_allclose(boxes, expected(prediction, "Cardiomegaly", "Effusion"), atol=1e-4)
    texts = [item.TextObjectSequence[0].UnformattedTextValue for item in state.GraphicAnnotationSequence]
    assert texts == ["Cardiomegaly 0.91", "Effusion 0.64"]
    layers = [item.GraphicLayer for item in state.GraphicLayerSequence]
    assert layers == [item.GraphicLayer for item in state.GraphicAnnotationSequence]
    assert len(set(layers)) == 2


@pytest.mark.parametrize("name", ["DX2", "DX1", "CR2", "CR1"])
def test_dcmtk_renders_the_state_as_the_image_itself(name, phantoms, about, tmp_path):
    """Not as a negative, which INVERSE left out would give; and what shines in the image shines in the box."""
    source = pydicom.dcmread(phantoms[name])
    prediction = predicted(WIDTH, HEIGHT, {"Mass": (0.9, (0.25, 0.5, 0.5, 0.75))})
    x0, y0, x1, y1 = (round(value) for value in prediction.boxes[0].corners)
    stored = source.pixel_array.copy()
    white = source.PhotometricInterpretation == "MONOCHROME2"
    stored[:], stored[y0:y1, x0:x1] = (stored.min(), stored.max()) if white else (stored.max(), stored.min())
    source.PixelData = stored.tobytes()
    image = tmp_path / "image.dcm"
    source.save_as(image)
    (path,) = write_dicom(source, prediction, about, tmp_path, ["gsps"])
    run("dcmp2pgm", "-p", path, image, tmp_path / "state.pgm")
    run("dcmj2pnm", "+Wi", "1", image, tmp_path / "plain.pgm")
    state, plain = (np.asarray(Image.open(tmp_path / f"{one}.pgm").convert("L"), float) for one in ("state", "plain"))
    assert np.corrcoef(state.ravel(), plain.ravel())[0, 1] > 0.999
    box = np.array(pydicom.dcmread(path).GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData).reshape(-1, 1, 2)
    inside = cv2.fillPoly(np.zeros(state.shape, np.uint8), [np.rint(box - 0.5).astype(np.int32)], 1) > 0
    ring = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))).astype(bool) & ~cv2.dilate(
        inside.astype(np.uint8), np.ones((3, 3))
    ).astype(bool)
    assert state[inside].mean() > 200
    assert state[ring].mean() < 50


def test_a_state_of_an_image_without_window_is_not_black(dx, about, tmp_path):
    """Twelve bits in sixteen: the full range of the stored bits would show next to nothing."""
    del dx.WindowCenter, dx.WindowWidth
    dx.BitsStored, dx.HighBit = 16, 15
    image = tmp_path / "image.dcm"
    dx.save_as(image)
    (path,) = write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["gsps"])
    run("dcmp2pgm", "-p", path, image, tmp_path / "state.pgm")
    assert np.ptp(np.asarray(Image.open(tmp_path / "state.pgm").convert("L"), float)) > 250


def test_a_modality_table_is_carried_over(dx, about, tmp_path):
    values = [65535 - 16 * number for number in range(4096)]
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "US", values)
    table.ModalityLUTType = "US"
    del dx.RescaleSlope, dx.RescaleIntercept, dx.RescaleType
    dx.ModalityLUTSequence = [table]
    (path,) = write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["gsps"])
    assert errors_of(path) == []
    assert pydicom.dcmread(path).ModalityLUTSequence[0].LUTData == values


@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "F"], ["L", "H"], ["F", "L"], None])
def test_boxes_lie_in_stored_pixels_whatever_the_orientation(orientation, dx, about):
    """The reader turns no pixels, so nothing is turned back: the network saw what is stored."""
    dx.PatientOrientation = orientation
    turned = radiograph_of(as_bytes(dx), "x", ReadSettings(views="any"))
    dx.PatientOrientation = ["L", "F"]
    np.testing.assert_array_equal(turned.pixels, radiograph_of(as_bytes(dx), "x").pixels)
    dx.PatientOrientation = orientation
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    (state,) = of_kind("gsps", dx, prediction, about)
    boxes = [corners(item.GraphicObjectSequence[0].GraphicData) for item in state.GraphicAnnotationSequence]
    np.testing.assert_allclose(boxes, expected(prediction, "Cardiomegaly", "Effusion"), atol=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_orientation_and_spacing_are_not_made_up(known, dx, about):
    if not known:
        del dx.PatientOrientation, dx.ImagerPixelSpacing
    (report,) = of_kind("sr", dx, predicted(WIDTH, HEIGHT, FOUND), about)
    said = [concept(item) for item in walk(report) if concept(item) in {"111044", "111043", "111026", "111066"}]
    assert len(said) == (4 if known else 0)


def test_an_image_space_of_another_size_is_scaled_to_the_stored_pixels(dx, about):
    prediction = predicted(1024, 1024, FOUND)
    (state,) = of_kind("gsps", dx, prediction, about)
    boxes = [corners(item.GraphicObjectSequence[0].GraphicData) for item in state.GraphicAnnotationSequence]
    x, y = WIDTH / 1024, HEIGHT / 1024
    wanted = [(a * x, b * y, c * x, d * y) for a, b, c, d in expected(prediction, "Cardiomegaly", "Effusion")]
    np.testing.assert_allclose(boxes, wanted, atol=1e-4)


def test_a_box_outside_the_image_is_cut_or_left_out(dx, about):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    boxes = (Box("Cardiomegaly", -20, -20, 40, 500, 0.9), Box("Effusion", 500, 500, 600, 600, 0.8))
    (report,) = of_kind("sr", dx, replace(prediction, boxes=boxes), about)
    assert [corners(item.GraphicData) for item in walk(report) if item.get("ValueType") == "SCOORD"] == [(0, 0, 40, HEIGHT)]


def test_segments_are_the_regions_that_the_boxes_go_around(about, dx):
    """On 97 x 121 pixels, no multiple of eight; a region elsewhere is not part of it."""
    dx.Rows, dx.Columns = 97, 121
    prediction = predicted(121, 97, FOUND)
    prediction.maps[1, 14:16, 3:5] = 1  # a second region of cardiomegaly, outside its box
    made = of_kind("seg", dx, prediction, about)
    assert [one.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning for one in made] == [
        "Cardiomegaly",
        "Pleural effusion",
    ]
    for one, box in zip(made, expected(prediction, "Cardiomegaly", "Effusion"), strict=True):
        bits = np.unpackbits(np.frombuffer(one.PixelData, np.uint8), bitorder="little")[: 97 * 121].reshape(97, 121)
        x0, y0, x1, y1 = (round(value) for value in box)
        filled = np.zeros_like(bits)
        filled[y0:y1, x0:x1] = 1
        assert (bits & filled).sum() / (bits | filled).sum() > 0.85
        assert len(one.SegmentSequence) == 1
        assert one.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]


def test_one_object_holds_every_segment(about, dx):
    """Where its segments are byte aligned; OHIF showed one of several objects in one series."""
    (made,) = of_kind("seg", dx, predicted(WIDTH, HEIGHT, FOUND), about)
    names = [one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for one in made.SegmentSequence]
    assert (names, made.NumberOfFrames) == (["Cardiomegaly", "Pleural effusion"], 2)
    dx.Rows, dx.Columns = 97, 121
    alone = of_kind("seg", dx, predicted(121, 97, FOUND), about)
    assert len({one.SeriesInstanceUID for one in alone}) == 2


def test_a_parametric_map_covers_the_image(dx, about):
    """Pixel by pixel, as OHIF lays it over the radiograph that the frame names: of a smaller map it makes stripes."""
    dx.Rows, dx.Columns, dx.ImagerPixelSpacing = 1200, 900, [0.2, 0.15]
    prediction = predicted(900, 1200, FOUND)
    made = of_kind("pmap", dx, prediction, about)[0]
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(made.Rows, made.Columns)
    assert (made.Rows, made.Columns) == (1200, 900)
    assert (values.min(), values.max()) == (0, 1)
    x0, y0, x1, y1 = expected(prediction, "Cardiomegaly")[0]
    center = values[round(y0) + 20 : round(y1) - 20, round(x0) + 20 : round(x1) - 20]
    assert center.min() == 1
    assert values[: round(y0) - 20].max() == 0
    shared, frame = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[0]
    rows, columns = shared.PixelMeasuresSequence[0].PixelSpacing
    assert (rows, columns) == pytest.approx((0.2, 0.15))
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == [0, 0, 0]
    (source,) = frame.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == dx.SOPInstanceUID


def test_a_color_capture_gets_no_gray_state(about):
    source = radiograph(np.stack([chest(HEIGHT, WIDTH, 8)] * 3, -1), SOPClassUID=pydicom.uid.SecondaryCaptureImageStorage)
    made = [kind for kind, _ in result_objects(source, predicted(WIDTH, HEIGHT, FOUND), about, ["gsps", "seg"])]
    assert made == ["seg"]


def test_the_picture_shows_no_patient_and_is_read_by_every_viewer(dx, about, tmp_path):
    """The same pixels for another name, id, date and image id; three bytes a pixel, uncompressed."""
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    first = drawn(MarkedResult(reference=referenced(dx), source=dx, prediction=prediction, about=about))
    other = copy.deepcopy(dx)
    other.PatientName, other.PatientID, other.StudyDate, other.PatientAge = "Marker^Name", "marker", "19990909", "099Y"
    np.testing.assert_array_equal(
        drawn(
            MarkedResult(
                reference=referenced(other), source=other, prediction=replace(prediction, image_id="marker"), about=about
            )
        ),
        first,
    )
    (path,) = write_dicom(dx, prediction, about, tmp_path, ["sc"])
    run("dcmj2pnm", path, tmp_path / "picture.ppm")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.ppm")), first)
