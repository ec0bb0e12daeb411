"""Result objects, read back by programs that did not write them: dciodvfy, dsrdump, dcmp2pgm, and plain walks through elements."""

import copy
import re
import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr._concepts_dict import concepts

from chestmap.data.image import ReadSettings, radiograph_of
from chestmap.errors import BadImage, BadInput
from chestmap.reports.dicom import KINDS, is_result, kinds_of, read_source, result_objects, write_dicom
from chestmap.reports.dicom.capture import drawn
from chestmap.reports.dicom.marks import Result
from chestmap.reports.dicom.source import referenced
from chestmap.types import Box, Findings
from chestmap.vocabulary import CODES, RADLEX, SITES
from data.dicom_samples import as_bytes, put
from reports.dicom.conftest import FOUND, HEIGHT, WIDTH, errors_of, predicted, run


def of_kind(kind, source, prediction, about):
    return [made for one, made in result_objects(source, prediction, about, [kind]) if one == kind]


def walk(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def groups_of(report):
    return [item for item in walk(report) if concept(item) == "125007"]


def concept(item):
    name = item.get("ConceptNameCodeSequence")
    return name[0].CodeValue if name else ""


def corners(numbers):
    x, y = numbers[0::2], numbers[1::2]
    return min(x), min(y), max(x), max(y)


def expected(prediction, *names):
    return [next(box.corners for box in prediction.boxes if box.finding == name) for name in names]


def test_every_kind_passes_dciodvfy(written):
    paths = written
    assert [path.name.split("-")[0] for path in paths] == ["sr", "gsps", "sc", "scores", "seg", "seg", "pmap", "pmap"]
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)  # nothing half-written stays


def test_a_computed_radiograph_with_white_low_passes_too(phantoms, about, tmp_path):
    source = pydicom.dcmread(phantoms["CR1"])
    paths = write_dicom(source, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["sr", "gsps", "sc"])
    assert [error for path in paths for error in errors_of(path)] == []


def test_a_real_radiograph_with_a_faulty_header(shared_data, about, tmp_path):
    """A secondary capture with an age of "62", without orientation, compressed by JPEG."""
    data = (shared_data("dicom") / "Fake_MONOHR1.dcm").read_bytes()
    source = read_source(data)
    paths = write_dicom(source, predicted(1024, 1024, FOUND), about, tmp_path, ["sr", "gsps", "seg", "pmap"])
    assert len(paths) == 6
    assert [error for path in paths for error in errors_of(path)] == []
    (state,) = [pydicom.dcmread(path) for path in paths if path.name.startswith("gsps")]
    assert state.PresentationLUTShape == "INVERSE"


def test_dsrdump_reads_the_boxes(written):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    text = run("dsrdump", "+Pl", written[0])
    shown = re.findall(r'CODE:\(,,"Finding"\)=\((\S+?),.*?NUM:\(,,"(.*?)"\)="(.*?)".*?POLYLINE,([^)]*)\)', text, re.DOTALL)
    assert [(code, name, float(value)) for code, name, value, _ in shown] == [
        ("8186001", "Cardiomegaly: Certainty of Finding", 91.0),
        ("60046008", "Effusion: Certainty of Finding", 64.0),
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


def test_present_is_claimed_from_a_chosen_operating_point_on_and_absent_never(dx, about, results):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    (report,) = results["sr"]
    claims = [
        [item.ConceptCodeSequence[0].CodeValue for item in walk(group) if concept(item) == "705057003"]
        for group in groups_of(report)
    ]
    assert claims == [["52101004"], []]  # effusion has no operating point: a box and a score, no claim
    for made in (made for several in results.values() for made in several):
        text = str(made)
        assert "272519000" not in text
        assert "Absent" not in text
    low = replace(about, operating_points={"Pleural Thickening": 0.1, "Cardiomegaly": 0.95})
    (report,) = of_kind("sr", dx, prediction, low)
    found = [item.ConceptCodeSequence[0].CodeMeaning for item in walk(report) if concept(item) == "121071"]
    assert found == ["Pleural effusion", "Pleural thickening"]


def test_results_join_the_study_in_series_of_their_own(dx, about, results):
    made = [(kind, one) for kind, several in results.items() for one in several]
    for kind, one in made:
        assert (one.StudyInstanceUID, one.PatientID, str(one.PatientName)) == (
            dx.StudyInstanceUID,
            dx.PatientID,
            str(dx.PatientName),
        )
        assert one.AccessionNumber == dx.AccessionNumber
        assert one.SeriesNumber == 9001 + KINDS.index(kind)
        assert one.ContributingEquipmentSequence[0].DeviceUID == about.device_uid
        assert is_result(one)
        if kind != "sc":
            assert dx.SOPInstanceUID in str(one)
    series = {kind: {one.SeriesInstanceUID for other, one in made if other == kind} for kind in KINDS}
    assert all(len(uids) == 1 for uids in series.values())
    assert len(set.union(*series.values())) == len(KINDS)
    assert len({one.SOPInstanceUID for _, one in made}) == len(made)
    assert not is_result(dx)


def test_identifiers_follow_from_source_and_model(dx, about):
    prediction = predicted(WIDTH, HEIGHT, FOUND)

    def uids(source, model):
        return [made.SOPInstanceUID for _, made in result_objects(source, prediction, model, ["gsps"])]

    first = uids(dx, about)
    assert uids(dx, about) == first
    other = copy.deepcopy(dx)
    other.SOPInstanceUID = "1.2.3"
    for changed in (
        uids(dx, replace(about, sha256="cd" * 32)),
        uids(other, about),
        uids(dx, replace(about, calibrated=True)),
    ):
        assert not set(changed) & set(first)
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in first)


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


def test_a_parametric_map_covers_the_image(dx, about):
    """At the same extent in mm as the radiograph, the first pixel's corner on that of the radiograph."""
    dx.Rows, dx.Columns, dx.ImagerPixelSpacing = 1200, 900, [0.2, 0.15]
    prediction = predicted(900, 1200, FOUND)
    made = of_kind("pmap", dx, prediction, about)[0]
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(made.Rows, made.Columns)
    assert (made.Rows, made.Columns) == (512, 384)
    assert (values.min(), values.max()) == (0, 1)
    x0, y0, x1, y1 = (value * 512 / 1200 for value in expected(prediction, "Cardiomegaly")[0])
    center = values[round(y0) + 8 : round(y1) - 8, round(x0) + 8 : round(x1) - 8]
    assert center.min() == 1
    assert values[: round(y0) - 8].max() == 0
    shared, frame = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[0]
    rows, columns = shared.PixelMeasuresSequence[0].PixelSpacing
    assert (rows * 512, columns * 384) == pytest.approx((1200 * 0.2, 900 * 0.15))
    x, y, _ = frame.PlanePositionSequence[0].ImagePositionPatient
    assert (x - columns / 2, y - rows / 2) == pytest.approx((-0.15 / 2, -0.2 / 2))


def test_nothing_found_is_told_as_text_that_rules_nothing_out(dx, about, tmp_path):
    paths = write_dicom(dx, predicted(WIDTH, HEIGHT, {}), about, tmp_path)
    assert [path.name.split("-")[0] for path in paths] == ["scores", "sc"]
    assert [error for path in paths for error in errors_of(path)] == []
    text = run("dsrdump", "+Pl", paths[0])
    assert "does not rule a finding out" in text
    assert "not calibrated" in text
    assert text.count("Certainty of Finding") == 14


def test_a_finding_without_a_place_is_not_lost(dx, about):
    prediction = replace(predicted(WIDTH, HEIGHT, FOUND), boxes=())
    kinds = [kind for kind, _ in result_objects(dx, prediction, about, ["sr"])]
    assert kinds == ["scores"]
    boxes = predicted(WIDTH, HEIGHT, FOUND).boxes[:1]
    kinds = [kind for kind, _ in result_objects(dx, replace(prediction, boxes=boxes), about, ["sr", "gsps"])]
    assert kinds == ["sr", "scores", "gsps"]


def test_damaged_elements_are_not_copied(dx, about, tmp_path):
    """What archives hold in fact; and names of findings that a user's table may hold."""
    damaged = {
        "PatientAge": "62", "PatientSex": "?", "StudyDate": "20201399", "StudyTime": "late", "PatientBirthDate": "1.1.1970",
        "WindowWidth": "0", "ImagerPixelSpacing": "0\\0", "PatientOrientation": "sideways", "SpecificCharacterSet": "ISO 9999",
        "LossyImageCompression": "maybe", "StudyID": "a very long identifier of a study", "Modality": "dx ",
        "PatientID": "7\r\n89" + "x" * 80, "StudyDescription": "\x1b[31mred",
    }  # fmt: skip
    for keyword, text in damaged.items():
        put(dx, keyword, text.encode())
    names = ("Maße\\größer " * 9, "Nodule", "=cmd|' /C calc'!A0", "Масса")
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    boxes = tuple(Box(name, 10 + 9 * place, 10, 60, 60, 0.9) for place, name in enumerate(names))
    prediction = replace(
        prediction, findings=Findings(names), boxes=boxes, scores=np.full(4, 0.9, np.float32), maps=prediction.maps[:4]
    )
    prediction.maps[:, 20:30, 20:30] = 1
    paths = write_dicom(dx, prediction, about, tmp_path, KINDS)
    assert len(paths) == 12
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    report = pydicom.dcmread(paths[0])
    assert report.PatientID == "789" + "x" * 61
    assert not report.StudyDate
    assert "PatientAge" not in report


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Rows"])
def test_a_header_that_cannot_carry_results_is_one_line(keyword, dx, about, tmp_path):
    del dx[keyword]
    with pytest.raises(BadImage, match=keyword) as caught:
        write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_named():
    with pytest.raises(BadInput, match='did you mean "gsps"'):
        kinds_of(["sr", "gspc"])
    assert kinds_of(["sc", "sr", "sc"]) == ("sc", "sr")


def test_the_picture_shows_no_patient_and_is_read_by_every_viewer(dx, about, tmp_path):
    """The same pixels for another name, id, date and image id; three bytes a pixel, uncompressed."""
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    first = drawn(Result(referenced(dx), dx, prediction, about))
    other = copy.deepcopy(dx)
    other.PatientName, other.PatientID, other.StudyDate, other.PatientAge = "Marker^Name", "marker", "19990909", "099Y"
    np.testing.assert_array_equal(
        drawn(Result(referenced(other), other, replace(prediction, image_id="marker"), about)), first
    )
    (path,) = write_dicom(dx, prediction, about, tmp_path, ["sc"])
    run("dcmj2pnm", path, tmp_path / "picture.ppm")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.ppm")), first)


def test_own_results_are_not_taken_for_radiographs(dx, about, tmp_path):
    """Else a node that gets them back would write results of results."""
    (path,) = write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["sc"])
    with pytest.raises(BadImage, match="chestmap wrote"):
        radiograph_of(path.read_bytes(), "x")


def test_what_read_source_keeps_is_enough(dx, about):
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    for kind in ("sr", "gsps"):
        (one,), (two,) = of_kind(kind, dx, prediction, about), of_kind(kind, read_source(as_bytes(dx)), prediction, about)
        one, two = (re.sub(r"\d{6}(\d{8})?\.\d+|'\d{6,8}'", "TIME", str(made)) for made in (one, two))
        assert one == two


def test_codes_fit_their_types_and_stand_in_the_standard():
    for code in (*CODES.values(), *RADLEX.values(), *SITES.values()):
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64
        assert len(code.scheme) <= 16
    listed = {value for names in concepts["SCT"].values() for value in names}
    assert {code.value for code in SITES.values()} <= listed
    confirmed = {
        "Effusion",
        "Mass",
        "Nodule",
        "Pneumothorax",
        "Edema",
        "No Finding",
        "Lung Lesion",
        "Lung Cyst",
        "Calcification",
    }
    assert {CODES[name].value for name in confirmed} <= listed
    assert set(RADLEX) <= set(CODES)
    assert set(SITES) <= set(CODES)


@pytest.mark.slow
def test_pixelmed_finds_no_error(phantoms, shared_data, about, tmp_path):
    """The validator of IHE's connectathons. XPath limits of newer Java are lifted, else it stops before the end."""
    if shutil.which("DicomSRValidator") is None:
        pytest.skip("DicomSRValidator is absent: apt-get install pixelmed-apps libpixelmed-java default-jre-headless")
    real = pydicom.dcmread(shared_data("dicom") / "Fake_MONOHR1.dcm")
    paths = write_dicom(pydicom.dcmread(phantoms["DX1"]), predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["sr", "scores"])
    paths += write_dicom(real, predicted(1024, 1024, FOUND), about, tmp_path, ["sr"])
    limits = " ".join(f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprGrp", "ExprOp"))
    for path in paths:
        done = subprocess.run(
            ["DicomSRValidator", str(path)],
            capture_output=True,
            text=True,
            check=False,
            env={"JAVA_TOOL_OPTIONS": limits, "PATH": "/usr/bin:/bin"},
        )
        said = done.stdout + done.stderr
        assert "IOD validation complete" in said
        assert [line for line in said.splitlines() if line.startswith("Error")] == []
