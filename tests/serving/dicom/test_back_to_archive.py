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
