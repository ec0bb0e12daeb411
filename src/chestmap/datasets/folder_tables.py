"""The label table and the box table of a folder of images.

The readers accept the column names that tables of hospitals and of public datasets use, in any case. They leave a value
that they cannot read unknown, with a problem that names file, row and reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int8

from chestmap.datasets.columns import (
    ABSENT,
    CELLS,
    CORNERS,
    PRESENT,
    SEXES,
    VIEWS,
    cells,
    numbers,
    separated,
    unique_rows,
    with_age,
    with_size,
    with_word,
)
from chestmap.datasets.csv_table import Table, plain, read_csv
from chestmap.datasets.source import UNKNOWN, Problem
from chestmap.errors import BadTable, did_you_mean
from chestmap.types import Findings
from chestmap.vocabulary import ALIASES, NO_FINDING, VOCABULARIES, folder_findings

NAMES = {name for whole in VOCABULARIES.values() for name in whole.names} | set(ALIASES)

IMAGE = {
    "image_id": (
        "image",
        "image_id",
        "image index",
        "image name",
        "image file",
        "file",
        "file_name",
        "path",
        "image path",
        "file path",
        "img",
        "picture",
        "film",
    )
}
KNOWN = {
    "patient_id": (
        *("patient_id", "patient", "patient_no", "patient_nr", "patient_number", "patient_code", "pat_id", "pat_no"),
        *("subject", "subject_id", "mrn"),
    ),
    "view": ("view", "view_position"),
    "age": ("age", "patient_age"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "labels": (
        "findings",
        "finding_labels",
        "labels",
        "diagnosis",
        "diagnoses",
        "disease",
        "diseases",
        "pathology",
        "pathologies",
    ),
    "list": ("split", "list", "part"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
}
Labels = Int8[np.ndarray, "image finding"]
BOXED = {
    "image": IMAGE["image_id"],
    "finding": (
        *("finding", "label", "class_name", "finding_label", "class", "category"),
        *("diagnosis", "disease", "pathology"),
    ),
}
PLACES = {
    "left": ("x0", "xmin", "left", "x"),
    "top": ("y0", "ymin", "top", "y"),
    "right": ("x2", "xmax", "right"),
    "bottom": ("y2", "ymax", "bottom"),
    "one_x": ("x1",),
    "one_y": ("y1",),
    "w": ("w", "width"),
    "h": ("h", "height"),
}
"""Columns of a table of boxes; `x1, y1` are the first corner with `x2, y2` or `w, h`, and the second with `x0, y0`."""

SHOWN = {"left": "x", "top": "y", "right": "x2", "bottom": "y2", "one_x": "x1", "one_y": "y1"}


def with_seen(chosen: Iterable[str], seen: Iterable[str]) -> Findings:
    """The chosen findings and, after them, whatever else the files name."""
    whole = folder_findings(chosen)
    for name in dict.fromkeys(seen):
        if name and name not in whole:
            whole = folder_findings((*whole.names, name))
    return whole


def read_labels(path: Path) -> Table:
    """One row for each image; unknown columns stay under their own names, as findings or to be left alone."""
    table = read_csv(path, IMAGE, KNOWN, rest=True)
    table = table.set_aside(pl.col("image_id") == "", "image name", "the image has no name")
    table = table.with_columns(image_id=pl.col("image_id").str.replace_all("\\", "/", literal=True))
    table = unique_rows(table, "image_id", [name for name in table.rows.columns if name not in {"row", "image_id"}])
    if "patient_id" in table.rows.columns:
        table = table.set_aside(pl.col("patient_id") == "", "patient", "{image_id} has no patient")
    return with_word(with_word(with_age(with_size(table)), "view", VIEWS), "sex", SEXES)


def labels_of(table: Table, chosen: tuple[str, ...] | None) -> tuple[Table, Findings, Labels]:
    """Labels from one column for each finding, or from one column of names; columns win where all chosen findings have one."""
    columns = {name: next((one for one in table.others if one in Findings((name,))), None) for name in chosen or ()}
    if "labels" in table.rows.columns and not (columns and all(columns.values())):
        return _from_names(table, chosen)
    if chosen is None:
        columns = {name: name for name in _finding_columns(table)}
    if absent := [name for name, column in columns.items() if column is None]:
        there = ", ".join(table.others)[:200] or "none"
        hint = did_you_mean(absent[0], table.others, count=1)
        raise BadTable(f'{table.file}: no column "{absent[0]}"{hint}; the columns beside the image are {there}')
    table, codes = cells(table, [column for column in columns.values() if column])
    labels = np.full(codes.shape, UNKNOWN, dtype=np.int8)
    labels[codes == PRESENT], labels[codes == ABSENT] = 1, 0
    return table, folder_findings(columns), labels


def _with_bars(table: Table) -> Table:
    """Names that a semicolon or comma separates get the bar that we know; one that is part of a name stays.

    It separates where the pieces are fewer than the cells that they make up, or known findings all.
    """
    texts = {text for text in table.rows["labels"].unique() if text}
    known = {plain(name) for name in (*NAMES, NO_FINDING)}
    for mark in ";,":
        pieces = {plain(piece) for text in texts for piece in text.split(mark)} - {""}
        if any("|" in text for text in texts) or not any(mark in text for text in texts):
            continue
        if len(pieces) < len(texts) or pieces <= known:
            message = f'{table.file}: "{mark}" separates the names of findings'
            table = replace(table, problems=(*table.problems, Problem("note", "separator", message, len(texts))))
            return table.with_columns(labels=pl.col("labels").str.replace_all(mark, "|", literal=True))
    return table


def _from_names(table: Table, chosen: tuple[str, ...] | None) -> tuple[Table, Findings, Labels]:
    """A chosen finding that the table never names is absent everywhere, and noted: it may be a slip."""
    table = _with_bars(table)
    names = {name.strip() for cell in table.rows["labels"].unique() for name in cell.split("|")}
    seen = sorted(name for name in names if name and name not in Findings((NO_FINDING,)))
    if not seen and not chosen:
        raise BadTable(f"{table.file}: its column of findings names none; set findings to say which are meant")
    whole = with_seen(chosen or seen[:1], seen)
    findings = whole if chosen is None else folder_findings(chosen)
    never = [name for name in findings if not any(one in Findings((name,), findings.aliases) for one in seen)]
    if never:
        message = f"{table.file}: {', '.join(never)} never stands in it, so it is absent everywhere"
        hint = did_you_mean(never[0], seen, count=1)
        table = replace(table, problems=(*table.problems, Problem("note", "unmarked finding", message + hint, len(never))))
    table, labels = separated(table, whole, findings)
    return table, findings, labels


def _finding_columns(table: Table) -> tuple[str, ...]:
    """Columns of which more than half of the filled cells are labels; of empty ones, those that are named as a finding.

    Where no column is such, all empty ones.
    """

    def is_finding(name: str, filled: list[str]) -> bool:
        if not filled:
            return name in NAMES
        return sum(cell.lower() in CELLS for cell in filled) * 2 > len(filled)

    cells_of = {name: [cell for cell in table.rows[name] if cell] for name in table.others}
    names = tuple(name for name, filled in cells_of.items() if is_finding(name, filled))
    names = names or tuple(name for name, filled in cells_of.items() if not filled)
    if not names:
        columns = ", ".join(table.others)[:200] or "none"
        raise BadTable(
            f"{table.file}: no column of labels (1, 0, -1 or blank) and none called findings; others are {columns}; "
            "call a column of names (Mass|Nodule) findings"
        )
    return names


def looks_like_boxes(path: Path) -> bool:
    """Whether a table names corners, or a corner and sides, whatever else it lacks."""
    try:
        table = read_csv(path, {}, PLACES)
    except BadTable:
        return False
    return len({*PLACES} & {*table.rows.columns}) >= 4


def read_box_table(path: Path) -> Table:
    """Boxes as corners; where the file gives a corner with width and height, `x, y, w, h` stay as columns, too."""
    table = read_csv(path, BOXED, PLACES)
    there = set(table.rows.columns)
    first = ["left" if "left" in there else "one_x", "top" if "top" in there else "one_y"]
    second = ["right" if "right" in there else "one_x", "bottom" if "bottom" in there else "one_y"]
    corners = {*first, *second} <= there and not {*first} & {*second}
    if not corners and not {*first, "w", "h"} <= there:
        columns = ", ".join((*(SHOWN.get(name, name) for name in table.rows.columns[1:]), *table.others))[:200]
        raise BadTable(f"{path}: expected columns x0, y0, x1, y1 or x, y, w, h; its columns are {columns}")
    ours, theirs = (CORNERS, [*first, *second]) if corners else (("x", "y", "w", "h"), [*first, "w", "h"])
    places = [pl.col(column).alias(name) for name, column in zip(ours, theirs, strict=True)]
    table = numbers(replace(table, rows=table.rows.select("row", "image", "finding", *places)), *ours)
    if corners:
        return table
    x, y = pl.col("x"), pl.col("y")
    return table.with_columns(x0=x, y0=y, x1=x + pl.col("w"), y1=y + pl.col("h"))
