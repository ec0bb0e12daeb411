"""VinDr-CXR: 15,000 training images, each marked by three of 17 radiologists.

    root/train.csv (Kaggle) or annotations_train.csv (PhysioNet)     image_id, class_name, rad_id, x_min, y_min, x_max, y_max
    root/annotations_test.csv                                        the consensus of five, without rad_id
    root/train/*.dicom, root/test/*.dicom                            or .dcm, .png, .jpg

A reader who found nothing has a row `No finding` without a box. Boxes are in pixels of the DICOM images; their sizes the
tables do not give. No patient is named either, so every image counts as a patient of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int8
from pydantic import Field, field_validator

from chestmap.datasets.columns import CORNERS, as_boxes, as_images, numbers, spelled, vocabulary, with_boxes_cleaned
from chestmap.datasets.consensus import agreed, by_reader
from chestmap.datasets.csv_table import Table, read_csv
from chestmap.datasets.layout import Layout
from chestmap.datasets.readings import Reading
from chestmap.datasets.source import UNKNOWN, Problem, Source
from chestmap.datasets.text_files import locate, located
from chestmap.errors import BadTable
from chestmap.settings import Settings
from chestmap.types import Box, Findings
from chestmap.vocabulary import NO_FINDING, VINDR

TABLES = {"train": ("train.csv", "annotations_train.csv"), "test": ("annotations_test.csv",)}
ENDINGS = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


class VindrSettings(Settings):
    """Where VinDr-CXR is, and how boxes of several readers become one set."""

    name: Literal["vindr"] = "vindr"
    root: Path
    findings: tuple[str, ...] | None = None  # unset: those that the tables mark
    no_finding: bool = False  # a last output for No Finding
    readers: Literal["union", "agreement"] = "union"  # every reader's boxes, or the mean boxes on which readers agree
    agreement: int = Field(2, ge=1, le=17)  # readers that must agree, on a label and on a box
    overlap: float = Field(0.5, gt=0, le=1)  # IoU from which two readers' boxes are the same
    disputed: Literal["absent", "unknown"] = "absent"  # a finding that too few readers marked

    @field_validator("findings")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else vocabulary(VINDR, names).names


def read_vindr(settings: VindrSettings) -> Source:
    """A finding that the tables never mark is unknown, not absent: Kaggle's table names 14 of the 22."""
    parts = {part: path for part, names in TABLES.items() if (path := locate(settings.root, *names))}
    if not parts:
        located(settings.root, *(name for names in TABLES.values() for name in names))
    tables = {part: _marks(path) for part, path in parts.items()}
    lists = {part: tuple(table.rows["image"].unique(maintain_order=True)) for part, table in tables.items()}
    if twice := set(lists.get("train", ())) & set(lists.get("test", ())):
        raise BadTable(f"{settings.root}: image {min(twice)} is in the training and in the test table")
    marks = pl.concat([table.rows for table in tables.values()])
    marked = set(marks["finding"])
    names = settings.findings or tuple(name for name in VINDR if name in marked and name != NO_FINDING)
    findings = vocabulary(VINDR, names, no_finding=settings.no_finding)
    ids = pl.Series("image_id", [one for listed in lists.values() for one in listed])
    paths = [path for part, listed in lists.items() for path in _paths(settings.root, part, listed)]
    images = as_images(pl.DataFrame({"image_id": ids, "path": paths}))
    boxes, told = _boxes(tables, findings, images, settings)
    problems = [problem for table in tables.values() for problem in table.problems]
    problems += [*told, Problem("note", "patients", "VinDr-CXR names no patients: every image counts as one", len(ids))]
    labels = _labels(marks, ids, findings, settings)
    unmarked = [name for name in findings if name not in marked]
    if unmarked:
        problems.append(Problem("note", "unmarked finding", f"never marked, so unknown everywhere: {', '.join(unmarked)}"))
    return Source(
        name="vindr",
        findings=findings,
        root=settings.root,
        images=images,
        labels=labels,
        boxes=boxes,
        lists=lists,
        problems=tuple(problems),
    )


def _marks(path: Path) -> Table:
    """One row for each mark: image, finding, reader, corners as text.

    A reader cannot both find nothing and mark something: then the mark counts. A mark without a box is lost.
    """
    required = {"image": ("image_id",), "finding": ("class_name",)}
    corners = {"x0": ("x_min",), "y0": ("y_min",), "x1": ("x_max",), "y1": ("y_max",)}
    table = read_csv(path, required | corners, {"reader": ("rad_id",)})
    if "reader" not in table.rows.columns:
        table = table.with_columns(reader=pl.lit("consensus"))
    table = table.set_aside(pl.col("image") == "", "image name", "the image has no name")
    table = table.set_aside(pl.col("reader") == "", "reader", "the reader has no name")
    table = spelled(table, "finding", VINDR, any_case=True)
    nothing = pl.col("finding") == NO_FINDING
    boxless = ~nothing & pl.all_horizontal(pl.col(name) == "" for name in CORNERS)
    table = table.set_aside(boxless, "box", "{finding} without a box")
    both = nothing & (~nothing).any().over("image", "reader")
    table = table.repaired(
        both, "contradiction", f"reader {{reader}} marks a finding beside {NO_FINDING}; the finding counts"
    )
    return table.keep(~both)


def _paths(root: Path, part: str, ids: tuple[str, ...]) -> list[str]:
    """Files as they are there; where none is, as the publisher names them."""
    endings = (one for one in ENDINGS if any((root / part / f"{image}{one}").is_file() for image in ids[:20]))
    ending = next(endings, ENDINGS[0])
    return [f"{part}/{image}{ending}" for image in ids]


def _needed(marks: pl.DataFrame, settings: VindrSettings) -> pl.DataFrame:
    """How many readers must agree on an image; all of them where it has fewer than that."""
    least = settings.agreement if settings.readers == "agreement" else 1
    return marks.group_by("image").agg(needed=pl.min_horizontal(pl.lit(least), pl.col("reader").n_unique()))


def _labels(
    marks: pl.DataFrame, ids: pl.Series, findings: Findings, settings: VindrSettings
) -> Int8[np.ndarray, "image finding"]:
    """Present where enough of an image's readers marked the finding, wherever on the image that was."""
    votes = (
        marks.group_by("image", "finding").agg(votes=pl.col("reader").n_unique()).join(_needed(marks, settings), on="image")
    )
    chosen = votes.filter(pl.col("finding").is_in(findings.names)).select(
        "image", "finding", pl.col("votes") >= pl.col("needed")
    )
    row_of = {image: row for row, image in enumerate(ids)}
    marked = set(marks["finding"])
    labels = np.zeros((len(ids), len(findings)), dtype=np.int8)
    labels[:, [name not in marked for name in findings]] = UNKNOWN
    few = 0 if settings.disputed == "absent" else UNKNOWN
    for image, finding, enough in chosen.iter_rows():
        labels[row_of[image], findings.names.index(finding)] = 1 if enough else few
    return labels


def _boxes(
    tables: dict[str, Table], findings: Findings, images: pl.DataFrame, settings: VindrSettings
) -> tuple[dict[str, tuple[Box, ...]], tuple[Problem, ...]]:
    boxes: dict[str, tuple[Box, ...]] = {}
    problems: list[Problem] = []
    for table in tables.values():
        drawn = numbers(replace(table, problems=()).keep(pl.col("finding") != NO_FINDING), *CORNERS)
        drawn = with_boxes_cleaned(drawn, VINDR, images)
        problems += drawn.problems
        if settings.readers == "union":
            boxes |= as_boxes(drawn.rows, findings)
        else:
            boxes |= _merged(drawn.rows, findings, dict(_needed(table.rows, settings).iter_rows()), settings.overlap)
    return boxes, tuple(problems)


def _merged(rows: pl.DataFrame, findings: Findings, needed: dict[str, int], overlap: float) -> dict[str, tuple[Box, ...]]:
    drawn: dict[str, dict[str, list[tuple[str, Box]]]] = defaultdict(lambda: defaultdict(list))
    chosen = rows.filter(pl.col("finding").is_in(findings.names)).select("image", "reader", "finding", *CORNERS)
    for image, reader, *box in chosen.iter_rows():
        drawn[image][box[0]].append((reader, Box(*box)))
    merged = {
        image: tuple(box for pairs in marks.values() for box in agreed(by_reader(pairs), needed[image], overlap))
        for image, marks in drawn.items()
    }
    return {image: boxes for image, boxes in merged.items() if boxes}


def vindr_readings(root: Path) -> dict[str, dict[str, Reading]]:
    """Each reader's boxes by image, in DICOM pixels; a reader who found nothing has none. Empty where no table names readers."""
    path = locate(root, *TABLES["train"])
    table = None if path is None else _marks(path)
    if table is None or set(table.rows["reader"]) == {"consensus"}:
        return {}
    found: dict[str, dict[str, Reading]] = {}
    for image, reader in table.rows.select("image", "reader").unique(maintain_order=True).iter_rows():
        found.setdefault(image, {})[reader] = Reading()
    drawn = numbers(replace(table, problems=()).keep(pl.col("finding") != NO_FINDING), *CORNERS)
    for image, reader, finding, *corners in drawn.rows.select("image", "reader", "finding", *CORNERS).iter_rows():
        if None not in corners and corners[0] < corners[2] and corners[1] < corners[3]:
            found[image][reader] = Reading((*found[image][reader].boxes, Box(finding, *corners)))
    return found


LAYOUT = Layout(
    name="vindr", title="VinDr-CXR", settings=VindrSettings, read=read_vindr, is_published=True, readings=vindr_readings
)
