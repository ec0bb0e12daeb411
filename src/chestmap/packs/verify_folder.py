"""Verifies every kept folder at or below a path: sums of files, rows of packs, parts of predictions.

`chestmap check` calls `verify_folder`. It reads every byte, changes nothing, and lists what differs instead of raising at
the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chestmap.errors import BadInput, ChestmapError
from chestmap.packs.pack import RECORDS, open_pack
from chestmap.progress import Report, progress_of
from chestmap.storage.json_file import read_json
from chestmap.storage.manifest import SUMS, damage_in, seal, sums_of

MARKS = {
    "model.json": None, "export.json": None, "scores.parquet": None, "predictions.json": ("predictions.json",),
    "pack.json": RECORDS, "done.json": ("step.json", "done.json", "weights.safetensors"),
}  # fmt: skip
"""The file that tells what a folder is, and which of its files are sealed; None: all."""


@dataclass(frozen=True)
class FolderCheck:
    """What was verified of one kept folder, and what is damaged."""

    files: int
    problems: tuple[str, ...]


def verify_folder(folder: Path, *, required: bool = True, progress: bool | Report = True) -> FolderCheck:
    """One problem a line; where it is `required`, a folder with nothing that could be verified is refused."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected predictions, a pack, a model, a run, an export or a store")
    places, bare = _kept(folder)
    if required and not places and not bare:
        raise BadInput(f"{folder}: no {SUMS} here or below; expected a folder that chestmap wrote")
    problems = [f"{place}: no {SUMS}, so that nothing proves what is in it; see --seal" for place in bare]
    total = len(bare)
    with progress_of("check", sum(map(_files, places)), show=progress, unit="files") as advance:
        for place in places:
            total += _files(place)
            problems += damage_in(place, advance)
    for place in places:
        if (place / "pack.json").is_file() and not any(line.startswith(f"{place}/") for line in problems):
            rows, damaged = _rows(place, progress=progress)
            total, problems = total + rows, problems + damaged
        if (place / "predictions.json").is_file():
            problems += _parts(place)
    return FolderCheck(total, tuple(problems))


def seal_folders(folder: Path) -> Iterator[Path]:
    """Writes the sums of kept folders that have none."""
    for place in _kept(folder)[1]:
        names = next(names for mark, names in MARKS.items() if (place / mark).is_file())
        seal(place, None if names is None else [name for name in names if (place / name).is_file()])
        yield place


def _kept(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders with sums, and without. Unfinished ones count as none: they are made on when their command is called again."""
    walk = sorted((Path(root), set(names)) for root, _, names in os.walk(folder))
    bare = (place for place, names in walk if SUMS not in names and names & MARKS.keys() and not _unfinished(place))
    return [place for place, names in walk if SUMS in names], list(bare)


def _unfinished(place: Path) -> bool:
    about = _tree(place / "predictions.json") or _tree(place / "pack.json")
    return ".making" in place.name or (bool(about) and not about.get("complete"))


def _tree(path: Path) -> dict[str, Any]:
    """Empty where it cannot be read: its sums tell why."""
    try:
        found = read_json(path, "")
    except (FileNotFoundError, ChestmapError):
        return {}
    return found if isinstance(found, dict) else {}


def _files(place: Path) -> int:
    try:
        return len(sums_of(place))
    except ChestmapError:
        return 1


def _rows(place: Path, *, progress: bool | Report) -> tuple[int, list[str]]:
    """Every packed image."""
    try:
        pack = open_pack(place)
    except ChestmapError as problem:
        return 1, [str(problem)]
    damaged = pack.damaged(progress=progress)
    return len(pack), [f"{place}: the pixels of {one} changed after packing; pack again with --verify" for one in damaged]


def _parts(place: Path) -> list[str]:
    wanted = _tree(place / "predictions.json").get("parts")
    if not isinstance(wanted, int):
        return []  # reported above
    there = {path.parent.name for path in place.glob(f"part-?????/{SUMS}")}
    missing = [f"part-{number:05d}" for number in range(wanted) if f"part-{number:05d}" not in there]
    return [f"{place / name}: is missing; run the same `chestmap predict` again" for name in missing]
