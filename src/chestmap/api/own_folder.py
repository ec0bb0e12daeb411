"""Looks at a folder of one's own: images, a label table, boxes in whatever form. Writes a config that trains on it.

`chestmap init` calls `write_config`. It asks nothing: whatever it assumes becomes a note, and what stops a training becomes
one line. It writes nothing but the config, and tables of converted boxes where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from chestmap.annotations.box_files import Sizes, class_file
from chestmap.annotations.interchange import image_sizes, import_annotations
from chestmap.api.own_config import CONFIG, OwnFolder, config_text, machine
from chestmap.datasets.box_units import guessed_unit
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.folder_tables import looks_like_boxes, read_box_table, read_labels
from chestmap.datasets.source import UNKNOWN
from chestmap.errors import BadInput, BadTable
from chestmap.storage.atomic import write_text

if TYPE_CHECKING:
    from chestmap.datasets.source import Source

BOXES, DATA = "chestmap-boxes.csv", "chestmap-data"
OWN = {BOXES, "scores.csv", "cases.csv", "set_aside.csv", "errors.csv"}
WORDS = {"fraction": "fractions", "percent": "percent"}
LEAST = 20
"""Images with a known label, below which nothing can be learned and scored."""


def look(folder: Path) -> tuple[OwnFolder, Source]:
    """Finds labels and boxes; whatever was assumed is a note, whatever stops a training is one error."""
    if not folder.is_dir():
        what = (
            "is a file; name the folder that holds it"
            if folder.exists()
            else "no such folder; name the one that holds the images"
        )
        raise BadInput(f"{folder}: {what}")
    try:
        sizes = image_sizes(folder)
    except BadTable:
        sizes = {}
    if not sizes:
        raise BadInput(f"{folder}: no PNG, JPEG or DICOM image in it or below; export the images first")
    found = OwnFolder(folder=folder, root=folder)
    tables = [path for path in _below(folder, {".csv", ".tsv"}) if path.name not in OWN]
    boxes = {path: table for path in tables if (table := _as_boxes(path)) is not None}
    reasons: list[str] = []
    labels = _best_labels(found, [path for path in tables if path not in boxes], reasons)
    found = replace(found, labels=_relative(labels, folder))
    found.notes.extend(_of_tables(tables, {*boxes, labels}))
    found = _with_boxes(found, boxes, sizes)
    if labels is None:
        found = _labels_from_boxes(found, reasons)
    source = read_folder(found.settings)
    if labels is not None:
        found.notes.extend(_of_columns(labels, source))
    _check(found, source)
    return found, source


def _below(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Files of the folder and of the folders in it, hidden ones left out, the nearest first."""
    paths = [path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))]
    return [path for path in paths if path.suffix.lower() in set(endings) and not path.name.startswith(".")]


def _relative(path: Path | None, folder: Path) -> str | None:
    return None if path is None else path.relative_to(folder).as_posix()


def _as_boxes(path: Path) -> pl.DataFrame | None:
    try:
        return read_box_table(path).rows
    except BadInput:
        return None


def _best_labels(found: OwnFolder, tables: list[Path], reasons: list[str]) -> Path | None:
    """The table that knows most labels of images that are there; why the others do not do is kept."""
    best: tuple[int, Path] | None = None
    for path in tables:
        try:
            source = read_folder(FolderSettings(root=found.folder, labels=_relative(path, found.folder)))
        except BadInput as problem:
            reasons.append(str(problem))
            continue
        there = [row for row in range(len(source)) if source.path(row).is_file()]
        known = int((source.labels[there] != UNKNOWN).any(1).sum()) if there else 0
        if not known:
            reasons.append(f"{path}: none of its {len(source):,} images is in the folder; the first is {source.ids[0]}")
        elif best is None or known > best[0]:
            best = known, path
    return best[1] if best else None


def _of_tables(tables: list[Path], used: set[Path | None]) -> Iterator[str]:
    """Tables that are left alone; of one with numbers of boxes also why it is not read."""
    for path in tables:
        if path not in used:
            yield f"{path.name} is left alone{f': {_why_no_boxes(path)}' if looks_like_boxes(path) else ''}"


def _why_no_boxes(path: Path) -> str:
    try:
        read_box_table(path)
    except BadInput as problem:
        return str(problem).removeprefix(f"{path}: ")
    return "it is a second table of boxes"


def _of_columns(labels: Path, source: Source) -> Iterator[str]:
    """What the table of labels holds that is not used, and what it lacks."""
    left = [name for name in read_labels(labels).others if name not in source.findings]
    if left:
        yield f"{labels.name}: columns left alone: {', '.join(left)[:200]}"
    if any(problem.kind == "patients" for problem in source.problems):
        yield (
            f"{labels.name}: no column of patients, so images of one patient may train and test; call it patient_id, and run "
            "`chestmap init --again`"
        )


def _with_boxes(found: OwnFolder, tables: dict[Path, pl.DataFrame], sizes: Sizes) -> OwnFolder:
    """Boxes of a table with their unit; or of a COCO file, which holds pixels by its definition."""
    for path, rows in tables.items():
        unit = guessed_unit(rows, _with_sizes(rows, sizes), sides="w" in rows.columns)
        if unit == "corners":
            rows.select("image", "finding", x0="x", y0="y", x1="w", y1="h").write_csv(found.folder / BOXES)
            found.notes.append(f"{path.name}: its x, y, width, height are corners; written as x0, y0, x1, y1 to {BOXES}")
            return replace(found, boxes=BOXES)
        if unit != "pixels":
            found.notes.append(f'{path.name}: boxes are {WORDS[unit]} of the image, so box_unit = "{unit}"')
        return replace(found, boxes=_relative(path, found.folder), unit=unit)
    for path in _below(found.folder, {".json"}):
        text = path.read_text(encoding="utf-8", errors="replace")[:1_000_000]
        if '"annotations"' in text and '"categories"' in text:
            return replace(found, boxes=_relative(path, found.folder))
    return found


def _with_sizes(rows: pl.DataFrame, sizes: Sizes) -> pl.DataFrame:
    """Boxes of images that are there, with `wide` and `high`; images are found by path, name or stem."""
    path = pl.col("image").str.replace_all("\\", "/", literal=True)
    name = path.str.split("/").list.last()
    keys = pl.concat_list(path, name, name.str.replace(r"\.[^.]*$", ""))
    kept = [next((sizes[key] for key in three if key in sizes), None) for three in rows.select(keys).to_series().to_list()]
    sides = {side: [size and size[place] for size in kept] for place, side in enumerate(("wide", "high"))}
    return rows.with_columns(pl.DataFrame(sides, schema=dict.fromkeys(sides, pl.Float64))).drop_nulls("wide")


def _other_boxes(folder: Path) -> Path | None:
    """YOLO or Pascal VOC files, CreateML or Label Studio JSON, CVAT XML; the first that is there."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name != DATA)):
        texts = next(place.glob("*.txt"), None) or next((place / "labels").glob("**/*.txt"), None)
        if class_file(place) and texts:
            return place
        xml = sorted(place.glob("*.xml"))
        if xml and "<bndbox>" in xml[0].read_text(encoding="utf-8", errors="replace"):
            return place
    files = [*_below(folder, {".json"}), *_below(folder, {".xml"})]
    return next(iter(files), None)


def _labels_from_boxes(found: OwnFolder, reasons: list[str]) -> OwnFolder:
    """Without a label table the boxes are all that is known: an annotated image without a box of a finding is without it."""
    marked = found.folder / found.boxes if found.boxes and found.boxes.endswith(".json") else _other_boxes(found.folder)
    if marked is None:
        why = f" ({reasons[0]})" if reasons else ""
        raise BadInput(
            f"{found.folder}: no table of labels{why}; write labels.csv with a column image and a column for each finding "
            "(1, 0, or blank for unknown), or put boxes of an annotation program there"
        )
    out = found.folder / DATA
    aside = import_annotations(marked, found.folder, out, complete=True) if not out.is_dir() else None
    found.notes.extend(aside.lines[:5] if aside else [])
    found.notes.append(f"{marked.name}: a finding without a box counts as absent; images and tables are in {DATA}")
    return replace(found, root=out, labels="labels.csv", boxes="boxes.json")


def _check(found: OwnFolder, source: Source) -> None:
    known = int((source.labels != UNKNOWN).any(1).sum())
    if known < LEAST:
        raise BadInput(
            f"{found.folder}: {known} images have a known label; at least {LEAST} are needed to train and to score"
        )
    rows = zip(source.findings, source.labels.T, strict=True)
    poor = [name for name, column in rows if not (column == 1).any() or not (column == 0).any()]
    if len(poor) == len(source.findings):
        raise BadInput(f"{found.folder}: no finding is both present and absent: {', '.join(poor)}; nothing can be learned")
    if poor:
        found.notes.append(f"{', '.join(poor)}: only present or only absent, so it cannot be learned or scored")


def write_config(folder: Path, *, again: bool = False) -> tuple[Path, OwnFolder, Source]:
    """Looks at the folder and writes chestmap.toml into it; one that is there is kept unless `again`."""
    path = folder / CONFIG
    if path.exists() and not again:
        raise BadInput(f"{path}: is there already; train with it, or write it anew with --again")
    found, source = look(folder)
    write_text(path, config_text(found, source, machine()))
    return path, found, source
