"""Whether the files of a source are there, can be read, fit their boxes and differ from each other.

`check` calls both functions. Files are opened in processes that a bad file cannot harm; each fault becomes a `Problem` with
an example, never an exception.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chestmap.datasets.checks.check_pixels import FileContent, look_at
from chestmap.datasets.source import Level, Problem, Source
from chestmap.imaging.decoders import Decoders, Lost
from chestmap.progress import progress_of

LOOKS_AT_ONCE = 16
"""Threads that look for files; on a network disk each look is a wait."""

FEW = 8
"""Files for which a process is not worth its start."""

ASPECT = 0.02
"""By how much the aspect of a stored image may differ from image space: rounding to whole pixels at 256."""


def look_for_files(source: Source, *, progress: bool = True) -> tuple[list[int], list[Problem]]:
    """Rows with a file, and what is missing or empty."""
    paths = [source.root / path for path in source.images["path"]]
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool, progress_of("Looking for files", len(paths), show=progress) as advance:
        sizes = []
        for size in pool.map(_size, paths, chunksize=256):
            sizes.append(size)
            advance(1)
    missing = [row for row, size in enumerate(sizes) if size is None]
    empty = [row for row, size in enumerate(sizes) if size == 0]
    problems = []
    if missing:
        all_missing = len(missing) == len(paths)
        way_out = "check the root, or look at the tables alone" if all_missing else "fetch them again"
        message = f"{len(missing):,} of {len(paths):,} images are not there, such as {paths[missing[0]]}; {way_out}"
        problems.append(Problem("error", "missing file", message, len(missing)))
    if empty:
        message = f"{len(empty):,} files are empty, such as {paths[empty[0]]}; fetch them again"
        problems.append(Problem("error", "empty file", message, len(empty)))
    return [row for row, size in enumerate(sizes) if size], problems


def _size(path: Path) -> int | None:
    """Bytes, or None where there is nothing to open: a broken link and a folder without permission count as missing."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def look_at_pixels(
    source: Source, rows: Sequence[int], *, workers: int | None = None, progress: bool = True
) -> list[Problem]:
    """Opens the files of these rows in several processes (all cores by default; with one, in this process)."""
    paths = [source.path(row) for row in rows]
    count = workers or os.cpu_count() or 1
    with (
        Decoders(look_at, 0 if count == 1 or len(paths) <= FEW else min(count, len(paths) // FEW + 1)) as decoders,
        progress_of("Opening images", len(paths), show=progress) as advance,
    ):
        seen: list[FileContent] = []
        for path, look in decoders.run(paths, 4 * count):
            seen.append(FileContent(wrong=f"{path}: {look}") if isinstance(look, Lost) else look)
            advance(1)
    problems = [Problem("error", "unreadable file", look.wrong) for look in seen if look.wrong]
    good = [(row, look) for row, look in zip(rows, seen, strict=True) if not look.wrong]
    return [*problems, *_misplaced(source, good), *_inverted(source, good), *_same_pixels(source, good)]


def _misplaced(source: Source, good: Sequence[tuple[int, FileContent]]) -> list[Problem]:
    """Image space that the stored pixels contradict, so that boxes would lie elsewhere.

    Where a source gives sizes, stored images may be smaller but not of another aspect; where it gives none, image space is
    the stored pixels, and a box beyond them shows that the images were shrunk.
    """
    beyond, bent = [], []
    sizes = source.images.select("image_id", "width", "height").rows()
    for row, look in good:
        image, width, height = sizes[row]
        if width is not None and abs(width * look.height / (height * look.width) - 1) > ASPECT:
            bent.append(f"{image} ({look.width} x {look.height} stored, {width:g} x {height:g} expected)")
        if width is None and any(box.x1 > look.width + 1 or box.y1 > look.height + 1 for box in source.boxes.get(image, ())):
            beyond.append(f"{image} ({look.width} x {look.height})")
    problems = []
    if bent:
        message = f"{len(bent):,} images are stored in another aspect than their boxes expect, such as {bent[0]}"
        problems.append(Problem("error", "aspect", message, len(bent)))
    if beyond:
        message = f"{len(beyond):,} images have boxes beyond their stored pixels, such as {beyond[0]}"
        problems.append(Problem("error", "box outside", message, len(beyond)))
    return problems


def _inverted(source: Source, good: Sequence[tuple[int, FileContent]]) -> list[Problem]:
    """A note: nobody but a reader can be sure."""
    rows = [row for row, look in good if look.inverted]
    if not rows:
        return []
    message = f"{len(rows):,} images are brighter at their border than in the middle, such as {source.ids[rows[0]]}; "
    return [Problem("note", "brightness", message + "look whether black and white are exchanged there", len(rows))]


def _same_pixels(source: Source, good: Sequence[tuple[int, FileContent]]) -> list[Problem]:
    """Equal pictures: a note where one patient has both, an error where two do, since a split cannot keep them apart."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, look in good:
        groups[look.digest].append(row)
    patients = source.images["patient_id"]
    again = [rows for rows in groups.values() if len(rows) > 1]
    across = [rows for rows in again if len({patients[row] for row in rows}) > 1]
    within = [rows for rows in again if rows not in across]
    kinds: tuple[tuple[Level, str, list[list[int]]], ...] = (
        ("error", "of different patients ", across),
        ("note", "", within),
    )
    problems = []
    for level, kind, which in kinds:
        if which:
            names = " and ".join(source.ids[row] for row in which[0][:2])
            message = f"{len(which):,} groups of images {kind}hold the same pixels, such as {names}"
            problems.append(Problem(level, "same pixels", message, sum(map(len, which))))
    return problems
