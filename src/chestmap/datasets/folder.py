"""Any folder of images, with a table of labels and a file of boxes where there are any.

    labels.csv     image, then one column for each finding (1, 0, -1 or blank for unknown), or one column `findings` with
                   names separated by |; if wanted patient_id, view, age, sex, split (the name of a list)
    boxes.csv      image, finding and x0, y0, x1, y1, or x, y, w, h, in pixels of the image (or in the unit of `box_unit`)
    boxes.json     COCO: images, annotations, categories

An image is named by its path from the root, its file name or its stem, whichever is unique, in any case of letters. Without a table every PNG, JPEG
and DICOM file counts and its labels are unknown. Patients that are not named are the images themselves.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import polars as pl
from pydantic import field_validator

from chestmap.datasets.box_units import Unit, boxes_in_pixels
from chestmap.datasets.coco import read_coco
from chestmap.datasets.columns import as_boxes, as_images, with_boxes_cleaned
from chestmap.datasets.csv_table import Table
from chestmap.datasets.folder_tables import labels_of, read_box_table, read_labels, with_seen
from chestmap.datasets.layout import Layout
from chestmap.datasets.readings import reviewed_readings
from chestmap.datasets.source import UNKNOWN, Problem, Source
from chestmap.datasets.text_files import locate
from chestmap.errors import BadTable, did_you_mean
from chestmap.settings import Settings
from chestmap.types import Box, Findings
from chestmap.vocabulary import CHESTXRAY14, folder_findings

ENDINGS = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".dic"}


class FolderSettings(Settings):
    """Where the images of a folder are, its label table and boxes, and how to read them."""

    name: Literal["folder"] = "folder"
    root: Path
    labels: str | None = None  # a CSV in the root
    boxes: str | None = None  # a CSV or a COCO file in the root
    box_unit: Unit | None = None  # unset: pixels, refused where they are plainly something else
    findings: tuple[str, ...] | None = None  # unset: as the labels have them, else the boxes, else ChestX-ray14's fourteen

    @field_validator("findings")
    @classmethod
    def _distinct(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else Findings(names).names


def read_folder(settings: FolderSettings) -> Source:
    """Image ids are the table's own names, or paths from the root where there is no table."""
    files = _files(settings.root)
    sizes = pl.DataFrame(schema={"image": pl.String, "width": pl.Float32, "height": pl.Float32})
    marks = None
    if settings.boxes is not None:
        path = _inside(settings.root, settings.boxes)
        coco = path.name.removesuffix(".gz").endswith(".json")
        marks, sizes = read_coco(path) if coco else (read_box_table(path), sizes)
    if settings.labels is None:
        if not files:
            raise BadTable(f"{settings.root}: no PNG, JPEG or DICOM file in it or below, and no labels are named")
        table = Table(file=settings.root.name, rows=pl.DataFrame({"image_id": files, "path": files}))
        marked = tuple(dict.fromkeys(marks.rows["finding"].sort())) if marks else ()
        findings = folder_findings(settings.findings or marked or CHESTXRAY14.names)
        labels = np.full((len(files), len(findings)), UNKNOWN, dtype=np.int8)
    else:
        table = _with_files(read_labels(_inside(settings.root, settings.labels)), files)
        table, findings, labels = labels_of(table, settings.findings)
    images = as_images(_sized(table.rows, sizes))
    boxes: dict[str, tuple[Box, ...]] = {}
    problems = table.problems
    if marks is not None:
        marks = _with_ids(replace(marks, problems=(*problems, *marks.problems)), images["image_id"])
        sides = marks.place == "annotation" or "w" in marks.rows.columns
        marks = boxes_in_pixels(marks, images, settings.root, settings.box_unit, sides=sides)
        others = [name for name in marks.rows["finding"].unique() if name not in findings]
        for name in sorted(others) if settings.findings is None else ():
            hint = did_you_mean(name, findings, count=1).replace("{", "{{").replace("}", "}}")
            say = "{finding} has no labels; its boxes are left out" + hint
            marks = marks.reported("note", "unlabeled finding", pl.col("finding") == name, say)
        marks = with_boxes_cleaned(marks, with_seen(findings.names, marks.rows["finding"]), images)
        boxes, problems = as_boxes(marks.rows, findings), marks.problems
    if "patient_id" not in table.rows.columns:
        problems += (Problem("note", "patients", "no patients are named: every image counts as one", len(images)),)
    return Source(
        name="folder",
        findings=findings,
        root=settings.root,
        images=images,
        labels=labels,
        boxes=boxes,
        lists=_lists(table.rows),
        problems=problems,
    )


def _inside(root: Path, name: str) -> Path:
    """A file named in the settings; first the root must be there, so that the message names which of the two is missing."""
    locate(root)
    return root / name


def _files(root: Path) -> list[str]:
    """Images below the root, sorted; a file without an ending counts where it starts as DICOM does, one named in no Unicode never."""
    locate(root)
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [one for one in folders if not one.startswith(".")]
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in names:
            ending = PurePosixPath(name).suffix.lower()
            if name.startswith(".") or name.encode("utf-8", "ignore").decode() != name:
                continue
            if ending in ENDINGS or (not ending and _is_dicom(Path(folder) / name)):
                found.append(str(here / name))
    return sorted(found)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def names_of(paths: Iterable[str]) -> dict[str, str]:
    """Path, path without ending, file name and stem of each file, where unique, to the path."""
    files = [PurePosixPath(path) for path in paths]
    shorts = ([file.stem for file in files], [file.name for file in files], [str(file.parent / file.stem) for file in files])
    names: dict[str, str] = {}
    for short in shorts:
        counts = Counter(short)
        names |= {name: str(file) for name, file in zip(short, files, strict=True) if counts[name] == 1}
    return names | {str(file): str(file) for file in files}


def _in_any_case(names: Mapping[str, str]) -> dict[str, str]:
    """The same in small letters, where only one file is meant."""
    meant: dict[str, set[str]] = defaultdict(set)
    for name, file in names.items():
        meant[name.lower()].add(file)
    return {name: next(iter(files)) for name, files in meant.items() if len(files) == 1}


def _with_files(table: Table, files: list[str]) -> Table:
    """`path` of each row; a file that is not there keeps the table's name and is found missing by a check."""
    names = names_of(files)
    own = pl.col("image_id")
    found = own.replace_strict(names, default=None, return_dtype=pl.String)
    table = table.with_columns(path=found)
    if table.rows["path"].null_count():
        near = own.str.to_lowercase().replace_strict(_in_any_case(names), default=None, return_dtype=pl.String)
        table = table.with_columns(near=pl.when(pl.col("path").is_null()).then(near))
        say = "{image_id} is not there, and {near} is taken for it: names differ in the case of letters"
        table = table.reported("repaired", "image name", pl.col("near").is_not_null(), say)
        table = replace(table, rows=table.rows.with_columns(path=pl.coalesce("path", "near", "image_id")).drop("near"))
    again = ~pl.col("path").is_first_distinct()
    table = table.set_aside(again, "repeated row", "{image_id} is {path}, which an earlier row names")
    unlisted = sorted(set(files) - set(table.rows["path"]))
    if not unlisted:
        return table
    message = f"{table.file}: {len(unlisted):,} images of the folder are not in the table, the first is {unlisted[0]}"
    return replace(table, problems=(*table.problems, Problem("note", "unlisted image", message, len(unlisted))))


def _with_ids(marks: Table, ids: pl.Series) -> Table:
    """Boxes may name images otherwise than the labels do: by path, file name or stem, with another ending."""
    names = names_of(ids)
    own = pl.col("image").str.replace_all("\\", "/", literal=True)
    short = own.str.split("/").list.last()
    forms = (own, short, short.str.replace(r"\.[^.]*$", ""))
    in_small = _in_any_case(names)
    found = pl.coalesce(
        *(one.replace_strict(names, default=None, return_dtype=pl.String) for one in forms),
        *(one.str.to_lowercase().replace_strict(in_small, default=None, return_dtype=pl.String) for one in forms),
    )
    marks = marks.with_columns(found=found)
    marks = marks.set_aside(pl.col("found").is_null(), "box of another image", "{image} is not among the images")
    return marks.with_columns(image=pl.col("found"))


def _sized(rows: pl.DataFrame, sizes: pl.DataFrame) -> pl.DataFrame:
    """Sizes that a COCO file gives are those of image space."""
    if sizes.is_empty():
        return rows
    names = names_of(rows["image_id"])
    sizes = sizes.with_columns(image_id=pl.col("image").replace_strict(names, default=None, return_dtype=pl.String))
    return rows.join(sizes.drop("image").drop_nulls(), on="image_id", how="left", maintain_order="left")


def _lists(rows: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The column `split` as lists, by the names in it."""
    if "list" not in rows.columns:
        return {}
    lists = rows.filter(pl.col("list") != "").group_by("list", maintain_order=True).agg("image_id")
    return {name: tuple(ids) for name, ids in lists.iter_rows()}


LAYOUT = Layout(
    name="folder", title="any folder of images", settings=FolderSettings, read=read_folder, readings=reviewed_readings
)
