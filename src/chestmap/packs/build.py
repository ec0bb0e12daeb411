"""Makes a pack: decodes what is new or changed, keeps what is not, survives being killed.

A row's pixels reach the disk before its record, records before `pack.json` marks the pack as complete. Whatever
is killed in between is done again; whatever was finished is not.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from chestmap.datasets.source import Source
from chestmap.errors import BadInput
from chestmap.imaging.pack_rows import Job, Packed, pack_all
from chestmap.packs.pack import (
    ASIDE,
    FORM,
    NEW,
    PACK_AGAIN,
    PACKED,
    RECORDS,
    RECORDS_CHANGED,
    STATE,
    Pack,
    PackSettings,
    check_fits,
    damage,
    fingerprint_of,
    mapped,
    open_pack,
    read_about,
)
from chestmap.progress import Report, progress_of
from chestmap.storage.atomic import cannot_write, replacing, sweep, write_bytes, write_json, write_text
from chestmap.storage.locks import in_turn
from chestmap.storage.manifest import is_sealed, seal, sha256_of, sums_of, unseal, verified

WORTH_A_PROCESS = 64
"""With fewer images for each, processes cost more time to start than they save."""

__all__ = ["Pack", "PackSettings", "cores", "make_pack", "open_pack", "pack_place"]


def make_pack(
    source: Source,
    folder: Path,
    settings: PackSettings | None = None,
    workers: int | None = None,
    *,
    progress: bool | Report = True,
    verify: bool = False,
) -> Pack:
    """Packs what is new, changed (size or time, then content) or damaged; returns at once where nothing is.

    Images that cannot be read are set aside with their reasons and tried again when their file changes. `workers` is the most
    processes, all cores by default; a script that allows more than one must call this under `if __name__ == "__main__":`.
    `verify` checks every packed row by its hash first. Several processes may call this at once, as the ranks of a training do:
    one packs, the others wait.
    """
    settings = settings or PackSettings()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder):
            sweep(folder)
            making = _Making.begin(folder, source, settings)
            if verify:
                making.forget_damaged(show=progress)
            jobs = making.jobs(source)
            if jobs or not making.complete:
                making.run(jobs, workers, show=progress)
            if not is_sealed(folder):
                seal(folder, RECORDS)  # it was stopped between its last two files
            return open_pack(folder, source, settings)
    except OSError as error:
        raise cannot_write(Path(error.filename or folder), error) from None


def pack_place(cache: Path, source: Source, settings: PackSettings) -> Path:
    """Where a cache keeps this source on this canvas: two folders of one kind have packs of their own."""
    root = blake2b(str(source.root.resolve()).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return cache / f"{source.name}-{root}-{settings.width}x{settings.height}-{settings.fit}"


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One process packs, the others wait; the lock goes with the process that holds it."""
    with in_turn(folder / "lock", lambda: _print_line(f"{folder}: another process is packing, waiting for it")):
        yield


@dataclass(eq=False, kw_only=True)
class _Making:
    """A pack folder while it is written; `complete` is the state in its `pack.json`."""

    folder: Path
    settings: PackSettings
    source: str
    ids: list[str]
    state: np.ndarray
    reasons: dict[str, str]
    complete: bool

    @classmethod
    def begin(cls, folder: Path, source: Source, settings: PackSettings) -> _Making:
        """What is there already, and a row for each image that is new."""
        about = read_about(folder)
        if about is None:
            return cls(
                folder=folder,
                settings=settings,
                source=source.name,
                ids=list(source.ids),
                state=np.zeros(len(source), STATE),
                reasons={},
                complete=False,
            )
        changed = damaged_records(folder)
        pack = mapped(folder, about, compare=False)
        known = set(pack.ids)
        added = [image_id for image_id in source.ids if image_id not in known]
        check_fits(pack, None if added else source, settings)
        if pack.source != source.name or len(added) == len(source):
            raise BadInput(f"{folder}: holds images of {pack.source}, none of this {source.name}; choose another folder")
        state = np.zeros(len(pack.ids) + len(added), STATE)
        known_rows = min(len(pack.state), len(pack.ids))
        state[:known_rows] = pack.state[:known_rows]
        complete = about["complete"] and not added
        making = cls(
            folder=folder,
            settings=settings,
            source=source.name,
            ids=[*pack.ids, *added],
            state=state,
            reasons=dict(pack.set_aside),
            complete=complete,
        )
        if about["complete"] and (what := changed or damage(pack)):
            _print_line(f"{folder}: {what}; looking at every image")
            if what == RECORDS_CHANGED:
                state[:] = np.zeros((), STATE)
                making.complete = False
            making.forget_damaged(show=False)
        return making

    def forget_damaged(self, *, show: bool | Report) -> None:
        """Make rows again when their pixels changed since packing."""
        pack = self._pack()
        for image_id in pack.damaged(progress=show):
            self.state[pack.row_of[image_id]] = np.zeros((), STATE)
            self.complete = False

    def jobs(self, source: Source) -> list[Job]:
        """Rows of this source that are new or have a changed file."""
        row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        columns = (source.images[name].to_list() for name in ("image_id", "path", "width", "height"))
        jobs = []
        for image_id, path, width, height in zip(*columns, strict=True):
            size = None if width is None or height is None else (float(width), float(height))
            job = Job(row_of[image_id], source.root / path, size)
            was = self.state[job.row]
            if was["status"] == NEW or (was["status"] == PACKED and size not in (None, (was["width"], was["height"]))):
                jobs.append(job)
            elif _touched(job.path, was):
                jobs.append(Job(job.row, job.path, size, was["content"].tobytes()))
        return jobs

    def run(self, jobs: list[Job], workers: int | None, *, show: bool | Report) -> None:
        """From here to the end the pack counts as unfinished."""
        self._require_room(jobs)
        unseal(self.folder)
        if (self.folder / "pack.json").exists():
            self._write_about(fingerprint="", complete=False)
        write_text(self.folder / "ids.txt", "".join(f"{image_id}\n" for image_id in self.ids))
        target = self.folder / "images.bin"
        with target.open("ab") as file:
            file.truncate(len(self.ids) * self.settings.width * self.settings.height)
        write_bytes(self.folder / "state.bin", self.state.tobytes())
        self._write_about(fingerprint="", complete=False)
        processes = min(workers or cores(), len(jobs) // WORTH_A_PROCESS)
        with (
            progress_of("pack", len(jobs), show=show) as advance,
            (self.folder / "state.bin").open("r+b", buffering=0) as records,
        ):
            for results in pack_all(jobs, target, self.settings, processes):
                for result in results:
                    self._note(result)
                    os.pwrite(records.fileno(), self.state[result.row].tobytes(), result.row * STATE.itemsize)
                if any(result.reason for result in results):
                    self._write_reasons()
                advance(len(results))
        self._write_reasons()
        self._write_about(fingerprint_of(self._pack()), complete=True)
        seal(self.folder, RECORDS)

    def _note(self, result: Packed) -> None:
        """A file found unchanged leaves its row and its reason as they were; only the new time is kept."""
        record, image_id = self.state[result.row], self.ids[result.row]
        record["bytes"], record["mtime"] = result.bytes, result.mtime
        record["content"] = np.frombuffer(result.content.ljust(16, b"\0"), np.uint8)
        if result.reason:
            record["status"] = ASIDE
            self.reasons[image_id] = result.reason
        elif result.pixels:
            record["status"] = PACKED
            record["width"], record["height"] = result.size
            record["pixels"] = np.frombuffer(result.pixels, np.uint8)
            self.reasons.pop(image_id, None)

    def _pack(self) -> Pack:
        """Opens the rows as they are now, to look at their pixels before the pack is finished."""
        return Pack(self.folder, self.settings, self.source, tuple(self.ids), self.state)

    def _require_room(self, jobs: list[Job]) -> None:
        """Report it before the first image is decoded rather than hours later."""
        size = self.settings.width * self.settings.height
        there = (self.folder / "images.bin").stat().st_blocks * 512 if (self.folder / "images.bin").exists() else 0
        needed = min(len(jobs) * size, len(self.ids) * size - there) + self.state.nbytes * 2
        if (free := shutil.disk_usage(self.folder).free) < needed:
            raise BadInput(
                f"{self.folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; make room or choose a "
                "smaller canvas"
            )

    def _write_about(self, fingerprint: str, *, complete: bool) -> None:
        """Writes pack.json, by which a later call sees whether the pack is complete, and of what."""
        about = {
            "form": FORM,
            "source": self.source,
            "settings": self.settings.model_dump(),
            "images": len(self.ids),
            "set_aside": len(self.reasons),
            "complete": complete,
            "fingerprint": fingerprint,
        }
        write_json(self.folder / "pack.json", about)

    def _write_reasons(self) -> None:
        """Writes set_aside.csv anew as a whole, by image id."""
        with replacing(self.folder / "set_aside.csv") as made, made.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image_id", "reason"), *sorted(self.reasons.items())])


def damaged_records(folder: Path) -> str:
    """Tells whether the records of rows changed after packing, in words for the user; empty where they did not.

    Records of rows can be made again from the image files. Any other record that changed is refused.
    """
    if not is_sealed(folder):
        return ""
    for name in RECORDS:
        if name != "state.bin":
            verified(folder, name, PACK_AGAIN)
    return RECORDS_CHANGED if sha256_of(folder / "state.bin") != sums_of(folder).get("state.bin") else ""


def _touched(path: Path, was: np.void) -> bool:
    """Tells whether size or time of a file differ from those at packing.

    A file that went away after it was packed is not missed: its pixels are in the pack.
    """
    try:
        stat = path.stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) != (was["bytes"], was["mtime"])


def _print_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def cores() -> int:
    """Processors that this process may use; a limit by `taskset` or a container's scheduler counts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
