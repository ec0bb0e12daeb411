"""Sends finished reviews as HL7 version 2 reports (ORU^R01) by MLLP, until the receiver has accepted them.

A report states what the review's FHIR resources state: verdicts, boxes, measures, and the reader's words. Scores of models
are left out. The patient is a pseudonym; the accession number is there only where the service shows patients.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from chestmap.errors import BadInput
from chestmap.serving.dicom.destinations import Undelivered
from chestmap.serving.dicom.fhir_server import transaction_for
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings
from chestmap.serving.http.answers import row_of
from chestmap.serving.store import reviews
from chestmap.serving.store.database_tables import Study

START, END = b"\x0b", b"\x1c\r"
"""What frames a message in MLLP."""
LONGEST_ANSWER = 1 << 16
STATUS = {"final": "F", "preliminary": "P", "entered-in-error": "D"}
IMPRESSION = "19005-8^Radiology Imaging study [Impression]^LN"
ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\n": "\\.br\\"}


@dataclass(frozen=True, kw_only=True)
class Hl7Receiver:
    """A program that takes reports by MLLP. While it is away, the archive still gets its results."""

    host: str
    port: int
    seconds: float
    application: str = ""
    facility: str = ""

    @property
    def address(self) -> str:
        """Names it in metrics."""
        return f"mllp://{self.host}:{self.port}"

    def post(self, service: Service, study_id: str) -> None:
        """Returns when the receiver has accepted the report, or none is due; else raises `Undelivered`."""
        if resources := transaction_for(service, study_id):
            self.send(message_for(service, study_id, resources, (self.application, self.facility)))

    def send(self, message: str) -> None:
        """Waits for the answer that accepts this very message."""
        try:
            with socket.create_connection((self.host, self.port), self.seconds) as link:
                link.sendall(START + message.encode() + END)
                answer = _answer(link, time.monotonic() + self.seconds)
        except OSError as error:  # its message may hold addresses
            raise Undelivered(f"the HL7 receiver does not answer ({type(error).__name__})") from None
        code, number = _said(answer)
        if code not in {"AA", "CA"}:
            raise Undelivered(f"the HL7 receiver answers {code or 'no acknowledgment'}")
        if number != message.split("|")[9]:
            raise Undelivered("the HL7 receiver acknowledges another message")


def _answer(link: socket.socket, end: float) -> bytes:
    found = b""
    while END[:1] not in found and len(found) < LONGEST_ANSWER:
        link.settimeout(max(0.001, end - time.monotonic()))
        if not (piece := link.recv(4096)):
            break
        found += piece
    return found.strip(START + END)


def _said(answer: bytes) -> tuple[str, str]:
    """The code of an acknowledgment, such as AA, and the number of the message that it is for."""
    for segment in answer.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
        name, _, rest = segment.partition("|")
        if name == "MSA":
            code, number = (*rest.split("|"), "")[:2]
            return (code if re.fullmatch("[AC][ARE]", code) else ""), number
    return "", ""


def message_for(service: Service, study_id: str, resources: Mapping[str, Any], to: tuple[str, str]) -> str:
    """The report of a finished review, with what an earlier version stated and this one does not."""
    found = service.store.study(study_id)
    if found is None:
        raise BadInput("its study was deleted")
    versions = reviews.history(service.store, study_id)
    again = any(one.state == "done" for one in versions[:-1])
    shown = row_of(service, found[0])
    said = [one["resource"] for one in resources["entry"]]
    return message_of(found[0], said, shown, status="C" if again else "F", to=to)


def message_of(
    study: Study, resources: list[dict[str, Any]], shown: Mapping[str, Any], *, status: str, to: tuple[str, str] = ("", "")
) -> str:
    """`resources` are those of the FHIR transaction; `status` is F, or C where it corrects an earlier report.

    `to` names the receiver's application and facility.
    """
    (report,) = (one for one in resources if one["resourceType"] == "DiagnosticReport")
    at, reader = _time(report["issued"]), escaped("".join(one["display"] for one in report.get("resultsInterpreter", ())))
    patient = f"{escaped(report['subject']['identifier']['value'])}^^^CHESTMAP^PI"
    indication = f"^{escaped(shown['indication'])}" if shown["indication"] else ""
    request = {
        1: "1", 3: f"{study.id}^CHESTMAP", 4: "18748-4^Diagnostic imaging study^LN", 7: _time(shown["taken"] or ""),
        18: escaped(shown["accession"]), 22: at, 24: "RAD", 25: status, 31: indication, 32: f"&{reader}",
    }  # fmt: skip
    body = [
        _segment("PID", {1: "1", 3: patient, 5: "^^^^^^S", 8: study.sex}),
        _segment("OBR", request),
        *_results(resources, report["conclusion"], at, reader, status),
    ]
    number = sha256("\r".join(body).encode()).hexdigest()[:20]  # the same report again has the same number
    head = {
        2: "CHESTMAP", 4: escaped(to[0]), 5: escaped(to[1]), 6: at, 8: "ORU^R01^ORU_R01", 9: number, 10: "P", 11: "2.5.1", 17: "UNICODE UTF-8",
    }  # fmt: skip
    return "\r".join([_segment("MSH|^~\\&", {key - 1: value for key, value in head.items()}), *body]) + "\r"


def _results(resources: list[dict[str, Any]], conclusion: str, at: str, reader: str, status: str) -> Iterator[str]:
    rows: list[tuple[str, str, str, str, str, str]] = [("TX", IMPRESSION, "", escaped(conclusion), "", "F")]
    said = (one for one in resources if one["resourceType"] == "Observation" and "device" not in one)
    for place, one in enumerate(said, 1):
        sub, name, state = str(place), _coded(one["code"]), STATUS[one["status"]]
        if (value := one.get("valueCodeableConcept")) is not None:
            rows.append(("CWE", name, sub, _coded(value), "", state))
        else:
            found = one["valueQuantity"]
            unit = f"{found['unit']}^^UCUM" if "system" in found else found["unit"]
            rows.append(("NM", name, sub, f"{found['value']:g}", unit, state))
        rows += [
            ("ST", f"^{escaped(box['code']['text'])}", sub, box["valueString"], "", state)
            for box in one.get("component", ())
        ]
    for number, (kind, name, sub, value, unit, state) in enumerate(rows, 1):
        final = status if state == "F" else state
        yield _segment(
            "OBX", {1: str(number), 2: kind, 3: name, 4: sub, 5: value, 6: unit, 11: final, 14: at, 16: f"^{reader}"}
        )


def _segment(name: str, fields: Mapping[int, str]) -> str:
    """A line with these fields by number; what is behind the last one is left out."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))])


def _coded(concept: Mapping[str, Any]) -> str:
    """Code, words and scheme; words alone where there is no code."""
    for one in concept.get("coding", ()):
        return f"{one['code']}^{escaped(concept.get('text', one['display']))}^SCT"
    return f"^{escaped(concept['text'])}"


def _time(said: str) -> str:
    """ISO 8601 in UTC, or a date of DICOM, as HL7 writes it."""
    digits = re.sub(r"\D", "", said.partition(".")[0])[:14]
    return f"{digits}+0000" if len(digits) == 14 else digits[:8]


def escaped(words: str) -> str:
    """Text without what HL7 would take for its own marks."""
    plain = words.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(ESCAPES.get(letter, letter if letter.isprintable() else " ") for letter in plain)


def hl7_receiver_of(settings: DicomSettings) -> Hl7Receiver | None:
    """The receiver of `dicom.hl7`; None where none is set."""
    if not settings.hl7:
        return None
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})", settings.hl7)
    if match is None or not 0 < int(match[2]) < 65536:
        raise BadInput("dicom.hl7: expected HOST:PORT of an MLLP receiver, such as ris:2575")
    return Hl7Receiver(
        host=match[1].strip("[]"), port=int(match[2]), seconds=settings.network_seconds,
        application=settings.hl7_application, facility=settings.hl7_facility,
    )  # fmt: skip
