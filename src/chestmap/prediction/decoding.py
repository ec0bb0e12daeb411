"""Decodes inputs to canvases, in processes that a bad file can't harm, in order and within bounded memory.

These processes import no torch, as those of the pack.
"""

from __future__ import annotations

import lzma
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b, sha256
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from chestmap.errors import BadImage, BadInput, Unreachable
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.decoders import Decoders, Lost
from chestmap.imaging.limits import LIMITS
from chestmap.imaging.read import DEFAULTS, ReadSettings, content_of, radiograph_of
from chestmap.prediction.pseudonym import Pseudonyms, words_of_patient
from chestmap.storage.addresses import StoreFailed, address_state, content_at, is_address, site
from chestmap.storage.freed_memory import is_lack_of_memory
from chestmap.storage.manifest import SETTLED
from chestmap.types import Frame, Radiograph

AHEAD = 24
"""Images that are decoded, or under way, before the network takes them; for each process."""

IN_A_ROW = 16
"""Inputs that a store does not give, though it does not say that they are missing."""

AHEAD_BYTES = 256 << 20
"""Of their canvases, for all processes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What may be an image: a file, or a member of a zip archive. `problem` is the reason why it cannot be opened, if known.

    `name` has parts joined by "/", is unique among the inputs and safe to print; it may still identify a patient.
    """

    name: str
    path: str
    member: int | None = None  # place in the archive
    problem: str = ""
    given: bool = False  # the name was chosen by a table of the user, so it is kept unchanged

    @property
    def key(self) -> str:
        """The input's key in a predictions folder: reveals nothing, and is the same in the next call."""
        return blake2b(self.name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """What an input held when it was read: the start of its SHA-256, and by which size and time a change would show."""

    content: str
    size: int = -1
    time: int = -1

    @property
    def state(self) -> tuple[int, int]:
        """Size in bytes and time of change: what a listing shows without reading the content."""
        return self.size, self.time


UNKNOWN = Identity("")


def content_hash(data: bytes) -> str:
    """Identifies the content of an input by the first 32 digits of its SHA-256."""
    return sha256(data).hexdigest()[:32]


@dataclass(frozen=True)
class DecodeSettings:
    """How inputs are read."""

    canvas: CanvasSettings
    pseudonyms: Pseudonyms
    settings: ReadSettings = DEFAULTS


@dataclass(frozen=True, eq=False, kw_only=True)
class Decoded:
    """One image on its canvas, with its frame and what identifies it."""

    canvas: UInt8[np.ndarray, "h w"]
    frame: Frame
    image_id: str
    patient_id: str
    identity: Identity = UNKNOWN


@dataclass(frozen=True)
class Failed:
    """`name` is the input's, without words that identify the patient."""

    name: str
    reason: str
    away: bool = False  # a store did not give it
    identity: Identity = UNKNOWN


def read_input(source: Input, reading: DecodeSettings, data: bytes) -> Radiograph:
    """The content as a radiograph; its image id and patient id are those that may be written."""
    name = shown_name(source, reading, data)
    radiograph = radiograph_of(data, name, reading.settings)
    patient = reading.pseudonyms.patient(radiograph.patient_id) or name
    return replace(radiograph, image_id=name, patient_id=patient, source="")


def shown_name(source: Input, reading: DecodeSettings, data: bytes) -> str:
    """The name that may be written."""
    return source.name if source.given else reading.pseudonyms.name(source.name, words_of_patient(data))


def content(source: Input) -> bytes:
    """The bytes of an input, no more than the limit; a message without its name."""
    if source.problem:
        raise BadImage(source.problem)
    if is_address(source.path):
        data = content_at(source.path, LIMITS.file_bytes + 1)
        LIMITS.check_bytes(len(data))
        return data
    return content_of(Path(source.path)) if source.member is None else unpacked(source.path, source.member)


def unpacked(path: str, member: int, first: int | None = None) -> bytes:
    """A member of an archive, or its first bytes."""
    try:
        archive = _archive(path)
        info = archive.infolist()[member]
        if first is None:
            LIMITS.check_bytes(info.file_size)
        with archive.open(info) as stream:
            return stream.read(first or LIMITS.file_bytes + 1)
    except (
        OSError,
        EOFError,
        RuntimeError,
        IndexError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        said = " ".join(str(error).split())[:120]
        hint = "it is encrypted: unpack it first" if "encrypted" in said else "the archive is damaged: pack it again"
        raise BadImage(f"cannot be unpacked ({said or type(error).__name__}): {hint}") from None


@lru_cache(maxsize=2)
def _archive(path: str) -> zipfile.ZipFile:
    """Kept open: reading the list of a large archive anew for each member would take longer than the members."""
    return zipfile.ZipFile(path)


def decode(source: Input, reading: DecodeSettings) -> Decoded | Failed:
    """Decodes one input to a canvas, or gives the reason why it cannot be; bad files never raise."""
    name, identity = source.name, UNKNOWN
    try:
        state = state_of(source)
        data = content(source)
        identity = Identity(content_hash(data), *state)
        name = shown_name(source, reading, data)
        radiograph = radiograph_of(data, name, reading.settings)
        canvas, frame = on_canvas(radiograph, reading.canvas)
    except BadInput as problem:
        return Failed(name, str(problem).removeprefix(f"{name}: "), isinstance(problem, StoreFailed), identity)
    except (OSError, MemoryError, cv2.error) as error:
        if is_lack_of_memory(error):
            raise
        return Failed(name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", identity=identity)
    patient = reading.pseudonyms.patient(radiograph.patient_id) or name
    return Decoded(canvas=canvas, frame=frame, image_id=name, patient_id=patient, identity=identity)


def state_of(source: Input) -> tuple[int, int]:
    """Size and time of an input's file, as cheaply as they can be had; (-1, -1) where they prove nothing."""
    if source.problem:
        return UNKNOWN.state
    try:
        if is_address(source.path):
            return address_state(source.path)
        status = Path(source.path).stat()
    except (OSError, BadInput):
        return UNKNOWN.state
    changed = max(status.st_mtime_ns, status.st_ctime_ns)  # a copy may keep the former, never the latter
    settled = time.time_ns() - changed > SETTLED  # else another change may not show in the time
    return (status.st_size, changed) if settled else UNKNOWN.state


def current_content(source: Input, known: Identity) -> str:
    """The hash of what an input holds now; it is read only where size or time are not those that are known."""
    if known.state != UNKNOWN.state and state_of(source) == known.state:
        return known.content
    try:
        return content_hash(content(source))
    except BadImage:
        return UNKNOWN.content


def decode_all(inputs: Iterable[Input], reading: DecodeSettings, workers: int) -> Iterator[tuple[Input, Decoded | Failed]]:
    """Each input with what became of it, in order; with 0 workers in a thread of this process."""
    size = reading.canvas.width * reading.canvas.height
    ahead = min(AHEAD * max(workers, 1), AHEAD_BYTES // size)
    with Decoders(partial(decode, reading=reading), workers) as decoders, closing(decoders.run(inputs, ahead)) as results:
        yield from watched((source, _failed(source, found)) for source, found in results)


def _failed(source: Input, found: Decoded | Failed | Lost) -> Decoded | Failed:
    return Failed(source.name, str(found)) if isinstance(found, Lost) else found


def watched(results: Iterable[tuple[Input, Decoded | Failed]]) -> Iterator[tuple[Input, Decoded | Failed]]:
    """Ends where a store gives nothing any more, as after its credentials have run out, instead of setting all else aside."""
    row = 0
    for source, found in results:
        if not (isinstance(found, Failed) and found.away):
            row = 0
        elif (row := row + 1) == IN_A_ROW:
            raise Unreachable(
                f"{site(source.path)}: gave none of {row} inputs in a row ({found.reason}); call again when it does"
            )
        yield source, found
