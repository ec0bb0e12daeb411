"""Result objects, read back by programs that did not write them: dciodvfy, dsrdump, dcmp2pgm, and plain walks through elements."""

import copy
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.sr._concepts_dict import concepts

from chestmap.errors import BadImage, BadInput
from chestmap.imaging.read import radiograph_of
from chestmap.reports.dicom import KINDS, is_result, kinds_of, read_source, result_objects, write_dicom
from chestmap.reports.dicom.finding_marks import MarkedResult
from chestmap.reports.dicom.source_header import referenced
from chestmap.reports.dicom.sr import boxes_report
from chestmap.types import Box, Findings
from chestmap.vocabulary import CODES, RADLEX, SITES
from imaging.dicom_samples import as_bytes, put
from reports.dicom.conftest import (
    FOUND,
    HEIGHT,
    WIDTH,
    concept,
    errors_of,
    of_kind,
    predicted,
    run,
    walk,
)


def test_every_kind_passes_dciodvfy(written):
    paths = written
    assert [path.name.split("-")[0] for path in paths] == ["sr", "gsps", "sc", "scores", "seg", "pmap", "pmap"]
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
    assert len(paths) == 5
    assert [error for path in paths for error in errors_of(path)] == []
    (state,) = [pydicom.dcmread(path) for path in paths if path.name.startswith("gsps")]
    assert state.PresentationLUTShape == "INVERSE"


def test_a_report_of_a_model_is_preliminary_and_states_no_presence(dx, about, results):
    """It says from where a finding is called, what the score is, and that nobody has verified it; presence is for a reader."""
    known = replace(about, measured={"Cardiomegaly": {"sensitivity": 0.9, "PPV": 0.21}}, calibrated=("Cardiomegaly",))
    (report,) = of_kind("sr", dx, predicted(WIDTH, HEIGHT, FOUND), known)
    comments = [item.TextValue for item in walk(report) if concept(item) == "121106"]
    assert comments[0] == (
        "Called by the model: score 0.91, called from 0.40; on validation images: sensitivity 0.90, PPV 0.21. Not verified."
    )
    assert comments[1].startswith("Shown from a score of 0.50, here 0.64; the model has no operating point")
    assert comments[2].startswith("AI result for research, not for diagnosis.")
    assert "calibrated probabilities, but not those of Effusion" in comments[2]
    for made in (report, *results["sr"], *results["scores"]):
        assert (made.PreliminaryFlag, made.CompletionFlag, made.VerificationFlag) == (
            "PRELIMINARY",
            "COMPLETE",
            "UNVERIFIED",
        )
    for made in (made for several in results.values() for made in several):
        assert not [word for word in ("52101004", "272519000", "Absent", "Presence") if word in str(made)]
    low = replace(about, operating_points={"Pleural Thickening": 0.1, "Cardiomegaly": 0.95})
    (report,) = of_kind("sr", dx, predicted(WIDTH, HEIGHT, FOUND), low)
    found = [item.ConceptCodeSequence[0].CodeMeaning for item in walk(report) if concept(item) == "121071"]
    assert found == ["Pleural effusion", "Pleural thickening"]


def test_a_score_is_a_certainty_where_it_is_calibrated_and_nowhere_else(dx, about):
    """One finding of two has a calibration; before, the report claimed it of both."""
    known = replace(about, calibrated=("Cardiomegaly",))
    (report,) = of_kind("sr", dx, predicted(WIDTH, HEIGHT, FOUND), known)
    numbers = {
        item.ConceptNameCodeSequence[0].CodeMeaning: (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for item in walk(report)
        if item.get("ValueType") == "NUM"
    }
    assert numbers["Cardiomegaly: Certainty of Finding"] == (91, "%")
    assert numbers["Effusion: Model score"] == (0.64, "1")
    (scores,) = of_kind("scores", dx, predicted(WIDTH, HEIGHT, FOUND), known)
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in walk(scores) if item.get("ValueType") == "NUM"]
    assert [name for name in names if "Certainty" in name] == ["Cardiomegaly: Certainty of Finding"]
    kinds = [item.ValueType for item in walk(scores) if item.get("ValueType") in {"NUM", "TEXT"}]
    assert kinds[-15:][0] == "TEXT"  # words come before numbers


def test_results_join_the_study_in_series_of_their_own(dx, about, results):
    made = [(kind, one) for kind, several in results.items() for one in several]
    for kind, one in made:
        assert (one.StudyInstanceUID, one.PatientID, str(one.PatientName)) == (
            dx.StudyInstanceUID,
            dx.PatientID,
            str(dx.PatientName),
        )
        assert one.AccessionNumber == dx.AccessionNumber
        number = 1 + KINDS.index(kind)
        assert one.SeriesNumber in ({9601, 9602} if kind == "pmap" else {9000 + number})
        assert one.ContributingEquipmentSequence[0].DeviceUID == about.device_uid
        assert is_result(one)
        if kind != "sc":
            assert dx.SOPInstanceUID in str(one)
    series = {kind: {one.SeriesInstanceUID for other, one in made if other == kind} for kind in KINDS}
    assert {kind: len(uids) for kind, uids in series.items()} == {kind: 2 if kind == "pmap" else 1 for kind in KINDS}
    assert len(set.union(*series.values())) == len(KINDS) + 1  # viewers show one object of a series, and there are two maps
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
        uids(dx, replace(about, calibrated=("Mass",))),
        uids(dx, replace(about, revision=1)),
    ):
        assert not set(changed) & set(first)
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in first)


def test_nothing_found_is_told_as_text_that_rules_nothing_out(dx, about, tmp_path):
    paths = write_dicom(dx, predicted(WIDTH, HEIGHT, {}), about, tmp_path)
    assert [path.name.split("-")[0] for path in paths] == ["scores", "sc"]
    assert [error for path in paths for error in errors_of(path)] == []
    text = run("dsrdump", "+Pl", paths[0])
    assert "does not rule a finding out" in text
    assert "not calibrated" in text
    assert text.count(": Model score") == 14


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
    assert len(paths) == 9  # one segmentation holds the segments of all four findings
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    report = pydicom.dcmread(paths[0])
    assert report.PatientID == "789" + "x" * 61
    assert not report.StudyDate
    assert "PatientAge" not in report


def test_what_is_no_single_radiograph_is_refused_by_name(dx, about):
    dx.SOPClassUID = pydicom.uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    with pytest.raises(BadImage, match="Multi-frame Grayscale Word"):
        list(result_objects(dx, predicted(WIDTH, HEIGHT, FOUND), about, ["gsps"]))
    dx.SOPClassUID, dx.Rows = pydicom.uid.ComputedRadiographyImageStorage, 60_000
    with pytest.raises(BadImage, match="120 x 60000"):
        list(result_objects(dx, predicted(WIDTH, HEIGHT, FOUND), about, ["gsps"]))


def test_a_name_in_another_script_comes_through(dx, about):
    dx.SpecificCharacterSet, name = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dx.PatientName = name
    (state,) = of_kind("gsps", read_source(as_bytes(dx)), predicted(WIDTH, HEIGHT, FOUND), about)
    assert (str(state.PatientName), state.SpecificCharacterSet) == (name, "ISO_IR 192")


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


def test_a_report_lends_nothing_to_the_objects_after_it(phantoms, about):
    """highdicom wants a spacing and an orientation, which this header lacks."""
    source = pydicom.dcmread(phantoms["DX2"])
    source.ImagerPixelSpacing = source.PatientOrientation = None
    result = MarkedResult(
        reference=referenced(source), source=source, prediction=predicted(WIDTH, HEIGHT, FOUND), about=about
    )
    before = str(result.reference)
    boxes_report(result)
    assert str(result.reference) == before
