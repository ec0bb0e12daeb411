"""A reader's finished review as objects of the archive, read back by programs that did not write them."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from chestmap.errors import BadInput
from chestmap.reports.dicom import is_result, result_objects, write_dicom
from chestmap.reports.dicom.earlier import REPORTS, Earlier
from chestmap.reports.dicom.verified import ReaderReport, Verdict, person_name, verified_objects
from chestmap.reports.dicom.write import write_objects
from chestmap.types import Box
from reports.dicom.conftest import FOUND, HEIGHT, WIDTH, concept, corners, errors_of, groups_of, predicted, run, walk

BOX = Box("Effusion", 15.0, 48.0, 30.0, 72.0)
REPORT = ReaderReport(
    reader="Ana Lima", organization="Clinic", at="2031-03-28T09:15:00.000000+00:00", version=3, study="s-1", size=(float(WIDTH), float(HEIGHT)),
    verdicts=(Verdict("Cardiomegaly", present=False), Verdict("Effusion", present=True, boxes=(BOX,)),
              Verdict("Mass", present=True), Verdict("Hernia", present=False, bulk=True)),
    note="Größe unverändert,\nfollow up",
)  # fmt: skip


@pytest.fixture
def sent(dx, about):
    """What a model's result left in the archive."""
    made = result_objects(dx, predicted(WIDTH, HEIGHT, FOUND), about, ["sr", "gsps", "sc", "seg"])
    return [Earlier(one.SOPInstanceUID, one.SeriesInstanceUID, one.SOPClassUID) for _, one in made]


def listed(sequence):
    """Instances of a sequence of studies and series."""
    series = (one for study in sequence for one in study.ReferencedSeriesSequence)
    return [item.ReferencedSOPInstanceUID for one in series for item in one.ReferencedSOPSequence]


def test_the_report_is_verified_and_replaces_the_models(dx, sent, tmp_path):
    paths = write_objects(verified_objects(dx, REPORT, sent, sent), tmp_path)
    assert [path.name.split("-")[0] for path in paths] == ["sr", "kos"]
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    report, note = map(pydicom.dcmread, paths)
    assert (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) == ("VERIFIED", "COMPLETE", "FINAL")
    (observer,) = report.VerifyingObserverSequence
    assert (str(observer.VerifyingObserverName), observer.VerifyingOrganization) == ("Lima^Ana", "Clinic")
    assert str(observer.VerificationDateTime) == "20310328091500.000000+0000"
    reports = [one.instance for one in sent if one.sop_class in REPORTS]
    assert listed(report.PredecessorDocumentsSequence) == reports
    assert len(reports) == 1
    (group,) = groups_of(report)
    (region,) = [item for item in walk(group) if item.get("ValueType") == "SCOORD"]
    assert np.allclose(corners(region.GraphicData), BOX.corners)
    (area,) = [item for item in walk(group) if item.get("ValueType") == "NUM"]
    assert area.ConceptNameCodeSequence[0].CodeMeaning == "Effusion: Area"
    (value,) = area.MeasuredValueSequence
    down, across = dx.ImagerPixelSpacing
    assert float(value.NumericValue) == pytest.approx(15 * 24 * down * across, abs=0.06)
    assert value.MeasurementUnitsCodeSequence[0].CodeValue == "mm2"
    (text,) = [item.TextValue for item in report.ContentSequence if concept(item) == "121106"]
    assert "Present: Effusion (1 region); Mass (no place given)." in text
    assert "Absent: Cardiomegaly; Hernia (agreed in bulk)." in text
    assert "Note: Größe unverändert, follow up" in text
    people = {concept(item): item for item in report.ContentSequence}
    assert str(people["121008"].PersonName) == "Lima^Ana"
    assert report.StudyInstanceUID == note.StudyInstanceUID == dx.StudyInstanceUID
    assert is_result(report)
    assert is_result(note)
    assert dx.SOPInstanceUID in listed(report.CurrentRequestedProcedureEvidenceSequence)


def test_the_note_rejects_what_it_lists(dx, sent, tmp_path):
    _, path = write_objects(verified_objects(dx, REPORT, sent, sent), tmp_path)
    note = pydicom.dcmread(path)
    assert note.SOPClassUID == uid.KeyObjectSelectionDocumentStorage
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert sorted(listed(note.CurrentRequestedProcedureEvidenceSequence)) == sorted(one.instance for one in sent)
    named = [item for item in note.ContentSequence if item.ValueType in {"IMAGE", "COMPOSITE"}]
    assert sorted(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in named) == sorted(
        one.instance for one in sent
    )
    assert "Rejected for Quality Reasons" in run("dsrdump", path)


def test_what_is_accepted_is_not_rejected(dx, sent):
    assert [kind for kind, _ in verified_objects(dx, REPORT, sent, [])] == ["sr"]


def test_a_review_without_a_region_is_words(dx, sent, tmp_path):
    bare = replace(REPORT, verdicts=(Verdict("Mass", present=False),), note="")
    (path,) = write_objects(verified_objects(dx, bare, sent, []), tmp_path)
    assert errors_of(path) == []
    report = pydicom.dcmread(path)
    assert report.SOPClassUID == uid.EnhancedSRStorage
    assert report.VerificationFlag == "VERIFIED"
    (text,) = [item.TextValue for item in walk(report) if concept(item) == "121071"]
    assert "Present: none of the findings that were judged.\nAbsent: Mass." in text


def test_the_next_version_follows_the_one_before(dx, sent):
    ((_, first),) = verified_objects(dx, REPORT, sent, [])
    before = [*sent, Earlier(first.SOPInstanceUID, first.SeriesInstanceUID, first.SOPClassUID)]
    ((_, second),) = verified_objects(dx, replace(REPORT, version=4), before, [])
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert second.SeriesInstanceUID == first.SeriesInstanceUID
    assert first.SOPInstanceUID in listed(second.PredecessorDocumentsSequence)
    ((_, again),) = verified_objects(dx, REPORT, before, [])
    assert again.SOPInstanceUID == first.SOPInstanceUID
    assert first.SOPInstanceUID not in listed(again.PredecessorDocumentsSequence)


def test_boxes_of_another_image_space_come_back_to_stored_pixels(dx):
    """The space of pixels that were made square, for example."""
    wide = replace(
        REPORT, size=(2.0 * WIDTH, float(HEIGHT)), verdicts=(Verdict("Effusion", True, (replace(BOX, x0=30.0, x1=60.0),)),)
    )
    ((_, report),) = verified_objects(dx, wide, [], [])
    (region,) = [item for item in walk(report) if item.get("ValueType") == "SCOORD"]
    assert np.allclose(corners(region.GraphicData), BOX.corners)


def test_nobody_verifies_nothing(dx):
    with pytest.raises(BadInput, match="no reader's name"):
        list(verified_objects(dx, replace(REPORT, reader=" "), [], []))


@pytest.mark.parametrize(
    ("text", "name"), [("Ana Lima", "Lima^Ana"), ("Ana", "Ana^"), ("Lima^Ana", "Lima^Ana"), ("a\\b=c", "c^a b")]
)
def test_names_of_people(text, name):
    assert person_name(text) == name


def test_results_of_a_newer_model_replace_those_of_the_older(dx, about, sent, tmp_path):
    newer = replace(about, sha256="cd" * 32)
    paths = write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), newer, tmp_path, ["sr", "gsps"], sent)
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    by_kind = {path.name.split("-")[0]: pydicom.dcmread(path) for path in paths}
    assert set(by_kind) == {"sr", "gsps", "kos"}
    assert listed(by_kind["sr"].PredecessorDocumentsSequence) == [one.instance for one in sent if one.sop_class in REPORTS]
    assert sorted(listed(by_kind["kos"].CurrentRequestedProcedureEvidenceSequence)) == sorted(one.instance for one in sent)


def test_the_order_and_the_patients_measures_come_along(dx, about, tmp_path):
    request = Dataset()
    request.RequestedProcedureID, request.RequestedProcedureDescription = "RP-7", "Chest PA"
    request.AccessionNumber, request.ReasonForTheRequestedProcedure = "A-7", "Cough"
    dx.RequestAttributesSequence, dx.PatientSize, dx.PatientWeight = [request, Dataset()], "1.72", "70.5"
    paths = write_dicom(dx, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["sr", "scores", "gsps", "sc", "seg", "pmap"])
    assert {path.name: errors_of(path) for path in paths} == {path.name: [] for path in paths}
    for path in paths:
        made = pydicom.dcmread(path)
        assert (made.PatientSize, made.PatientWeight) == (1.72, 70.5), path.name
        if path.name.startswith("s") and made.Modality == "SR":
            (order,) = made.ReferencedRequestSequence
            assert (order.RequestedProcedureID, order.AccessionNumber) == ("RP-7", "A-7")
            assert order.ReasonForTheRequestedProcedure == "Cough"
    dx.PatientSize, dx.PatientWeight = "172", "0"
    ((_, report),) = (one for one in result_objects(dx, predicted(WIDTH, HEIGHT, FOUND), about, ["sr"]) if one[0] == "sr")
    assert "PatientSize" not in report
    assert "PatientWeight" not in report
