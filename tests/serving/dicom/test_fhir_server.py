"""A finished review goes to a FHIR server as a transaction, until the server has confirmed it. fhir.resources checks each."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from chestmap.errors import BadInput
from chestmap.serving.dicom.fhir_server import fhir_server_of
from chestmap.serving.dicom.start import DicomOptions
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.store import deliveries, reviews
from chestmap.serving.store.database_tables import FHIR
from chestmap.serving.store.review_schema import NewReview
from serving.dicom.films import Collected, counts, film, send, study_of, wait_until

bundles = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is absent: pip install fhir.resources")


class Kept(BaseHTTPRequestHandler):
    """A server that keeps what it is sent, by type and id. `faults` are answers to give first."""

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append((self.path, self.headers["Content-Type"], self.headers["Authorization"]))
        status, entries = server.faults.pop(0) if server.faults else (200, None)
        if status == 200:
            bundle = json.loads(body)
            bundles.Bundle.model_validate(bundle)
            assert bundle["type"] == "transaction"
            wanted = bundle["entry"] if entries is None else bundle["entry"][:entries]
            for one in wanted:
                assert one["request"] == {
                    "method": "PUT",
                    "url": f"{one['resource']['resourceType']}/{one['resource']['id']}",
                }
                server.resources[one["request"]["url"]] = one["resource"]
            said = [{"response": {"status": "201 Created"}} for _ in wanted]
            answer = json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": said}).encode()
        else:
            answer = b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@contextmanager
def listening(*faults):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kept)
    server.asked, server.faults, server.resources = [], list(faults), {}
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server, f"http://127.0.0.1:{server.server_address[1]}/fhir"
    server.shutdown()
    server.server_close()
    thread.join(10)


def of(server, kind):
    return [one for url, one in server.resources.items() if url.startswith(f"{kind}/")]


def say(node, study_id, base, state="done", **verdicts):
    said = {name: {"verdict": verdict} for name, verdict in verdicts.items()}
    reviews.put_review(node.store, study_id, "Ana Lima", NewReview(base=base, state=state, findings=said))


def test_done_posts_the_review_until_the_server_has_it(start, tmp_path):
    """The server is broken first, then confirms half; the archive does not wait for it."""
    (tmp_path / "token").write_text("Bearer abc")
    (tmp_path / "token").chmod(0o600)
    archive = Collected()
    with listening((503, None), (200, 2)) as (server, address):
        settings = DicomSettings(fhir=address, fhir_credentials=str(tmp_path / "token"))
        node = start(archive, keep=True, receivers={FHIR: fhir_server_of(settings, None)})
        assert send(node.port, film(1)) == [0]
        counts(node, done=1)
        assert server.asked == []  # a model's own result goes to the archive alone
        study_id = study_of(node, film(1))
        say(node, study_id, 0, Mass="accept", Nodule="reject")
        wait_until(lambda: len(server.asked) == 3)
        counts(node, done=1)
        assert set(server.asked) == {("/fhir", "application/fhir+json", "Bearer abc")}
        assert sum(one.get("VerificationFlag") == "VERIFIED" for one in archive.results) == 1
        (report,), (imaging,) = of(server, "DiagnosticReport"), of(server, "ImagingStudy")
        assert (report["status"], report["resultsInterpreter"]) == ("final", [{"display": "Ana Lima"}])
        assert report["imagingStudy"] == [{"reference": f"urn:uuid:{imaging['id']}"}]
        assert "Nodule: absent" in report["conclusion"]

        say(node, study_id, 1, state="part", Mass="reject")
        say(node, study_id, 2, Mass="reject")
        wait_until(lambda: len(server.asked) == 4)
        counts(node, done=1)
        (again,) = of(server, "DiagnosticReport")  # the same one, updated
        assert (again["id"], again["conclusion"].split(".")[0]) == (report["id"], "Mass: absent")
        judged = [one for one in of(server, "Observation") if "valueCodeableConcept" in one]
        words = {one["code"]["text"]: (one["status"], one["valueCodeableConcept"]["coding"][0]["display"]) for one in judged}
        assert words == {"Mass": ("final", "Absent"), "Nodule": ("entered-in-error", "Absent")}


def test_a_node_that_lost_its_server_reports_what_it_cannot_post(start):
    node = start(
        Collected(), keep=True, receivers={FHIR: fhir_server_of(DicomSettings(fhir="http://127.0.0.1:9/fhir"), None)}
    )
    assert send(node.port, film(1)) == [0]
    counts(node, done=1)
    say(node, study_of(node, film(1)), 0, Mass="accept")
    wait_until(lambda: any("the FHIR server does not answer" in reason for _, reason, _ in deliveries.reasons(node.store)))
    counts(node, retry=1)


@pytest.mark.parametrize("address", ["server/fhir", "http://name:word@server/fhir", "ftp://server"])
def test_a_wrong_address_is_refused_before_a_model_is_loaded(address):
    settings = ServeSettings(dicom=DicomSettings(fhir=address))
    with pytest.raises(BadInput, match=r"dicom\.fhir: expected http"):
        DicomOptions(allow=["TEST"], archive="PACS@127.0.0.1:104").check(settings)


def test_a_server_alone_is_refused():
    settings = ServeSettings(dicom=DicomSettings(fhir="http://127.0.0.1/fhir"))
    with pytest.raises(BadInput, match="after the archive has them; give --to or --stow"):
        DicomOptions(allow=["TEST"]).check(settings)
