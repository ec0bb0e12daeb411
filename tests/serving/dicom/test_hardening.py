"""What strangers and ill machines do to a node: each ends in one clear line, nothing is lost, nothing comes twice."""

import errno
import io
import socket
import threading
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from pydicom import uid
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from chestmap.errors import BadInput, ProcessDied
from chestmap.serving.dicom import node, receiver
from chestmap.serving.dicom import start as run
from chestmap.serving.dicom.delivery import DeliverySettings
from chestmap.serving.dicom.prometheus import MetricsServer, address_of
from chestmap.serving.dicom.receiver import ListenOptions, Receiver, allowed_of
from chestmap.serving.engine import decoder_process, reading
from chestmap.serving.engine.decoder_pool import DecoderEnded, DecoderPool
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store import clock, deliveries
from chestmap.serving.store.arrivals import retry_failed
from chestmap.serving.store.clock import Clock
from chestmap.serving.store.deliveries import DueResult
from chestmap.serving.store.store import Store, existing
from serving.dicom.films import Collected, associate, counts, film, send, study_of, wait_until
from serving.dicom.test_arrivals import SHA, be_predicted, be_read, come

pytestmark = [  # pynetdicom leaves the socket of a connection that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def value(node, name, **labels):
    return node.metrics.registry.get_sample_value(f"chestmap_{name}", labels) or 0


def lines(caplog, words):
    return [one.getMessage() for one in caplog.records if words in one.getMessage()]


def test_a_flood_of_connections_is_two_lines(start, settings, caplog):
    node = start(how=settings.model_copy(update={"per_host": 4, "acse_seconds": 600}))
    with ExitStack() as open_lines:
        connect = lambda: open_lines.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=60))  # noqa: E731
        for _ in range(4):
            connect()
        wait_until(lambda: len(node.receiver._listener.active_associations) == 4)
        for line in [connect() for _ in range(60)]:
            with suppress(ConnectionError):
                assert line.recv(10) == b""
    assert lines(caplog, "has 4 already") == ["a connection was refused: 127.0.0.1 has 4 already (per_host)"]
    node.service.metrics.tell()
    assert lines(caplog, "(59 times more)")
    assert value(node, "node_refused_total", reason="connections") == 60
    node.service.metrics.tell()
    assert len(lines(caplog, "has 4 already")) == 2
    wait_until(lambda: not node.receiver._listener.active_associations)  # a place is free as soon as its connection ends
    link = associate(node.port)
    assert link.send_c_echo().Status == 0
    link.release()


def test_one_association_too_many_is_rejected_and_told(start, settings, caplog):
    node = start(how=settings.model_copy(update={"associations": 1}))
    first = associate(node.port)
    assert associate(node.port).is_rejected
    assert "as many associations as may be" in caplog.text
    first.release()


@pytest.mark.parametrize("last", [b"\x07\0\0\0\0\4\0\0\0\0", b""], ids=["abort", "silence"])
def test_an_image_that_breaks_off_is_not_taken(start, caplog, last):
    node, long = start(), film(1)
    long.PixelData = bytes(1 << 20)
    link = associate(node.port, long)
    line, sent = link.dul.socket, []

    def break_off(piece):
        sent.append(piece)
        if len(sent) < 8:
            line.socket.sendall(piece)
        elif len(sent) == 8:
            line.socket.sendall(last)
            line.socket.shutdown(socket.SHUT_RDWR)

    line.send = break_off
    assert link.send_c_store(long).get("Status") is None
    wait_until(lambda: lines(caplog, "in the midst of an image"))
    assert len(caplog.records) == 1
    assert sum(deliveries.counts(node.store).values()) == 0
    assert not list(node.store.folders.incoming.iterdir())


def test_what_is_turned_away_is_told_once_by_its_reason(start, caplog):
    """A title that nobody allowed, one that calls somebody else, a class and a transfer syntax that are not read."""
    node = start()
    for _ in range(3):
        assert associate(node.port, title="STRANGER").is_rejected
    assert associate(node.port, called="OTHER").is_rejected
    report, big_endian = film(1, SOPClassUID=uid.EnhancedSRStorage), film(2)
    for one, syntax in ((report, uid.ExplicitVRLittleEndian), (big_endian, uid.ExplicitVRBigEndian)):
        sender = node_sender(one.SOPClassUID, syntax)
        link = sender.associate("127.0.0.1", node.port, ae_title="CHESTMAP")
        with pytest.raises(ValueError, match="presentation context"):
            link.send_c_store(one)
        link.release()
    told = [one.getMessage() for one in caplog.records]
    assert told == [
        "an association of STRANGER at 127.0.0.1 was rejected: its title is not in --allow",
        "an association of TEST at 127.0.0.1 was rejected: it calls another title than --title",
        "TEST at 127.0.0.1 offers what is not taken: Enhanced SR Storage",
        "TEST at 127.0.0.1 offers what is not taken: its transfer syntaxes of Computed Radiography Image Storage",
    ]
    assert [value(node, "node_refused_total", reason=one) for one in ("title", "called", "class", "syntax")] == [3, 1, 1, 1]


@pytest.mark.parametrize("takes_images", [True, False], ids=["with images", "without"])
def test_a_sender_that_offers_120_classes_is_no_flood(start, caplog, takes_images):
    """As `storescu` of DCMTK does: an image is sent and nothing is refused; where none can be, that is one line and one count."""
    from pynetdicom import AE, StoragePresentationContexts, build_context

    node, image = start(), film(3)
    images = set(receiver.SINGLE)
    offered = [
        build_context(one.abstract_syntax) for one in StoragePresentationContexts if one.abstract_syntax not in images
    ]
    offered = [*([build_context(image.SOPClassUID)] if takes_images else []), *offered][:120]
    assert len(offered) > 100
    for _ in range(2):
        sender = AE("TEST")
        sender.requested_contexts = offered
        link = sender.associate("127.0.0.1", node.port, ae_title="CHESTMAP")
        if takes_images:
            assert link.send_c_store(image).Status == 0
        link.release() if link.is_established else None
    refused = sum(value(node, "node_refused_total", reason=one) for one in ("class", "syntax", "title", "called", "other"))
    told = [one.getMessage() for one in caplog.records]
    if takes_images:
        counts(node, done=1)
        assert (refused, told) == (0, [])
    else:
        assert refused <= 4  # the association has nothing left, which pynetdicom may end by itself
        assert len(told) <= 2


def node_sender(storage, syntax):
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    sender = AE("TEST")
    sender.add_requested_context(Verification)
    sender.add_requested_context(storage, [syntax])
    return sender


def test_an_archive_that_is_full_is_asked_by_one_image_at_a_time(start, settings, archive, caplog):
    """0xA700 is no fault of an object: results wait, and come once when there is room."""
    archive.status = 0xA700
    node = start(archive.destination(settings))
    assert send(node.port, film(1), film(2), film(3)) == [0, 0, 0]
    wait_until(lambda: value(node, "node_retries_total", destination=node.delivery.destination.name) >= 3)
    assert len(lines(caplog, "status 0xA700; results wait")) == 1
    archive.status = 0
    counts(node, done=3)
    assert {len(sent) for sent in archive.stored.values()} == {1}
    wait_until(lambda: value(node, "node_delivered_total", destination=f"ARCHIVE@127.0.0.1:{archive.port}") == 3)


def test_a_disk_that_fills_while_images_are_read_fails_none(start, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(reading, "PAUSE", 0.01)
    troubles, real = [OSError(errno.ENOSPC, "No space left on device")] * 3, DecoderPool.read

    def sometimes(self, *arguments, **more):
        if troubles:
            raise troubles.pop()
        return real(self, *arguments, **more)

    monkeypatch.setattr(DecoderPool, "read", sometimes)
    node = start()
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    assert len(lines(caplog, "No space left on device; trying again")) == 1

    path = tmp_path / "film.dcm"
    film(1).save_as(path, enforce_file_format=True)
    canvas = next(iter(node.service.served.values())).predictor.model.canvas.model_dump()
    request = {"path": str(path), "out": str(tmp_path / "none"), "canvases": {"canvas-x": canvas}, "file_bytes": 1 << 30}

    def full(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert decoder_process.answered({**request, "canvases_only": True}) == {"trouble": errno.ENOSPC}


def test_a_reader_that_dies_is_given_the_image_again(start, monkeypatch):
    """As often as an image may end the node; then it is at fault, and `--retry-failed` gives it another chance."""
    monkeypatch.setattr(reading, "PAUSE", 0.01)
    real, deaths = DecoderPool.read, {1: 2, 2: 3}

    def mortal(self, path, *arguments, **more):
        for number in deaths:
            if path.parent.name == study_of(node, film(number)) and deaths[number]:
                deaths[number] -= 1
                raise DecoderEnded("cannot be decoded within 30 seconds and its memory")
        return real(self, path, *arguments, **more)

    monkeypatch.setattr(DecoderPool, "read", mortal)
    node = start()
    assert send(node.port, film(1), film(2), film(3)) == [0, 0, 0]
    counts(node, done=2, failed=1)
    assert "cannot be decoded within" in deliveries.reasons(node.store)[0][1]
    with closing(existing(node.store.folders.root)) as other:
        assert retry_failed(other) == 1
    counts(node, done=3)
    wait_until(lambda: value(node, "unreadable_total") == 1)


def test_an_image_with_another_identifier_than_its_request_is_refused(start, caplog):
    """0xA900: it would take the place of another patient's image."""
    node, other = start(), film(2)
    link = associate(node.port, other)
    other.SOPInstanceUID = film(3).SOPInstanceUID
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = other.SOPClassUID, film(2).SOPInstanceUID
    for instance in (film(3).SOPInstanceUID, None):
        other.SOPInstanceUID = instance
        request.DataSet = io.BytesIO(encode(other, is_implicit_vr=False, is_little_endian=True))
        link._reactor_checkpoint.clear()
        link.dimse.send_msg(request, link.accepted_contexts[0].context_id)
        _, answered = link.dimse.get_msg(block=True)
        link._reactor_checkpoint.set()
        assert answered.Status == 0xA900
    link.release()
    assert sum(deliveries.counts(node.store).values()) == 0
    assert value(node, "node_refused_total", reason="mismatch") == 2
    assert len(lines(caplog, "another SOP Instance UID than its request")) == 1


def test_a_corrected_image_goes_to_the_right_patient(start, archive, settings):
    """Corrected while the first is pending, and once more after its results are in the archive."""
    node = start(archive.destination(settings), keep=True)
    first, second, third = (film(1, PatientID=name, PatientName=name) for name in "ABC")
    third.PixelData = third.PixelData[2:] + third.PixelData[:2]
    assert send(node.port, first, second) == [0, 0]
    counts(node, done=1)
    patients = lambda: {one.PatientID for sent in archive.stored.values() for one in sent}  # noqa: E731
    assert patients() <= {"A", "B"}
    assert "B" in patients()
    assert send(node.port, third) == [0]
    wait_until(lambda: "C" in patients())
    counts(node, done=1)
    assert all(len(sent) == 1 for sent in archive.stored.values())  # results of a corrected image are objects of their own
    notes = {one.PatientID for (one,) in archive.stored.values() if one.Modality == "KO"}
    assert "B" in notes  # what the archive had of the image before is withdrawn
    assert "C" not in notes


def test_a_model_that_answers_nothing_ends_the_node_and_no_image(start, served, readers, settings, monkeypatch, tmp_path):
    """A graphics card that is lost: the next start predicts what waited."""

    def lost(*_):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with monkeypatch.context() as patched:
        patched.setattr(type(served.predictor), "arrays", lost)
        patched.setattr(run.signal, "signal", lambda *_: None)
        service = Service([served], Store(tmp_path / "node"), ServeSettings(dicom=settings), readers)
        ill = node.Node(service, ListenOptions(port=0, allowed=allowed_of(["TEST"])), DeliverySettings(Collected(), ("sr",)))
        sending = threading.Thread(target=lambda: send(wait_until(lambda: ill.receiver).port, film(1), film(2)))
        sending.start()
        with pytest.raises(ProcessDied, match="nothing is lost"):
            run.run(service, ill)
        sending.join()
    again = start()
    wait_until(again.store.known_ids)
    counts(again, done=len(again.store.known_ids()))


def test_time_neither_jumps_nor_runs_back(monkeypatch, tmp_path):
    wall = {"now": 1_000_000.0}
    monkeypatch.setattr(clock.time, "time", lambda: wall["now"])
    now = Clock()
    assert now() == pytest.approx(1_000_000, abs=60)
    wall["now"] += 10 * 86400
    assert now() == pytest.approx(1_000_000, abs=60)
    with closing(Store(tmp_path)) as store:  # with the clock ten days ahead
        study_id = come(store, "one")
        be_read(store, study_id)
        be_predicted(store, study_id)
        deliveries.postpone(store, DueResult(study_id, SHA, 0), 0.0, "no")
    wall["now"] -= 20 * 86400
    with closing(Store(tmp_path)) as store:  # and then ten days behind
        wait_until(
            lambda: deliveries.due(store, 8) == [DueResult(study_id, SHA, 1)]
        )  # the moment of the postponing comes once more
        assert deliveries.give_up(store, 3600) == []
        assert deliveries.oldest(store) < 60


def test_a_port_that_is_taken_is_one_line(start):
    node = start()
    with pytest.raises(BadInput, match="in use"):
        Receiver(ListenOptions(port=node.port), node.service, node.metrics)


def test_prometheus_reads_the_node(start):
    """On an address of its own, and without an image's or a patient's name."""
    one = start()
    page = MetricsServer(("127.0.0.1", 0), one.metrics.registry)
    try:
        assert send(one.port, film(1), film(2, ViewPosition="LL")) == [0, 0]
        counts(one, done=1, failed=1)
        wait_until(lambda: value(one, "node_delivered_total", destination="memory") and value(one, "unreadable_total"))
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    finally:
        page.close()
    for line in (
        'chestmap_node_received_total{by="c-store"} 2.0', 'chestmap_node_images{state="done"} 1.0',
        'chestmap_node_images{state="failed"} 1.0', 'chestmap_node_delivered_total{destination="memory"} 1.0',
        "chestmap_unreadable_total 1.0", 'chestmap_stage_seconds_count{stage="send"} 1.0', "chestmap_node_oldest_seconds 0.0",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert film(1).SOPInstanceUID not in text
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", page.port), timeout=60)


def test_where_prometheus_reads():
    assert address_of("9400") == address_of(":9400") == address_of("localhost:9400") == ("127.0.0.1", 9400)
    assert address_of("0.0.0.0:1") == ("0.0.0.0", 1)
    assert address_of("[::1]:9400") == ("::1", 9400)
    for wrong in ("", "host", "host:1", "1.2.3.4:", "127.0.0.1:99999", "1:-2"):
        with pytest.raises(BadInput, match="--metrics"):
            address_of(wrong)
