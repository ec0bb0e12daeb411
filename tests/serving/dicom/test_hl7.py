"""A finished review goes to an HL7 receiver as ORU^R01 by MLLP. hl7apy is the receiver, and validates each message."""

import socket
from contextlib import contextmanager
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.errors import BadInput
from chestmap.serving.dicom.destinations import Undelivered
from chestmap.serving.dicom.hl7 import ESCAPES, Hl7Receiver, escaped, hl7_receiver_of, message_of
from chestmap.serving.dicom.start import DicomOptions
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.http.fhir import transaction_of
from chestmap.serving.store import reviews
from chestmap.serving.store.database_tables import HL7, Study
from chestmap.serving.store.review_schema import NewReview, ReviewOut
from serving.dicom.films import Collected, counts, film, send, study_of, wait_until

mllp = pytest.importorskip("hl7apy.mllp", reason="hl7apy is absent: pip install hl7apy")
from hl7apy.consts import VALIDATION_LEVEL  # noqa: E402
from hl7apy.parser import parse_message  # noqa: E402


class Kept(mllp.AbstractHandler):
    """Keeps a message and acknowledges it; `codes` are what to answer first."""

    def __init__(self, message, kept, codes):
        super().__init__(message)
        self.kept, self.codes = kept, codes

    def reply(self):
        code = self.codes.pop(0) if self.codes else "AA"
        self.kept.append(self.incoming_message)
        number = self.incoming_message.split("|")[9]
        return f"\x0bMSH|^~\\&|RIS||CHESTMAP||20261201||ACK^R01^ACK|1|P|2.5.1\rMSA|{code}|{number}\r\x1c\r"


@contextmanager
def listening(*codes):
    kept = []
    server = mllp.MLLPServer("127.0.0.1", 0, {"ORU^R01^ORU_R01": (Kept, kept, list(codes))}, timeout=10)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield kept, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


def rows(message):
    """Of each OBX: what is observed, the group, the value and the status."""
    lines = [line.split("|") for line in message.split("\r") if line.startswith("OBX")]
    return [(line[3].split("^")[1], line[4], line[5], line[11]) for line in lines]


def unescaped(text):
    for letter, code in ESCAPES.items():
        if letter != "\\":
            text = text.replace(code, letter)
    return text.replace(ESCAPES["\\"], "\\")


STUDY = Study(
    id="s-1", sha256="1", received="2026-12-01T10:00:00.000000+00:00", instance="", origin="http", name="film", patient="p-7",
    state="done", view="PA", position="", sex="F", image={"spacing": [0.2, 0.2], "width": 64, "height": 64},
)  # fmt: skip
SHOWN = {"accession": "A|7", "indication": "cough & fever", "taken": "2020-01-02"}
SAID = {
    "version": 2, "state": "done", "by": "Ana ^ Lima", "at": "2026-12-01T11:22:33.000001+00:00", "note": "One line\nand | another",
    "findings": {
        "Mass": {"verdict": "correct", "boxes": [{"x0": 1, "y0": 2, "x1": 30.5, "y1": 40}], "by": "Ana ^ Lima", "at": "2026-12-01T11:00:00+00:00"},
        "Nodule": {"verdict": "reject", "by": "Ana ^ Lima", "at": "2026-12-01T11:00:00+00:00"},
        "Hernia": {"verdict": "unset", "by": "", "at": ""},
    },
    "measures": [{"kind": "ruler", "lines": [{"x0": 0, "y0": 0, "x1": 30, "y1": 40}]}],
}  # fmt: skip


def test_a_report_states_what_the_review_states():
    review = ReviewOut.model_validate(SAID)
    resources = [one["resource"] for one in transaction_of(STUDY, [], review, SHOWN, [review])["entry"]]
    text = message_of(STUDY, resources, SHOWN, status="F")
    long = message_of(STUDY, [{**one, "conclusion": "x" * 70_000} for one in resources], SHOWN, status="F")
    assert len(rows(long)[0][2]) == 70_000  # a TX has no bound
    message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)
    assert message.validate()
    assert (message.msh.msh_9.value, message.msh.msh_12.value, message.msh.msh_18.value) == (
        "ORU^R01^ORU_R01", "2.5.1", "UNICODE UTF-8",
    )  # fmt: skip
    lines = {line.split("|")[0]: line.split("|") for line in text.split("\r")}
    assert (lines["PID"][3], lines["PID"][5], lines["PID"][8]) == ("p-7^^^CHESTMAP^PI", "^^^^^^S", "F")
    obr = lines["OBR"]
    assert (obr[3], obr[7], obr[18], obr[22], obr[24], obr[25]) == (
        "s-1^CHESTMAP", "20200102", "A\\F\\7", "20261201112233+0000", "RAD", "F",
    )  # fmt: skip
    assert (obr[31], obr[32]) == ("^cough \\T\\ fever", "&Ana \\S\\ Lima")
    said = rows(text)
    assert said[0][0] == "Radiology Imaging study [Impression]"
    assert "and \\F\\ another" in said[0][2]
    assert "One line\\.br\\and" in said[0][2]
    assert said[1:] == [
        ("Mass", "1", "52101004^Present^SCT", "F"),
        ("Region: x0 y0 x1 y1 in image pixels", "1", "1 2 30.5 40", "F"),
        ("Nodule", "2", "2667000^Absent^SCT", "F"),
        ("Distance", "3", "10", "F"),
    ]
    assert next(line.split("|")[6] for line in text.split("\r") if "^Distance|" in line) == "mm^^UCUM"
    assert text == message_of(STUDY, resources, SHOWN, status="F")  # the same number: a receiver may know it again


@given(st.text())
def test_no_text_breaks_a_message(words):
    made = escaped(words)
    assert not set(made) & set("|^~&\r\n\x0b\x1c")
    plain = words.replace("\r\n", "\n").replace("\r", "\n")
    assert unescaped(made) == "".join(one if one == "\n" or one.isprintable() else " " for one in plain)


def test_done_sends_the_report_until_it_is_accepted(start):
    """The receiver first fails, then refuses; the archive does not wait for it. A correction says what it takes back."""
    with listening("AE", "AR") as (kept, port):
        node = start(
            Collected(),
            keep=True,
            receivers={
                HL7: hl7_receiver_of(DicomSettings(hl7=f"127.0.0.1:{port}", hl7_application="RIS", hl7_facility="WARD|7"))
            },
        )
        assert send(node.port, film(1)) == [0]
        counts(node, done=1)
        assert kept == []  # a model's own result goes to the archive alone
        study_id = study_of(node, film(1))

        def say(base, state="done", **verdicts):
            found = {name: {"verdict": verdict} for name, verdict in verdicts.items()}
            reviews.put_review(node.store, study_id, "Ana Lima", NewReview(base=base, state=state, findings=found))

        say(0, Mass="accept", Nodule="reject")
        wait_until(lambda: len(kept) == 3)
        counts(node, done=1)
        assert len(set(kept)) == 1
        assert [one[:1] + one[2:] for one in rows(kept[0])[1:] if one[0] in {"Mass", "Nodule"}] == [
            ("Mass", "52101004^Present^SCT", "F"), ("Nodule", "2667000^Absent^SCT", "F"),
        ]  # fmt: skip
        assert "Planted" not in kept[0]
        assert kept[0].split("|")[2:6] == ["CHESTMAP", "", "RIS", "WARD\\F\\7"]
        say(1, state="part", Mass="reject")
        say(2, Mass="reject")
        wait_until(lambda: len(kept) == 4)
        counts(node, done=1)
        obr = next(line.split("|") for line in kept[3].split("\r") if line.startswith("OBR"))
        assert obr[25] == "C"
        assert {(one[0], one[3]) for one in rows(kept[3]) if one[0] in {"Mass", "Nodule"}} == {
            ("Mass", "C"),
            ("Nodule", "D"),
        }
        for message in kept:
            assert parse_message(message, validation_level=VALIDATION_LEVEL.STRICT).validate()


ANSWERS = {
    "another message": (b"\x0bMSH|^~\\&|\rMSA|AA|other\r\x1c\r", "acknowledges another message"),
    "no code": (b"\x0bMSH|^~\\&|\rMSA\r\x1c\r", "answers no acknowledgment"),
    "no HL7": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers no acknowledgment"),
    "nothing": (b"", "answers no acknowledgment"),
    "words of its own": (b"\x0bMSA|Doe, John|7\r\x1c\r", "answers no acknowledgment"),
    "without end": (b"x" * (1 << 17), "answers no acknowledgment"),
    "refused": (b"\x0bMSA|AR|7\r\x1c\r", "answers AR"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_is_answered_is_not_taken_for_yes(name):
    answer, said = ANSWERS[name]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            link, _ = server.accept()
            with link:
                link.recv(1 << 16)
                link.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(Undelivered, match=said):
            Hl7Receiver(host="127.0.0.1", port=server.getsockname()[1], seconds=10).send("MSH|^~\\&|||||||ORU|7\r")
        thread.join(10)


def test_one_that_is_away_or_silent_is_waited_for_no_longer_than_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Undelivered, match=r"does not answer \(TimeoutError\)"):
            Hl7Receiver(host="127.0.0.1", port=port, seconds=0.2).send("MSH|^~\\&|||||||ORU|7\r")
    with pytest.raises(Undelivered, match=r"does not answer \(ConnectionRefusedError\)"):
        Hl7Receiver(host="127.0.0.1", port=port, seconds=5).send("MSH|^~\\&|||||||ORU|7\r")


@pytest.mark.parametrize("address", ["ris", "ris:0", "ris:70000", "mllp://ris:2575", "a b:1"])
def test_a_wrong_address_is_refused_before_a_model_is_loaded(address):
    with pytest.raises(BadInput, match=r"dicom\.hl7: expected HOST:PORT"):
        DicomOptions(allow=["TEST"], archive="PACS@127.0.0.1:104").check(ServeSettings(dicom=DicomSettings(hl7=address)))


def test_a_receiver_alone_is_refused():
    with pytest.raises(BadInput, match=r"dicom\.hl7: finished reviews go there after the archive has them"):
        DicomOptions(allow=["TEST"]).check(ServeSettings(dicom=DicomSettings(hl7="ris:2575")))
    assert hl7_receiver_of(DicomSettings(hl7="[::1]:2575")).host == "::1"
