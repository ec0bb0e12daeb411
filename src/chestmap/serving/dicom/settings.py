"""How the node behaves, and how much of everything it takes."""

from __future__ import annotations

from pydantic import Field

from chestmap.settings import Settings


class NodeSettings(Settings):
    object_bytes: int = Field(default=128 << 20, ge=1024)  # of one image; a longer one ends its association
    pdu_bytes: int = Field(default=1 << 16, ge=4096)  # told to senders
    associations: int = Field(default=16, ge=1)
    per_host: int = Field(default=8, ge=1)  # connections of one address, whether they ever say something or not
    acse_seconds: float = Field(default=10, gt=0)  # from connection to association
    network_seconds: float = Field(default=30, gt=0)  # of silence
    free_bytes: int = Field(default=1 << 30, ge=0)  # disk that is left alone: below it, C-STORE answers 0xA700
    batch_size: int = Field(default=8, ge=1)
    readers: int = Field(default=2, ge=1)  # processes that decode
    read_seconds: float = Field(default=30, gt=0)  # to decode one image
    retry_seconds: float = Field(default=2, gt=0)  # doubles with every attempt that fails
    longest_retry_seconds: float = Field(default=300, gt=0)
    give_up_hours: float = Field(default=72, ge=0)  # then results become dead letters
    keep_failed_hours: float = Field(default=168, ge=0)  # images that could not be predicted
    keep_done_days: float = Field(default=90, ge=0)  # lines of the queue, by which pulling knows what it has seen
    pull_days: int = Field(default=1, ge=0)  # studies of today and so many days before; 0 for all
    answer_seconds: float = Field(default=300, gt=0)  # for one answer of a DICOMweb server, from its first byte to its last
    pull_waiting: int = Field(default=200, ge=1)  # nothing is pulled while so many images wait
    engine: str = "auto"  # these three as for `chestmap predict`
    device: str = "auto"
    precision: int | str = 32
