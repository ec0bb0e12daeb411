"""The work of packing: images to rows of a file, in several processes that a bad image, a full disk or a kill can't harm.

These processes import no torch, and come from `spawn`: a fork would copy the locks of whatever threads the caller runs.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import cv2

from chestmap.errors import BadInput
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.read import read_radiograph
from chestmap.storage.atomic import cannot_write

CHUNK = 16
"""Images for each task of a process; what a kill may cost is twice this for each process."""

DEATHS = 5
"""So many dead processes are not the fault of one image."""

DIED = "the process that read it died (out of memory, or a fault in a decoder)"


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
    except (BadInput, OSError, cv2.error) as error:
        return replace(result, reason=" ".join(str(error).split()))
    _write_at(file, canvas.tobytes(), job.row * canvas.size)
    return replace(result, pixels=pixel_hash(canvas.tobytes()), size=radiograph.size)


def _write_at(file: int, data: bytes, offset: int) -> None:
    """Written through the file, never through a map of it: a full disk is then an error, not a signal that kills."""
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def pack_all(jobs: Sequence[Job], target: Path, settings: CanvasSettings, workers: int) -> Iterator[list[Packed]]:
    """Results by chunks, in the order in which they finish; every job gets one.

    When a process dies, what was under way goes again, each chunk in a process of its own, to find the image at fault.
    """
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if workers <= 1:
        for chunk in chunks:
            yield pack_chunk(chunk, target, settings)
        return
    check_guard()
    deaths = 0
    while chunks:
        suspects: list[Sequence[Job]] = []
        yield from _in_pool(chunks, suspects, target, settings, workers)
        halves = _halves(suspects[0]) if len(suspects) == 1 else suspects
        for chunk in halves:
            for results in _by_halves(chunk, target, settings):
                deaths += sum(result.reason.endswith(DIED) for result in results)
                yield results
                if deaths > DEATHS:
                    raise BadInput(
                        f"{target.parent}: packing processes keep dying; run again with workers=1 or more memory (a script must "
                        'call this under `if __name__ == "__main__":`)'
                    )


def _by_halves(jobs: Sequence[Job], target: Path, settings: CanvasSettings) -> Iterator[list[Packed]]:
    """By halves, until the image that kills its process is alone and set aside."""
    lost: list[Sequence[Job]] = []
    yield from _in_pool([jobs], lost, target, settings, 1)
    if lost and len(jobs) == 1:
        yield [Packed(row=jobs[0].row, reason=f"{jobs[0].path}: {DIED}")]
    elif lost:
        for half in _halves(jobs):
            yield from _by_halves(half, target, settings)


def check_guard() -> None:
    """Refuse where a script asks for processes outside of its `if __name__ == "__main__":`.

    Every process of `spawn` reads the script again. Without the guard it would come here too, and wait forever for its parent.
    """
    frame = inspect.currentframe()
    while frame and not (frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"):
        frame = frame.f_back
    path = Path(str(frame.f_globals.get("__file__", ""))) if frame else Path()
    if not frame or not path.is_file():
        return  # a thread, a notebook or a prompt: nothing is read again
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if statement.lineno <= frame.f_lineno <= (statement.end_lineno or statement.lineno):
            names = (
                {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
                if isinstance(statement, ast.If)
                else set()
            )
            if "__name__" not in names:
                raise BadInput(
                    f"{path}, line {frame.f_lineno}: packing starts processes that read this script again, so the line must stand "
                    f'under `if __name__ == "__main__":`; put it there, or pack first with `chestmap data pack`'
                )


def _halves(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    middle = len(jobs) // 2
    return [half for half in (jobs[:middle], jobs[middle:]) if half]


def _in_pool(
    chunks: list[Sequence[Job]], lost: list[Sequence[Job]], target: Path, settings: CanvasSettings, workers: int
) -> Iterator[list[Packed]]:
    """Takes chunks from the list's end; those under way when a process dies are put in `lost`, the others stay."""
    context = multiprocessing.get_context("spawn")
    under_way: dict[Future[list[Packed]], Sequence[Job]] = {}
    pool = ProcessPoolExecutor(workers, context, initializer=begin)
    try:
        while (chunks or under_way) and not lost:
            while chunks and len(under_way) < 2 * workers:
                under_way[pool.submit(pack_chunk, chunks[0], target, settings)] = chunks[0]
                del chunks[0]
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                yield future.result()
                del under_way[future]
    except BrokenProcessPool:
        lost += under_way.values()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin() -> None:
    """A process of the pool: left to the parent to interrupt, ends when the parent is gone, one thread of decoding."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this a killed parent leaves processes that wait for ever: they hold both ends of their queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
