"""DICOMweb servers that are ill: what they hold comes once, when they are well again, and nothing of the rest comes in."""

import json
import logging
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset

from chestmap.serving.dicom.destinations import Stow, Undelivered, web_client_of
from chestmap.serving.dicom.prometheus import NodeMetrics
from chestmap.serving.dicom.pull import INSTANCE, MODALITY, SERIES, STUDY, Pull
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.store.arrivals import count_waiting
from chestmap.serving.store.store import Store
from serving.dicom.films import film

SETTINGS = DicomSettings(free_bytes=0, pull_days=0, object_bytes=1 << 20, answer_seconds=60)


def encoded(one):
    stream = BytesIO()
    one.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def found(**elements):
    tags = {"study": STUDY, "series": SERIES, "instance": INSTANCE, "modality": MODALITY}
    return {tags[name]: {"vr": "UI", "Value": [text]} for name, text in elements.items()}


class Server:
    """Holds films, one to a study. `ill` maps a part of an address to what is answered in its place."""

    def __init__(self, *films):
        self.films, self.ill, self.asked = {str(one.StudyInstanceUID): one for one in films}, {}, []
        self.last = threading.Event()
        outer = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                for part, answer in outer.ill.items():
                    if part in self.path:
                        answer(self)
                        return
                outer.well(self)

            def do_POST(self):
                self.do_GET()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/web"

    def close(self):
        self.last.set()
        self.server.shutdown()
        self.server.server_close()

    def well(self, asking):
        path, _, query = asking.path.partition("?")
        parts = path.split("/")[2:]
        one = self.films.get(parts[1]) if len(parts) > 1 else None
        if len(parts) == 1:
            answer = [] if "offset=0" not in query else [found(study=study) for study in self.films]
        elif len(parts) == 3:
            answer = [found(series=str(one.SeriesInstanceUID), modality="CR")]
        elif len(parts) == 5:
            answer = [found(instance=str(one.SOPInstanceUID))]
        else:
            say(200, encoded(one), "application/dicom")(asking)
            return
        say(200, json.dumps(answer).encode())(asking)


def say(status, body, kind="application/dicom+json", length=None):
    def answer(asking):
        asking.send_response(status)
        asking.send_header("Content-Type", kind)
        asking.send_header("Content-Length", str(len(body) if length is None else length))
        asking.end_headers()
        asking.wfile.write(body)

    return answer


@pytest.fixture
def server():
    with closing(Server(film(1), film(2), film(3))) as made:
        yield made


@pytest.fixture
def pulling(server, served, readers, tmp_path):
    """`pulling(settings)` looks without a wait between tries, into a store where nothing is predicted."""
    store = Store(tmp_path / "node")

    def made(how=SETTINGS, every=0.0):
        store.folders.unlock()
        service = Service([served], store, ServeSettings(dicom=how), readers)
        return Pull(web_client_of(server.url, None, None, how), service, NodeMetrics(service.metrics, store), every)

    yield made
    store.close()


HTML = b"<html><body>Please sign in</body></html>"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (say(500, b"oops"), "the archive answers 500"),
        (say(200, HTML, "text/html"), "no DICOM JSON"),
        (say(200, b"[" * 100_000), "no DICOM JSON: nested too deeply"),
        (say(200, b'{"half": ', length=5000), "does not answer|broke off"),
    ],
    ids=["500", "html", "deep", "half"],
)
def test_a_search_that_fails_is_asked_again(server, pulling, answer, said):
    pull = pulling()
    server.ill["/studies?"] = answer
    with pytest.raises(Undelivered, match=said):
        pull.pull_once()
    server.ill.clear()
    assert pull.pull_once() == 3
    assert pull.pull_once() == 0


def test_a_search_of_garbage_and_one_that_never_ends(server, pulling):
    """Entries that are none are left out; a server that knows no offset sends its first page again and again."""
    garbage = [1, None, "x", {}, {STUDY: 7}, {STUDY: {"Value": [{}]}}, found(study="../../etc"), found(study="1.2/3")]
    page = [
        *garbage,
        *(found(study=study) for study in server.films),
        {**found(study="1.9"), "00201208": {"Value": ["many"]}},
    ]
    server.ill["/studies?"] = say(200, json.dumps(page).encode())
    server.ill["/studies/1.9/"] = say(404, b"")
    pull = pulling()
    assert pull.pull_once() == 3
    assert sum("/studies?" in path for path in server.asked) == 4  # two for each modality


@pytest.mark.parametrize(
    "answer",
    [
        say(200, HTML, "text/html"), say(500, b""), say(404, b""), say(200, b"", "application/dicom"),
        say(200, encoded(film(9)), "application/dicom"), say(200, b"--x\r\nnothing", "multipart/related; boundary=x"),
        say(200, bytes(2 << 20), "application/dicom"), say(200, encoded(film(2))[:3000], "application/dicom", length=9000),
    ],
    ids=["html", "500", "404", "empty", "another", "no part", "too long", "half"],
)  # fmt: skip
def test_an_image_that_comes_wrong_is_not_taken_and_holds_up_no_other(server, pulling, caplog, answer):
    server.ill[f"/instances/{film(2).SOPInstanceUID}"] = answer
    pull = pulling()
    assert pull.pull_once() == 2
    assert len(caplog.records) == 1
    assert "1 failed, and are asked for again" in caplog.text
    assert film(2).SOPInstanceUID not in caplog.text
    server.ill.clear()
    assert pull.pull_once() == 1
    assert count_waiting(pull.service.store) == 3
    kept = [pydicom.dcmread(path).SOPInstanceUID for path in pull.service.store.folders.studies.glob("*/*/original")]
    assert sorted(kept) == sorted(one.SOPInstanceUID for one in server.films.values())


def test_a_study_that_fails_holds_up_no_other_and_waits_longer_each_time(server, pulling):
    server.ill[f"/studies/{film(1).StudyInstanceUID}/"] = say(500, b"")
    pull = pulling()
    assert pull.pull_once() == 2
    server.asked.clear()
    slow = pulling(every=1000.0)
    server.ill = {f"/instances/{film(1).SOPInstanceUID}": say(404, b"")}
    assert [slow.pull_once() for _ in range(3)] == [0, 0, 0]
    assert sum(path.endswith(f"/instances/{film(1).SOPInstanceUID}") for path in server.asked) == 1
    assert film(1).StudyInstanceUID not in slow._seen


def test_a_server_that_never_ends_its_answer_stops_nobody(server, pulling, caplog):
    """A byte now and then is no silence: the answer as a whole has a time, and a stop does not wait for it."""

    def drip(asking):
        asking.send_response(200)
        asking.send_header("Content-Length", "1000000")
        asking.end_headers()
        try:
            while not server.last.wait(0.05):
                asking.wfile.write(b"[")
        except OSError:
            pass

    server.ill["/studies?"] = drip
    pull = pulling(SETTINGS.model_copy(update={"answer_seconds": 0.3}))
    with pytest.raises(Undelivered, match="took more than"):
        pull.pull_once()
    endless = pulling()
    caplog.set_level(logging.INFO)
    endless.start()
    start = time.monotonic()
    endless.stop()
    assert time.monotonic() - start < SETTINGS.network_seconds
    assert not endless._thread.is_alive()


def test_what_the_archive_has_already_is_delivered(server, tmp_path):
    """409 for a whole request says why in its body."""
    one, item, answer = film(1), Dataset(), Dataset()
    path = tmp_path / "one.dcm"
    one.save_as(path, enforce_file_format=True)
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = (
        one.SOPClassUID,
        one.SOPInstanceUID,
        0x0111,
    )
    answer.FailedSOPSequence = [item]
    stow = Stow(web_client_of(server.url, None, None, SETTINGS))
    server.ill["/studies"] = say(409, answer.to_json().encode())
    stow.send([path])
    item.FailureReason = 0x0110
    server.ill["/studies"] = say(409, answer.to_json().encode())
    with pytest.raises(Undelivered, match="reason 0x0110"):
        stow.send([path])
    server.ill["/studies"] = say(409, HTML)
    with pytest.raises(Undelivered, match="answers 409"):
        stow.send([path])
