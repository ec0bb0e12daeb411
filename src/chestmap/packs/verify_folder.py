"""Verifies every kept folder at or below a path: sums of files, rows of packs, parts of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chestmap.errors import BadInput, ChestmapError
from chestmap.packs.pack import RECORDS, open_pack
from chestmap.progress import Report, progress_of
from chestmap.storage.manifest import SUMS, damage_in, seal, sums_of

MARKS = {
    "model.json": None, "export.json": None, "scores.parquet": None, "predictions.json": ("predictions.json",),
    "pack.json": RECORDS, "done.json": ("step.json", "done.json", "weights.safetensors"),
}  # fmt: skip
"""The file that tells what a folder is, and which of its files are sealed; None: all."""


@dataclass(frozen=True)
class FolderCheck:
    files: int
    problems: tuple[str, ...]


def verify_folder(folder: Path, *, progress: bool | Report = True) -> FolderCheck:
    """One problem a line; refused where there is nothing that could be verified."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected predictions, a pack, a model, a run, an export or a store")
    places = sorted(path.parent for path in folder.rglob(SUMS))
    bare = [place for place in _kept(folder) if place not in set(places)]
    if not places and not bare:
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
    for place in [place for place in _kept(folder) if not (place / SUMS).is_file()]:
        names = next(names for mark, names in MARKS.items() if (place / mark).is_file())
        seal(place, None if names is None else [name for name in names if (place / name).is_file()])
        yield place


def _kept(folder: Path) -> list[Path]:
    """Unfinished ones count as none: they are made on when their command is called again."""
    found = {path.parent for mark in MARKS for path in folder.rglob(mark)}
    return sorted(place for place in found if not _unfinished(place))


def _unfinished(place: Path) -> bool:
    for name in ("predictions.json", "pack.json"):
        try:
            if (place / name).is_file() and not json.loads((place / name).read_text(encoding="utf-8")).get("complete"):
                return True
        except (OSError, ValueError, AttributeError):
            return False
    return ".making" in place.name


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
    try:
        wanted = int(json.loads((place / "predictions.json").read_bytes())["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # reported above
    there = {path.parent.name for path in place.glob(f"part-?????/{SUMS}")}
    missing = [f"part-{number:05d}" for number in range(wanted) if f"part-{number:05d}" not in there]
    return [f"{place / name}: is missing; run the same `chestmap predict` again" for name in missing]
