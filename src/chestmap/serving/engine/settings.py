"""How the service behaves, and how much of everything it takes."""

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


class ServeSettings(Settings):
    database: str | None = None  # a URL; none is SQLite in the store
    batch_size: int = Field(default=8, ge=1)
    wait_ms: float = Field(default=5, ge=0)  # how long a batch waits for more images, when it is not full
    queue: int = Field(default=512, ge=1)  # studies without result, from which on uploads are refused for a while
    receiving: int = Field(default=128, ge=1)  # uploads that may be on their way at a time
    uploads: int = Field(default=32, ge=1)  # of those, how many are taken in at a time
    readers: int = Field(default=2, ge=1)  # processes that decode
    answer_seconds: float = Field(default=120, gt=0)  # a request waits so long for its results, then gets the study's id
    shutdown_seconds: int = Field(default=30, ge=1)  # what is under way may take so long to finish
    free_bytes: int = Field(default=256 << 20, ge=0)  # disk that is left alone
    show_patient: bool = False
    engine: str = "auto"  # these three as for `chestmap predict`
    device: str = "auto"
    precision: int | str = "auto"
    bounds: Bounds = Bounds()
