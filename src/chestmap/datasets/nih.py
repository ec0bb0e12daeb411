"""ChestX-ray14 as the NIH Clinical Center publishes it, in its spellings of 2017 and of 2020.

    root/Data_Entry_2017.csv or Data_Entry_2017_v2020.csv      labels
    root/BBox_List_2017.csv                                    984 boxes on 880 images, x, y, width, height
    root/train_val_list.txt, test_list.txt                     the official lists
    root/images/*.png or root/images_001/images/*.png …        1024 x 1024 pixels as published

Image space is 1024 x 1024 whatever the size of the stored images, since the boxes are given there. Every file may be gzipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import field_validator

from chestmap.datasets.columns import (
    SEXES,
    VIEWS,
    as_boxes,
    as_images,
    numbers,
    separated,
    unique_rows,
    vocabulary,
    with_age,
    with_boxes_cleaned,
    with_word,
)
from chestmap.datasets.csv_table import Table, read_csv
from chestmap.datasets.layout import Layout
from chestmap.datasets.source import Problem, Source
from chestmap.datasets.text_files import locate, located, read_list
from chestmap.errors import BadTable
from chestmap.settings import Settings
from chestmap.vocabulary import CHESTXRAY14

SIDE = 1024.0
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}


class NihSettings(Settings):
    """Where ChestX-ray14 is, and which findings and boxes are read."""

    name: Literal["nih"] = "nih"
    root: Path
    findings: tuple[str, ...] | None = None  # a choice of the fourteen, in the order wanted
    no_finding: bool = False  # a last output for No Finding, as AG-CNN has it
    table: str | None = None  # the label table's file name where it is not the publisher's

    @field_validator("findings")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else vocabulary(CHESTXRAY14, names).names


def read_nih(settings: NihSettings) -> Source:
    """Image ids are file names, with their ending; the lists are `train_val` and `test`."""
    findings = vocabulary(CHESTXRAY14, settings.findings, no_finding=settings.no_finding)
    path = located(settings.root, *([settings.table] if settings.table else TABLES))
    table = _with_patients(_entries(path))
    table, labels = separated(table, CHESTXRAY14, findings)
    table = table.reported("error", "no label", pl.col("labels") == "", "the labels are blank; taken as unknown")
    table = with_word(with_word(with_age(table), "view", VIEWS), "sex", SEXES)
    rows = table.rows.with_columns(path=_paths(settings.root, table.rows["image_id"]), width=SIDE, height=SIDE)
    boxes, told = _boxes(settings.root, as_images(rows))
    lists, missing = _lists(settings.root, table.rows["image_id"])
    used = Problem("note", "label table", f"labels come from {path.name}")
    return Source(
        name="nih",
        findings=findings,
        root=settings.root,
        images=as_images(rows),
        labels=labels,
        boxes=as_boxes(boxes, findings),
        lists=lists,
        problems=(used, *table.problems, *told, *missing),
    )


def _entries(path: Path) -> Table:
    """The label table in either spelling: 2017 pads ages (058Y) and ends rows with a comma, later copies say Patient Sex."""
    required = {
        "image_id": ("Image Index",),
        "labels": ("Finding Labels", "Finding Label"),
        "patient_id": ("Patient ID",),
    }
    optional = {"age": ("Patient Age",), "sex": ("Patient Gender", "Patient Sex"), "view": ("View Position",)}
    table = read_csv(path, required, optional)
    table = table.set_aside(pl.col("image_id") == "", "image name", "the image has no name")
    return unique_rows(table, "image_id", ("labels", "patient_id"))


def _with_patients(table: Table) -> Table:
    """File names start with the patient's number, so a blank one can be mended and a wrong one noticed."""
    named = pl.col("image_id").str.extract(r"^(\d{8})_\d{3}\.").str.strip_chars_start("0")
    blank = (pl.col("patient_id") == "") & named.is_not_null()
    table = table.repaired(
        blank,
        "patient",
        "{image_id} has no patient; read from its name",
        patient_id=pl.when(blank).then(named).otherwise("patient_id"),
    )
    table = table.set_aside(pl.col("patient_id") == "", "patient", "{image_id} has no patient, and its name tells none")
    other = named.is_not_null() & (named != pl.col("patient_id").str.strip_chars_start("0"))
    return table.reported("error", "patient", other, "{image_id} is of patient {patient_id}, but its name tells another")


def _paths(root: Path, names: pl.Series) -> pl.Series:
    """Where the images lie: one folder, or the twelve of the publisher's archives; absent ones are looked for in `images`."""
    folders = sorted(root.glob("images_*/images/")) or sorted(root.glob("images_*/"))
    where = {name: folder.relative_to(root).as_posix() for folder in folders for name in os.listdir(folder)}  # noqa: PTH208 - 112,120 of them
    flat = not where and not (root / "images").is_dir() and (root / names[0]).is_file()
    if flat:
        return names
    return names.replace_strict(where, default="images", return_dtype=pl.String) + "/" + names


def _boxes(root: Path, images: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Problem, ...]]:
    path = locate(root, "BBox_List_2017.csv")
    if path is None:
        told = Problem("note", "no boxes", f"{root} holds no BBox_List_2017.csv: no image has a box")
        return pl.DataFrame(schema=dict.fromkeys(("image", "finding", "x0", "y0", "x1", "y1"), pl.String)), (told,)
    # The publisher breaks one name over two columns: `Bbox [x`, `y`, `w`, `h]`.
    spellings = {"x": ("Bbox [x", "x"), "y": ("y",), "w": ("w",), "h": ("h]", "h")}
    table = read_csv(path, {"image": ("Image Index",), "finding": ("Finding Label", "Finding Labels"), **spellings})
    table = numbers(table, "x", "y", "w", "h")
    x, y = pl.col("x"), pl.col("y")
    table = table.with_columns(x0=x, y0=y, x1=x + pl.col("w"), y1=y + pl.col("h"))
    table = with_boxes_cleaned(table, CHESTXRAY14, images)
    return table.rows, table.problems


def _lists(root: Path, names: pl.Series) -> tuple[dict[str, tuple[str, ...]], tuple[Problem, ...]]:
    """The official lists, of the images in the table."""
    known = set(names)
    lists: dict[str, tuple[str, ...]] = {}
    problems = []
    for name, file in LISTS.items():
        path = locate(root, file)
        if path is None:
            problems.append(Problem("note", "no list", f"{root} holds no {file}: the official split cannot be made"))
            continue
        listed = read_list(path)
        lists[name] = tuple(one for one in listed if one in known)
        if not lists[name]:
            raise BadTable(
                f"{path}: none of its {len(listed):,} lines is an image of the table; the first is {listed[0][:80]}"
            )
        if other := len(listed) - len(lists[name]):
            problems.append(
                Problem("note", "listed image absent", f"{file}: {other:,} listed images are not in the table", other)
            )
    return lists, tuple(problems)


LAYOUT = Layout(name="nih", title="ChestX-ray14", settings=NihSettings, read=read_nih, is_published=True)
