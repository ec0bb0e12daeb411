"""From an image to results at the archive, over all that may go wrong on the way."""

import logging
from contextlib import closing

import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from chestmap.errors import BadInput, Refused
from chestmap.serving.dicom.destinations import Stow, Undelivered, c_store_of, web_client_of
from chestmap.serving.dicom.pull import Pull
from chestmap.serving.dicom.web import only_part
from chestmap.serving.engine.settings import DicomSettings
from chestmap.serving.store import deliveries
from chestmap.serving.store.store import existing
from orthanc import free_port
from serving.dicom.films import PLANTED, Collected, counts, film, send, study_of, unreachable, wait_until

pytestmark = [  # pynetdicom leaves the socket of a connection that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_an_archive_that_is_down_gets_everything_later(start, settings, archive):
    archive.close()
    node = start(archive.destination(settings))
    assert send(node.port, film(1), film(2), film(3)) == [0, 0, 0]
    wait_until(lambda: deliveries.counts(node.store)["retry"] and not deliveries.counts(node.store)["new"])
    assert deliveries.reasons(node.store)[0][1] == "the archive does not answer"
    archive.open()
    counts(node, done=3)
    assert {one.StudyInstanceUID for sent in archive.stored.values() for one in sent} == {
        film(number).StudyInstanceUID for number in (1, 2, 3)
    }
    assert {len(sent) for sent in archive.stored.values()} == {1}


def test_what_nobody_takes_becomes_a_dead_letter_and_wakes(start, settings, archive, tmp_path):
    archive.status = 0xC123
    node = start(archive.destination(settings), how=settings.model_copy(update={"give_up_hours": 0}))
    assert send(node.port, film(1)) == [0]
    counts(node, dead=1)
    assert "0xC123" in deliveries.reasons(node.store)[0][1]
    archive.status = 0xB000  # a warning is a success
    with closing(existing(tmp_path / "node")) as other:
        assert deliveries.retry_dead(other) == 1
    counts(node, done=1)
    wait_until(lambda: not list((tmp_path / "node" / "studies").glob("*/*")))


def test_a_restart_sends_what_waited(start, settings, tmp_path):
    closed = c_store_of(f"NOBODY@127.0.0.1:{free_port()}", "CHESTMAP", settings, None)
    node = start(closed)
    assert send(node.port, film(1)) == [0]
    counts(node, retry=1)
    node.ended()
    taken = Collected(Undelivered("not now"), unreachable())
    again = start(taken)
    counts(again, done=1)
    assert {one.Modality for one in taken.results} == {"SR", "PR"}


def test_bad_objects_fail_alone_and_tell_no_log(start, caplog):
    """Of five, one has no pixels, one is a lateral view, one is a hand, one is a result of ours."""
    caplog.set_level(logging.INFO)
    taken = Collected()
    node = start(taken, keep=True)
    result = film(4, Manufacturer="chestmap", ManufacturerModelName="chestmap")
    bad = [film(1, PixelData=None), film(2, ViewPosition="LL"), film(3, BodyPartExamined="HAND"), result]
    assert send(node.port, *bad, film(5)) == [0] * 5
    counts(node, done=1, failed=4)
    reasons = " ".join(reason for _, reason, _ in deliveries.reasons(node.store))
    for said in ("no pixel data", "lateral view", "body part HAND", "a result that chestmap wrote"):
        assert said in reasons
    assert {one.StudyInstanceUID for one in taken.results} == {film(5).StudyInstanceUID}
    assert [path.name for path in node.store.folders.root.rglob("original")] == ["original"] * 5
    for word in (*PLANTED, "HAND", film(5).SOPInstanceUID):
        assert word not in caplog.text


def test_scores_that_are_none_fail_alone(start, monkeypatch, served):
    """A batch that the model cannot predict goes image by image."""
    taken, real = Collected(), type(served).run_network
    node = start(taken)

    def sometimes(self, canvases, frames, places):
        if len(places) > 1 or study_of(node, film(2)) == places[0][0]:
            raise RuntimeError("numbers")
        return real(self, canvases, frames, places)

    monkeypatch.setattr(type(served), "run_network", sometimes)
    assert send(node.port, film(1), film(2), film(3)) == [0, 0, 0]
    counts(node, done=2, failed=1)
    assert deliveries.reasons(node.store) == [("failed", f"{served.id}: cannot be predicted: RuntimeError", 1)]


def test_our_own_capture_is_not_predicted(start, tmp_path, served, settings):
    """Whole kinds of results cannot come back; a picture can, and goes no further."""
    first = Collected()
    node = start(first, kinds=("sc",))
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    (capture,) = first.results
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert send(node.port, capture) == [0]
    counts(node, done=1, failed=1)
    assert len(first.results) == 1


def test_stow_and_pull(start, orthanc, settings, tmp_path):
    """Images that were there before come by QIDO and WADO, results go by STOW, and the next look finds nothing new."""
    credentials = tmp_path / "credentials"
    credentials.write_text(":".join(orthanc.user))
    credentials.chmod(0o600)
    client = web_client_of(orthanc.dicom_web, credentials, None, settings)
    how = settings.model_copy(update={"pull_days": 0})
    for number, one in enumerate([film(1), film(2, Modality="OT"), film(3)]):
        one.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert orthanc.store([tmp_path / f"{number}.dcm" for number in range(3)]) == [0, 0, 0]
    node = start(Stow(client), how=how, pull=lambda service, metrics: Pull(client, service, metrics, 3600))
    counts(node, done=2)
    results = [one for one in orthanc.get("/instances?expand") if one["MainDicomTags"]["SOPInstanceUID"].startswith("2.25")]
    assert len(results) >= 4
    studies = {orthanc.file(one["MainDicomTags"]["SOPInstanceUID"]).StudyInstanceUID for one in results}
    assert studies == {film(1).StudyInstanceUID, film(3).StudyInstanceUID}
    assert node.pull.pull_once() == 0
    assert Pull(client, node.service, node.metrics, 3600).pull_once() == 0

    refused = Stow(web_client_of(orthanc.dicom_web, None, None, settings))
    with pytest.raises(Undelivered, match="answers 401"):
        refused.send([tmp_path / "0.dcm"])
    nobody = Stow(web_client_of(f"http://127.0.0.1:{free_port()}/dicom-web", None, None, settings))
    with pytest.raises(Undelivered, match="does not answer"):
        nobody.send([tmp_path / "0.dcm"])


class Partial(DICOMwebClient):
    """A server that says success, and of how many objects."""

    def __init__(self, answer):
        self.answer = answer

    def store_instances(self, datasets):
        return self.answer


def test_what_stow_does_not_confirm_is_not_delivered(tmp_path):
    path, one = tmp_path / "one.dcm", film(1)
    one.save_as(path, enforce_file_format=True)
    empty, failed, there = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    item = pydicom.Dataset()
    item.ReferencedSOPInstanceUID, item.FailureReason = one.SOPInstanceUID, 0xA700
    failed.FailedSOPSequence = [item]
    known = pydicom.Dataset()
    known.ReferencedSOPInstanceUID, known.FailureReason = one.SOPInstanceUID, 0x0111
    there.FailedSOPSequence = [known]
    with pytest.raises(Undelivered, match="confirm 1 of 1"):
        Stow(Partial(empty)).send([path])
    with pytest.raises(Undelivered, match="0xA700"):
        Stow(Partial(failed)).send([path])
    Stow(Partial(there)).send([path])


def test_a_multipart_answer_has_one_part():
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\nab\r\n--c\r\n\r\nd\r\n--b--\r\n"
    assert only_part(body, 'multipart/related; type="application/dicom"; boundary="b"') == b"ab\r\n--c\r\n\r\nd"
    assert only_part(b"plain", "application/dicom") == b"plain"
    for wrong in (b"", b"--b\r\n\r\n", b"nothing"):
        with pytest.raises(BadInput):
            only_part(wrong, "multipart/related; boundary=b")


def test_addresses_and_credentials(tmp_path):
    how = DicomSettings()
    found = c_store_of("PACS@[fd00::1]:104", "CHESTMAP", how, None)
    assert (found.title, found.host, found.port) == ("PACS", "fd00::1", 104)
    for wrong in ("PACS", "PACS@host", "PACS@host:0", "PACS@host:99999", "@host:1", "PACS@a@b:1"):
        with pytest.raises(BadInput, match=r"TITLE@HOST:PORT|AE title"):
            c_store_of(wrong, "CHESTMAP", how, None)
    for wrong in ("host/path", "http://name:word@host/", "ftp://host/", "http://host/?a=b"):
        with pytest.raises(BadInput, match="DICOMweb address"):
            web_client_of(wrong, None, None, how)
    path = tmp_path / "words"
    path.write_text("Bearer abc\n")
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        web_client_of("https://host/", path, None, how)
    path.chmod(0o600)
    assert web_client_of("https://host/", path, None, how)._session.headers["Authorization"] == "Bearer abc"
    path.write_text("nothing")
    with pytest.raises(BadInput, match="NAME:PASSWORD"):
        web_client_of("https://host/", path, None, how)
