"""Defines how the service behaves, and how much of everything it takes."""

from __future__ import annotations

from pydantic import Field

from chestmap.settings import Settings


class Bounds(Settings):
    """What one client may ask for; beyond it the answer is 4xx, and nothing was read to the end."""

    file_bytes: int = Field(default=128 << 20, ge=1)
    request_bytes: int = Field(default=256 << 20, ge=1)
    json_bytes: int = Field(default=1 << 20, ge=1)  # of a review
    files: int = Field(default=64, ge=1)  # in one request
    headers: int = Field(default=64, ge=8)
    header_bytes: int = Field(default=32 << 10, ge=1024)
    header_seconds: float = Field(default=10, gt=0)  # from a connection's start, or its last answer, to the end of a header
    body_seconds: float = Field(default=120, gt=0)  # for a whole request body
    send_seconds: float = Field(default=120, gt=0)  # for a client to take one piece of an answer
    read_seconds: float = Field(default=30, gt=0)  # to decode one image
    connections: int = Field(default=1024, ge=1)
    connections_of_address: int = Field(default=256, ge=1)  # trusted proxies have no such bound
    stranger_seconds: float = Field(default=5, gt=0)  # for the whole body of a request without a person, such as a sign-in
    stranger_bytes: int = Field(default=4096, ge=64)


class DicomSettings(Settings):
    """The DICOM door: what it takes, and how results go to the archive."""

    object_bytes: int = Field(default=128 << 20, ge=1024)  # of one image; a longer one ends its association
    pdu_bytes: int = Field(default=1 << 16, ge=4096)  # announced to senders
    associations: int = Field(default=16, ge=1)
    per_host: int = Field(default=8, ge=1)  # connections of one address, whether they ever say something or not
    acse_seconds: float = Field(default=10, gt=0)  # from connection to association
    network_seconds: float = Field(default=30, gt=0)  # of silence
    free_bytes: int = Field(default=1 << 30, ge=0)  # disk that is left alone: below it, C-STORE answers 0xA700
    retry_seconds: float = Field(default=2, gt=0)  # doubles with every attempt that fails
    longest_retry_seconds: float = Field(default=300, gt=0)
    give_up_hours: float = Field(default=72, ge=0)  # then results become dead letters
    keep_failed_hours: float = Field(default=168, ge=0)  # images that could not be read
    keep_done_days: float = Field(default=90, ge=0)  # rows of removed images, by which pulling knows what it has seen
    pull_days: int = Field(default=1, ge=0)  # studies of today and so many days before; 0 for all
    answer_seconds: float = Field(default=300, gt=0)  # for one answer of a DICOMweb server, from its first byte to its last
    organization: str = Field(default="research", min_length=1, max_length=64)  # of the readers, in reports that they verify
    fhir: str = Field(default="", max_length=2048)  # base address of a server that gets finished reviews as FHIR R4
    fhir_credentials: str = Field(default="", max_length=4096)  # a file with one line for it, NAME:PASSWORD or Bearer TOKEN
    hl7: str = Field(default="", max_length=300)  # HOST:PORT of a receiver that gets finished reviews as ORU^R01 by MLLP
    hl7_application: str = Field(default="", max_length=180)  # of that receiver, by which some interface engines route
    hl7_facility: str = Field(default="", max_length=180)
    pull_waiting: int = Field(default=200, ge=1)  # nothing is pulled while so many images wait


class ServeSettings(Settings):
    """How a service behaves: batches, decoders, limits, database, DICOM."""

    database: str | None = None  # a URL; none is SQLite in the store
    batch_size: int = Field(default=8, ge=1)
    wait_ms: float = Field(default=5, ge=0)  # how long a batch waits for images that are being received or read
    queue: int = Field(default=512, ge=1)  # studies without result, from which on uploads are refused for a while
    receiving: int = Field(default=128, ge=1)  # uploads that may be on their way at a time
    uploads: int = Field(default=32, ge=1)  # of those, how many are taken in at a time
    readers: int = Field(default=2, ge=1)  # processes that decode
    answer_seconds: float = Field(default=120, gt=0)  # a request waits so long for its results, then gets the study's id
    shutdown_seconds: int = Field(default=30, ge=1)  # what is under way may take so long to finish
    free_bytes: int = Field(default=256 << 20, ge=0)  # disk that is left alone
    show_patient: bool = False
    blind: bool = False  # every reader commits to a study without a model before results of it are given out
    engine: str = "auto"  # these three as for `chestmap predict`
    device: str = "auto"
    precision: int | str = "auto"
    bounds: Bounds = Bounds()
    dicom: DicomSettings = DicomSettings()

    @property
    def largest_file(self) -> int:
        """Of either door; a DICOM object has its file header added."""
        return max(self.bounds.file_bytes, self.dicom.object_bytes + (1 << 20))
