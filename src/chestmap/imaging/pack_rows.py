"""Packs images into rows of a file, in processes that a bad image, a full disk or a kill can't harm. No torch, no polars here.

`packs.build` hands jobs to these functions and keeps the records. A row is width × height bytes of gray; a failed image
leaves a reason in place of pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path

import cv2

from chestmap.errors import BadInput
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.decoders import Decoders, Lost
from chestmap.imaging.read import read_radiograph
from chestmap.storage.atomic import cannot_write
from chestmap.storage.freed_memory import is_lack_of_memory

CHUNK = 16
"""Images for each task of a process; what a kill may cost is twice this for each process."""


@dataclass(frozen=True)
class Job:
    """One image to pack. `content` is the hash of the file that the row was made from, empty for a new row."""

    row: int
    path: Path
    size: tuple[float, float] | None  # of image space, where the source gives one
    content: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What became of a job; without `pixels` (a hash) it was set aside for `reason`, or the file is unchanged."""

    row: int
    bytes: int = -1
    mtime: int = -1
    content: bytes = b""
    pixels: bytes = b""
    size: tuple[float, float] = (0.0, 0.0)
    reason: str = ""


def pixel_hash(pixels: bytes | memoryview) -> bytes:
    """The 128-bit BLAKE2b of a row's pixels, as the pack keeps it."""
    return blake2b(pixels, digest_size=16).digest()


def pack_chunk(jobs: Sequence[Job], target: Path, settings: CanvasSettings) -> list[Packed]:
    """Rows are on the disk when this returns, so that a record of them holds even after a power cut."""
    try:
        with target.open("r+b", buffering=0) as file:
            done = [_packed(job, file.fileno(), settings) for job in jobs]
            os.fsync(file.fileno())
            return done
    except OSError as error:
        raise cannot_write(target, error) from None


def _packed(job: Job, file: int, settings: CanvasSettings) -> Packed:
    result = Packed(row=job.row)
    try:
        stat = job.path.stat()
        with job.path.open("rb") as stored:
            content = file_digest(stored, "sha256").digest()[:16]
        result = replace(result, bytes=stat.st_size, mtime=stat.st_mtime_ns, content=content)
        if content == job.content:
            return result
        radiograph = read_radiograph(job.path)
        if job.size is not None:
            radiograph = replace(radiograph, size=job.size)
        canvas, _ = on_canvas(radiograph, settings)
    except FileNotFoundError:
        return replace(result, reason=f"{job.path}: no such file")
    except (BadInput, OSError, MemoryError, cv2.error) as error:
        if is_lack_of_memory(error):
            raise
        return replace(result, reason=" ".join(str(error).split()) or f"{job.path}: {type(error).__name__}")
    _write_at(file, canvas.tobytes(), job.row * canvas.size)
    return replace(result, pixels=pixel_hash(canvas.tobytes()), size=radiograph.size)


def _write_at(file: int, data: bytes, offset: int) -> None:
    """Written through the file, never through a map of it: a full disk is then an error, not a signal that kills."""
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def pack_all(jobs: Sequence[Job], target: Path, settings: CanvasSettings, workers: int) -> Iterator[list[Packed]]:
    """Results by chunks; every job gets one. The images of a chunk that was lost go again, each alone, to find the one at fault."""
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    work = partial(pack_chunk, target=target, settings=settings)
    with Decoders(work, workers if workers > 1 else 0) as decoders:
        for chunk, found in decoders.run(chunks, 2 * workers, tries=1):
            if not isinstance(found, Lost):
                yield found
                continue
            for (job,), alone in decoders.run([[job] for job in chunk], workers):
                yield [Packed(row=job.row, reason=f"{job.path}: {alone}")] if isinstance(alone, Lost) else alone
