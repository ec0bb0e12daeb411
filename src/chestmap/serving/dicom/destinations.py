"""Stores results at an archive, by C-STORE or STOW-RS.

Both destinations answer the same way: the objects that the archive took, or why it took none. Messages never hold a name or
an id of a patient.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE

from chestmap.errors import BadInput, ChestmapError
from chestmap.serving.dicom.receiver import NOT_AUTHORIZED, OUT_OF_RESOURCES, title_of
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings
from chestmap.serving.http.access import secret_text

DUPLICATE = 0x0111
"""It is there already, under the same identifier: nothing more was wanted."""


class Undelivered(ChestmapError):
    """The message names nothing of the results. `unreachable`: others need not be tried now."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@runtime_checkable
class Destination(Protocol):
    """Takes the result objects of a study."""

    @property
    def name(self) -> str:
        """For metrics: where it is, without credentials."""
        ...

    def send(self, results: Sequence[Path]) -> None:
        """Returns when the archive has all of them, else raises `Undelivered`; sending again does no harm."""
        ...


class ReportReceiver(Protocol):
    """Takes finished reviews in a form of its own, once the archive has them."""

    @property
    def address(self) -> str:
        """For metrics: where it is, without credentials."""
        ...

    def post(self, service: Service, study_id: str) -> None:
        """Returns when the receiver has the review, or none is due; else raises `Undelivered`. Sending again does no harm."""
        ...


@dataclass(frozen=True, kw_only=True)
class CStore:
    """Sends objects to an archive by C-STORE."""

    title: str
    host: str
    port: int
    own_title: str
    settings: DicomSettings
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """Names the archive in logs and in the queue: `TITLE@host:port`."""
        return f"{self.title}@{self.host}:{self.port}"

    def send(self, results: Sequence[Path]) -> None:
        """One association for all results of an image."""
        datasets = [pydicom.dcmread(path) for path in results]
        entity = AE(self.own_title)
        entity.connection_timeout = entity.acse_timeout = self.settings.acse_seconds
        entity.dimse_timeout = entity.network_timeout = self.settings.network_seconds
        for storage in sorted({one.SOPClassUID for one in datasets}):
            entity.add_requested_context(storage, uid.ExplicitVRLittleEndian)
        tls = (self.tls, self.host) if self.tls else None
        link = entity.associate(self.host, self.port, ae_title=self.title, tls_args=tls)
        if not link.is_established:
            raise Undelivered(_why_not(link), unreachable=True)
        try:
            for dataset in datasets:
                self._send_one(link, dataset)
        finally:
            if link.is_established:
                link.release()

    def _send_one(self, link: Any, dataset: Dataset) -> None:
        try:
            answer = link.send_c_store(dataset)
        except ValueError:
            raise Undelivered(f"the archive does not take {dataset.SOPClassUID.name}") from None
        except RuntimeError:
            raise Undelivered("the archive ended the association", unreachable=True) from None
        status = answer.get("Status")
        if status is None:
            raise Undelivered("the archive ended the association, or said nothing in time", unreachable=True)
        if status not in {0, DUPLICATE} and status >> 12 != 0xB:
            said = f"the archive refuses {dataset.SOPClassUID.name}: status 0x{status:04X}"
            raise Undelivered(said, unreachable=status >> 8 == OUT_OF_RESOURCES >> 8 or status == NOT_AUTHORIZED)


def _why_not(link: Any) -> str:
    if link.is_rejected:
        return "the archive rejects us: does it know our title and address?"
    return "the archive takes none of our kinds of results" if link.rejected_contexts else "the archive does not answer"


@dataclass(frozen=True)
class Stow:
    """Sends objects to an archive by STOW-RS."""

    client: DICOMwebClient

    @property
    def name(self) -> str:
        """Names the archive in logs and in the queue: its DICOMweb address."""
        return str(self.client.base_url)

    def send(self, results: Sequence[Path]) -> None:
        """An archive may answer success and take nothing, so what it took is counted."""
        datasets = [pydicom.dcmread(path) for path in results]
        with failures_of_http():
            try:
                answer = self.client.store_instances(datasets)
            except requests.HTTPError as error:
                answer = _conflicts(error)
        taken = {str(one.ReferencedSOPInstanceUID) for one in answer.get("ReferencedSOPSequence") or ()}
        for one in answer.get("FailedSOPSequence") or ():
            if one.get("FailureReason") != DUPLICATE:
                raise Undelivered(f"the archive refuses an object: reason 0x{int(one.get('FailureReason') or 0):04X}")
            taken.add(str(one.ReferencedSOPInstanceUID))
        if missing := sum(one.SOPInstanceUID not in taken for one in datasets):
            raise Undelivered(f"the archive did not confirm {missing} of {len(datasets)} objects")


def _conflicts(error: requests.HTTPError) -> Dataset:
    """Where no object was stored the status is 409, also where that is because all are there; the body names them (PS3.18)."""
    if error.response is None or error.response.status_code != 409:
        raise error
    try:
        return Dataset.from_json(error.response.json())
    except (ValueError, TypeError, KeyError, AttributeError):
        raise error from None


@contextmanager
def failures_of_http() -> Iterator[None]:
    """Messages of requests hold addresses, and those identifiers: only what kind of failure it was goes on."""
    try:
        yield
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        raise Undelivered(f"the archive answers {status}", unreachable=status >= 500 or status in {401, 403, 429}) from None
    except requests.RequestException as error:
        raise Undelivered(f"the archive does not answer ({type(error).__name__})", unreachable=True) from None


def c_store_of(text: str, own_title: str, settings: DicomSettings, tls: ssl.SSLContext | None) -> CStore:
    """`TITLE@HOST:PORT`."""
    found = re.fullmatch(r"([^@]+)@(?:\[([^]@]+)\]|([^:@]+)):(\d{1,5})", text)
    if not found or not 0 < int(found[4]) < 65536:
        raise BadInput(f'"{text}": expected TITLE@HOST:PORT, such as PACS@10.1.2.3:104')
    return CStore(
        title=title_of(found[1]),
        host=found[2] or found[3],
        port=int(found[4]),
        own_title=own_title,
        settings=settings,
        tls=tls,
    )


def web_client_of(url: str, credentials: Path | None, authorities: Path | None, settings: DicomSettings) -> DICOMwebClient:
    """Without dicomweb-client's own retries: the queue does that."""
    if not re.fullmatch(r"https?://[^@\s?#]+", url):
        raise BadInput("DICOMweb address: expected http(s)://HOST/PATH without name or password; those go to --credentials")
    session = http_session(credentials, authorities)
    client = DICOMwebClient(url.rstrip("/"), session=session, timeout=settings.network_seconds)
    client.set_http_retry_params(retry=False)
    return client


def http_session(credentials: Path | None, authorities: Path | None) -> requests.Session:
    """Signs in with the line of a file, and trusts `authorities` where they are given."""
    session = requests.Session()
    session.trust_env = False  # neither proxies nor ~/.netrc
    if credentials:
        _sign_in(session, credentials)
    if authorities:
        session.verify = str(authorities)
    return session


def _sign_in(session: requests.Session, path: Path) -> None:
    words = secret_text(path, expected := "one line, NAME:PASSWORD or Bearer TOKEN").strip()
    if words.startswith("Bearer ") and "\n" not in words:
        session.headers["Authorization"] = words
    elif ":" in words and "\n" not in words:
        name, _, password = words.partition(":")
        session.auth = (name, password)
    else:
        raise BadInput(f"{path}: expected {expected}")
