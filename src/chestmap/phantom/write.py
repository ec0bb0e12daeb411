"""A phantom dataset on disk, laid out as NIH lays out ChestX-ray14.

Work happens in `<folder>.part`, chunk by chunk; a chunk is done when its JSON with the boxes is there, so a killed run goes
on where it was. One process at a time draws a folder; the next finds it finished. Nothing in the files depends on the number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from chestmap.errors import BadInput, BadModel
from chestmap.imaging.decoders import Decoders, Lost
from chestmap.phantom.draw import Drawing, draw
from chestmap.phantom.findings.lesions import Mask
from chestmap.phantom.label_files import write_tables
from chestmap.phantom.population import Population, make_population
from chestmap.phantom.settings import PhantomSettings
from chestmap.progress import Report, progress_of
from chestmap.storage.atomic import publish, sweep, write_text
from chestmap.storage.json_file import read_json
from chestmap.storage.locks import in_turn
from chestmap.storage.manifest import damage_in, is_sealed, seal

VERSION = 1
"""Changes whenever the same settings give other pixels, labels or boxes."""

_CHUNK = 16


def write_phantom(folder: Path, settings: PhantomSettings, *, progress: bool | Report = True) -> Path:
    """Writes the dataset, or finds it finished; a folder with something else in it is refused."""
    folder = Path(folder)
    record = {"phantom": VERSION, "settings": settings.model_dump(mode="json")}
    if _finished(folder, record):
        return folder
    part = folder.with_name(folder.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(part.with_name(f".{part.name}.lock")):
        if not _finished(folder, record):  # another process may have drawn it meanwhile
            _draw(folder, part, settings, record, progress=progress)
    return folder


def _draw(
    folder: Path, part: Path, settings: PhantomSettings, record: dict[str, object], *, progress: bool | Report
) -> None:
    _begin(part, record)
    people = make_population(settings)
    chunks = [range(start, min(start + _CHUNK, len(people))) for start in range(0, len(people), _CHUNK)]
    waiting = [rows for rows in chunks if not _report(part, rows).is_file()]
    with progress_of("phantom", len(people), show=progress) as advance:
        advance(len(people) - sum(map(len, waiting)))
        for done in _run(part, settings, waiting):
            advance(done)
    found = {int(row): boxes for rows in chunks for row, boxes in read_json(_report(part, rows), f"delete {part}").items()}
    write_tables(part, people, settings, found)
    shutil.rmtree(part / "chunks")
    seal(part)
    publish(part, folder)


def _finished(folder: Path, record: dict[str, object]) -> bool:
    """True where this very phantom is there already, whole; empty and absent folders are free to use."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    told = folder / "phantom.json"
    there = _read_record(told) if told.is_file() else None
    if there == record:
        damage = damage_in(folder, remedy="remove this folder to draw it again") if is_sealed(folder) else []
        if damage:
            raise BadInput(f"{damage[0]}{f' ({len(damage)} files in all)' if len(damage) > 1 else ''}")
        return True
    what = "a phantom of other settings" if there else "something that is no phantom"
    raise BadInput(f"{folder}: holds {what}; give another folder, or remove this one first")


def _read_record(path: Path) -> object:
    """None where it cannot be read: then it is not ours."""
    try:
        return read_json(path, "")
    except (OSError, BadModel):
        return None


def _begin(part: Path, record: dict[str, object]) -> None:
    """Goes on with a half-written phantom of the same settings, and starts afresh otherwise."""
    if part.exists() and _read_record(part / "phantom.json") != record:
        shutil.rmtree(part)
    if part.exists():
        sweep(part)
    for name in ("images", "chunks"):
        (part / name).mkdir(parents=True, exist_ok=True)
    write_text(part / "phantom.json", json.dumps(record, indent=2) + "\n")


def _report(part: Path, rows: range) -> Path:
    """The file that marks a chunk as done and lists its boxes."""
    return part / "chunks" / f"{rows.start:07d}.json"


def _run(part: Path, settings: PhantomSettings, chunks: list[range]) -> Iterator[int]:
    """Numbers of images, as they get done; small phantoms are not worth other processes."""
    processes = min(settings.processes or os.cpu_count() or 1, len(chunks))
    if processes <= 1 or (not settings.processes and len(chunks) < 4):
        processes = 0
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with Decoders(partial(_write_chunk, part, settings), processes) as drawing:
            for rows, done in drawing.run(chunks, 2 * processes):
                if isinstance(done, Lost):
                    raise BadInput(f"phantoms {rows.start} to {rows.stop - 1}: {done}; give more memory, or processes = 1")
                yield done
    finally:
        cv2.setNumThreads(threads)


def _write_chunk(part: Path, settings: PhantomSettings, rows: range) -> int:
    """Runs in a worker: images first, then the report that makes them count."""
    people = make_population(settings)
    boxes = {}
    for row in rows:
        drawing = draw(people.case(row, settings), settings.side)
        _write_image(part, people, settings, row, drawing)
        boxes[row] = [[box.finding, *box.corners] for box in drawing.boxes]
    write_text(_report(part, rows), json.dumps(boxes))
    return len(rows)


def _write_image(part: Path, people: Population, settings: PhantomSettings, row: int, drawing: Drawing) -> None:
    """PNG, and what else was asked for. An image may be written twice after a kill, with the same bytes."""
    name = people.image_id(row)
    ok, data = cv2.imencode(".png", drawing.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise BadInput(f"{name}: OpenCV could not encode a PNG of {drawing.pixels.shape}; expected 32 to 2048 pixels a side")
    (part / "images" / f"{name}.png").write_bytes(data.tobytes())
    if settings.masks:
        (part / "masks").mkdir(exist_ok=True)
        _write_masks(part / "masks" / f"{name}.npz", drawing.masks)
    if settings.dicom:
        from chestmap.phantom.dicom_copy import write_dicom

        (part / "dicom").mkdir(exist_ok=True)
        write_dicom(part / "dicom" / f"{name}.dcm", people, settings, row, drawing.pixels)


def _write_masks(path: Path, masks: Mapping[str, Mask]) -> None:
    """One boolean array for each finding under the finding's name, as `numpy.savez` would write them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for finding, mask in masks.items():
            with archive.open(zipfile.ZipInfo(f"{finding}.npy"), "w") as entry:
                np.lib.format.write_array(entry, mask, allow_pickle=False)
