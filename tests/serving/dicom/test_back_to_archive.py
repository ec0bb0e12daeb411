"""What a reader finishes goes back: a verified report in place of the model's, and a note that rejects what it contradicts."""

import pytest
from pydicom.uid import KeyObjectSelectionDocumentStorage
from pynetdicom.sop_class import Comprehensive3DSRStorage

from chestmap.serving.dicom.delivery import DeliverySettings
from chestmap.serving.dicom.node import Node
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store import deliveries, reviews
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import Store
from serving.dicom.films import Collected, counts, film, send, study_of, wait_until
from serving.small import served_of, write_small_model

pytestmark = [  # pynetdicom leaves the socket of a connection that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
KINDS = ("sr", "gsps", "seg")


def listed(sequence):
    series = (one for study in sequence for one in study.ReferencedSeriesSequence)
    return {item.ReferencedSOPInstanceUID for one in series for item in one.ReferencedSOPSequence}


def review(node, study_id, base, state="done", by="Ana Lima", **verdicts):
    said = {name: {"verdict": verdict} for name, verdict in verdicts.items()}
    return reviews.put_review(node.store, study_id, by, NewReview(base=base, state=state, findings=said))


def called(node, study_id):
    """Findings that the model calls with a box, and the others."""
    (result,) = node.store.study(study_id)[1]
    return [one["name"] for one in result.findings if one["over"]]


def test_done_sends_a_verified_report_and_rejects_what_it_contradicts(start):
    archive = Collected()
    node = start(archive, keep=True, kinds=KINDS)
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    study_id, models = study_of(node, film(1)), {one.SOPInstanceUID for one in archive.results}
    reports = {one.SOPInstanceUID for one in archive.results if one.Modality == "SR"}
    assert {one.Modality for one in archive.results} == {"SR", "PR", "SEG"}
    wrong, *right = called(node, study_id)
    review(node, study_id, 0, state="part", **{wrong: "reject"})
    counts(node, done=1)
    assert len(archive.results) == len(models)  # nothing is verified before it is done
    review(node, study_id, 1, **{wrong: "reject"}, **dict.fromkeys(right, "accept"))
    wait_until(lambda: len(archive.results) == len(models) + 2)
    report, note = archive.results[-2:]
    assert report.VerificationFlag == "VERIFIED"
    assert str(report.VerifyingObserverSequence[0].VerifyingObserverName) == "Lima^Ana"
    assert listed(report.PredecessorDocumentsSequence) == reports
    assert report.SOPClassUID == Comprehensive3DSRStorage or not right
    assert note.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == models
    counts(node, done=1)
    sent = {one.instance: one.withdrawn for one in deliveries.sent_of(node.store, study_id)}
    assert {uid for uid, gone in sent.items() if gone} == models
    assert {uid for uid, gone in sent.items() if not gone} == {report.SOPInstanceUID, note.SOPInstanceUID}

    review(node, study_id, 2, state="part", **{wrong: "reject"})
    review(node, study_id, 3, by="Bo Chen", **{wrong: "reject"}, **dict.fromkeys(right, "reject"))
    wait_until(lambda: len(archive.results) >= len(models) + 3)
    later = next(one for one in reversed(archive.results) if one.Modality == "SR")
    assert report.SOPInstanceUID in listed(later.PredecessorDocumentsSequence)
    assert str(later.VerifyingObserverSequence[0].VerifyingObserverName) == "Chen^Bo"


def test_what_a_reader_accepts_stays(start):
    archive = Collected()
    node = start(archive, keep=True, kinds=KINDS)
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    study_id, models = study_of(node, film(1)), len(archive.results)
    review(node, study_id, 0, **dict.fromkeys(called(node, study_id), "accept"))
    wait_until(lambda: len(archive.results) > models)
    counts(node, done=1)
    assert [one.Modality for one in archive.results[models:]] == ["SR"]
    assert send(node.port, film(1)) == [0]  # the archive lost everything: all comes again
    wait_until(lambda: len(archive.results) == 2 * (models + 1))
    assert len({one.SOPInstanceUID for one in archive.results}) == models + 1


def test_a_review_without_a_name_is_told_and_sends_nothing(start):
    archive = Collected()
    node = start(archive, keep=True)
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    study_id, models = study_of(node, film(1)), len(archive.results)
    review(node, study_id, 0, by="")
    counts(node, failed=1)
    assert "no reader's name" in deliveries.reasons(node.store)[0][1]
    assert len(archive.results) == models


def test_a_retrained_models_results_replace_those_of_the_older_version(start, readers, settings, tmp_path):
    archive = Collected()
    node = start(archive, keep=True)
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    node.ended()
    old = {one.SOPInstanceUID: one for one in archive.results}
    newer = served_of(write_small_model(tmp_path / "newer", seed=5))
    service = Service([newer], Store(tmp_path / "node"), ServeSettings(readers=1, dicom=settings), readers)
    second = Node(service, ListenOptions(port=0, allowed=allowed_of(["TEST"])), DeliverySettings(archive, ("sr", "gsps")))
    service.start()
    try:
        port = second.start()
        assert send(port, film(1)) == [0]
        wait_until(lambda: any(one.Modality == "KO" for one in archive.results))
    finally:
        second.stop()
        service.stop()
    new = archive.results[len(old) :]
    assert {one.ContributingEquipmentSequence[0].DeviceUID for one in new if one.Modality in {"SR", "PR"}} == {
        newer_uid := next(one for one in new if one.Modality == "SR").ContributingEquipmentSequence[0].DeviceUID
    }
    assert newer_uid not in {one.ContributingEquipmentSequence[0].DeviceUID for one in old.values()}
    reports = {uid for uid, one in old.items() if one.Modality == "SR"}
    for one in new:
        if one.Modality == "SR":
            assert listed(one.PredecessorDocumentsSequence) == reports
    (note,) = [one for one in new if one.Modality == "KO"]
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == set(old)


def test_objects_of_an_image_that_was_corrected_are_withdrawn(start):
    """The note belongs to the exam and the patient of the first; the results of the second are new objects."""
    archive = Collected()
    node = start(archive, keep=True, kinds=KINDS)
    assert send(node.port, film(1, PatientID="WRONG")) == [0]
    counts(node, done=1)
    first = study_of(node, film(1))
    review(node, first, 0, **dict.fromkeys(called(node, first), "accept"))
    wait_until(lambda: any(one.get("VerificationFlag") == "VERIFIED" for one in archive.results))
    counts(node, done=1)
    before = {one.SOPInstanceUID for one in archive.results}
    right = {"PatientID": "RIGHT", "StudyInstanceUID": f"{film(1).StudyInstanceUID}.9"}
    assert send(node.port, film(1, **right)) == [0]
    wait_until(lambda: any(one.Modality == "KO" for one in archive.results))
    counts(node, done=1)
    (note,) = [one for one in archive.results if one.Modality == "KO"]
    assert (note.PatientID, note.StudyInstanceUID) == ("WRONG", film(1).StudyInstanceUID)
    assert note.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "111220"
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == before
    new = [one for one in archive.results if one.SOPInstanceUID not in before and one.Modality != "KO"]
    assert {one.PatientID for one in new} == {"RIGHT"}
    assert {one.Modality for one in new} == {"SR", "PR", "SEG"}
    assert not {one.SeriesInstanceUID for one in archive.results if one.PatientID == "WRONG"} & {
        one.SeriesInstanceUID for one in new
    }
    assert node.store.study(first)[0].state == "replaced"  # a reader's work is kept
    assert {one.instance for one in deliveries.sent_of(node.store, first)} == {note.SOPInstanceUID}


def test_a_node_that_keeps_nothing_withdraws_too_and_says_where_it_cannot(start):
    archive = Collected()
    node = start(archive)
    assert send(node.port, film(1), film(2)) == [0, 0]
    counts(node, done=2)
    before = {one.SOPInstanceUID for one in archive.results if one.StudyInstanceUID == film(1).StudyInstanceUID}
    assert send(node.port, film(1, PatientID="RIGHT")) == [0]
    wait_until(lambda: any(one.Modality == "KO" for one in archive.results))
    (note,) = [one for one in archive.results if one.Modality == "KO"]
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == before
    assert send(node.port, film(2, StudyInstanceUID=f"{film(2).StudyInstanceUID}.9")) == [0]
    counts(node, done=2, failed=1)
    assert "by hand" in deliveries.reasons(node.store)[0][1]


def test_measures_and_a_key_image_go_to_the_archive(start):
    archive = Collected()
    node = start(archive, keep=True)
    spaced = film(1, ImagerPixelSpacing=[0.5, 0.5])
    assert send(node.port, spaced) == [0]
    counts(node, done=1)
    measures = [{"kind": "ruler", "lines": [{"x0": 0, "y0": 0, "x1": 30, "y1": 40}]}]
    new = NewReview.model_validate({"base": 0, "state": "done", "measures": measures, "key": True})
    reviews.put_review(node.store, study_of(node, spaced), "Ana Lima", new)
    wait_until(lambda: any(one.Modality == "KO" for one in archive.results))
    counts(node, done=1)
    report, note = archive.results[-2:]
    said = next(one.value for one in report.iterall() if one.keyword == "TextValue" and "Verified by" in one.value)
    assert said.splitlines()[2:4] == ["Measured: distance 25.0 mm.", "Marked as a key image."]
    assert note.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert listed(note.CurrentRequestedProcedureEvidenceSequence) == {spaced.SOPInstanceUID}


def test_a_key_mark_that_is_taken_back_is_withdrawn(start):
    archive = Collected()
    node = start(archive, keep=True)
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    study_id, notes = study_of(node, film(1)), lambda: [one for one in archive.results if one.Modality == "KO"]

    def say(base, state, key):
        reviews.put_review(node.store, study_id, "Ana Lima", NewReview(base=base, state=state, key=key))

    say(0, "done", key=True)
    wait_until(lambda: len(notes()) == 1)
    counts(node, done=1)
    say(1, "part", key=False)
    say(2, "done", key=False)
    wait_until(lambda: len(notes()) == 2)
    counts(node, done=1)
    mark, rejection = notes()
    assert [one.ConceptNameCodeSequence[0].CodeValue for one in (mark, rejection)] == ["113000", "113001"]
    assert listed(rejection.CurrentRequestedProcedureEvidenceSequence) == {mark.SOPInstanceUID}
    assert rejection.SeriesInstanceUID != mark.SeriesInstanceUID
    sent = {one.instance: bool(one.withdrawn) for one in deliveries.sent_of(node.store, study_id)}
    assert (sent[mark.SOPInstanceUID], sent[rejection.SOPInstanceUID]) == (True, False)
    say(3, "done", key=True)
    wait_until(lambda: len(notes()) == 4)
    counts(node, done=1)
    again = notes()[2]
    assert again.SOPInstanceUID != mark.SOPInstanceUID
    sent = {one.instance: bool(one.withdrawn) for one in deliveries.sent_of(node.store, study_id)}
    assert (sent[mark.SOPInstanceUID], sent[again.SOPInstanceUID]) == (True, False)
