"""Posts finished reviews to a FHIR server, as a transaction of updates that may be repeated without harm."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from chestmap.errors import BadInput
from chestmap.serving.dicom.destinations import Undelivered, http_session
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings
from chestmap.serving.http.answers import row_of
from chestmap.serving.http.fhir import transaction_of
from chestmap.serving.store import reviews

FHIR_JSON = "application/fhir+json"


@dataclass(frozen=True)
class FhirServer:
    """Takes transactions at its base address. While it is away, the archive still gets its results."""

    address: str
    session: requests.Session
    seconds: float

    def post(self, service: Service, study_id: str) -> None:
        """Sends the review's resources, unless the review is in work again."""
        if transaction := transaction_for(service, study_id):
            self.send(transaction)

    def send(self, transaction: Mapping[str, Any]) -> None:
        """Returns when the server has confirmed each resource, else raises `Undelivered`."""
        try:
            answer = self.session.post(
                self.address, data=json.dumps(transaction), timeout=self.seconds, allow_redirects=False,
                headers={"Content-Type": FHIR_JSON, "Accept": FHIR_JSON, "Prefer": "return=minimal"},
            )  # fmt: skip
            answer.raise_for_status()
            said = answer.json()
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            raise Undelivered(f"the FHIR server answers {status}") from None
        except requests.RequestException as error:  # its message may hold addresses
            raise Undelivered(f"the FHIR server does not answer ({type(error).__name__})") from None
        asked = len(transaction["entry"])
        if missing := asked - _confirmed(said):
            raise Undelivered(f"the FHIR server did not confirm {missing} of {asked} resources")


def _confirmed(said: Any) -> int:
    entries = said.get("entry") if isinstance(said, dict) and said.get("type") == "transaction-response" else None
    answers = [one.get("response") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    return sum(isinstance(one, dict) and str(one.get("status", "")).startswith("2") for one in answers)


def fhir_server_of(settings: DicomSettings, authorities: Path | None) -> FhirServer | None:
    """The server of `dicom.fhir`; None where none is set."""
    if not settings.fhir:
        return None
    if not re.fullmatch(r"https?://[^@\s?#]+", settings.fhir):
        raise BadInput(
            "dicom.fhir: expected http(s)://HOST/PATH without name or password; those go to dicom.fhir_credentials"
        )
    credentials = Path(settings.fhir_credentials) if settings.fhir_credentials else None
    return FhirServer(settings.fhir.rstrip("/"), http_session(credentials, authorities), settings.network_seconds)


def transaction_for(service: Service, study_id: str) -> dict[str, Any] | None:
    """None where the review is in work again: the next time that it is done sends it."""
    found, review = service.store.study(study_id), reviews.current(service.store, study_id)
    if found is None:
        raise BadInput("its study was deleted")
    if review.state != "done":
        return None
    study, results = found
    return transaction_of(study, results, review, row_of(service, study), reviews.history(service.store, study_id))
