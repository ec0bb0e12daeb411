"""What the readers share: labels, ages, views and boxes out of columns of text.

Every function takes a `Table` and gives one back with its problems. A changed value is `repaired`, a lost one is an `error`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from jaxtyping import Int8, UInt8

from chestmap.datasets.csv_table import Table
from chestmap.datasets.source import COLUMNS, UNKNOWN
from chestmap.errors import did_you_mean
from chestmap.types import Box, Findings
from chestmap.vocabulary import NO_FINDING

CORNERS = ("x0", "y0", "x1", "y1")
SLACK = 0.01
"""Pixels by which a box may pass the border unreported: rounding."""

WIDEST = 1_000_000
"""Pixels on a side of an image."""

MOST_TOLD = 12
"""Unknown names that get a line of their own."""

OLDEST = 120
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25, "": 1.0}
"""Units of an age as DICOM writes it (058Y)."""

PRESENT, ABSENT, UNCERTAIN, BLANK, DAMAGED = 1, 0, 2, 3, 4
"""The meaning of a label cell, before a source's policy for uncertain and blank cells."""

UNSAID = ("", "nan", "na", "n/a", "null", "none", "?", "unknown")
"""How a table leaves a cell open."""

CELLS = (
    dict.fromkeys(("1", "1.0", "true", "yes"), PRESENT)
    | dict.fromkeys(("0", "0.0", "false", "no"), ABSENT)
    | dict.fromkeys(("-1", "-1.0"), UNCERTAIN)
    | dict.fromkeys(UNSAID, BLANK)
)


def vocabulary(whole: Findings, names: Sequence[str] | None, *, no_finding: bool = False) -> Findings:
    """A source's findings: a choice from the whole vocabulary, and `No Finding` as the last one where asked for."""
    chosen = whole.names if names is None else tuple(whole.resolve(name) for name in names)
    extra = (NO_FINDING,) if no_finding and NO_FINDING not in chosen else ()
    return Findings((*chosen, *extra), whole.aliases, whole.codes)


def unique_rows(table: Table, column: str, told: Sequence[str]) -> Table:
    """One row for each value of a column; the first stays, and where the `told` columns differ the loss is an error."""
    again = ~pl.col(column).is_first_distinct()
    if not table.rows.select(again.any()).item():
        return table
    told_else = pl.struct(told) != pl.struct(told).first().over(column) if told else pl.lit(value=False)
    table = table.set_aside(again & told_else, "repeated row", f"{{{column}}} stands in an earlier row with other values")
    table = table.repaired(again, "repeated row", f"{{{column}}} stands in an earlier row too; dropped")
    return table.keep(~again)


def with_age(table: Table) -> Table:
    """`age` in years; 058Y, 005M and 12 are read, and an age over 120 (ChestX-ray14 has 411) is unknown."""
    if "age" not in table.rows.columns:
        return table.with_columns(age=pl.lit(None, pl.Float64))
    number = pl.col("age").str.extract(r"^(\d+(?:\.\d+)?)[YMWDymwd]?$").cast(pl.Float64, strict=False)
    unit = pl.col("age").str.extract(r"([YMWDymwd])$").fill_null("").str.to_uppercase()
    years = number * unit.replace_strict(YEARS, default=1.0, return_dtype=pl.Float64)
    years = pl.when(years <= OLDEST).then(years)
    bad = years.is_null() & ~pl.col("age").str.to_lowercase().is_in(["", "nan", "unknown"])
    return table.repaired(bad, "age", f'age "{{age}}": expected 0 to {OLDEST} years; taken as unknown', age=years)


def with_size(table: Table) -> Table:
    """`width` and `height` of image space, both or neither; what is no size of an image is an error and taken as unknown."""
    names = [name for name in ("width", "height") if name in table.rows.columns]
    if not names:
        return table
    sizes = {name: pl.col(name).cast(pl.Float64, strict=False) for name in names}
    sound = {name: (size.is_finite() & size.is_between(1, WIDEST)).fill_null(value=False) for name, size in sizes.items()}
    for name in names:
        bad = ~sound[name] & ~pl.col(name).str.to_lowercase().is_in(UNSAID)
        say = f'{name} "{{{name}}}": expected 1 to {WIDEST:,} pixels as a plain number; the size is taken as unknown'
        table = table.reported("error", "size", bad, say)
    both = pl.all_horizontal(sound.values()) & (len(names) == 2)
    return table.with_columns(**{name: pl.when(both).then(size) for name, size in sizes.items()})


def with_word(table: Table, column: str, words: Mapping[str, str]) -> Table:
    """A column of few words (views, sexes) in our spelling; `words` maps theirs in upper case; others become ""."""
    if column not in table.rows.columns:
        return table.with_columns(**{column: pl.lit("")})
    theirs = pl.col(column).str.to_uppercase()
    allowed = ", ".join(dict.fromkeys(word for word in words if word))
    say = f'{column} "{{{column}}}": expected {allowed}; taken as unknown'
    ours = theirs.replace_strict({**words, "": ""}, default="", return_dtype=pl.String)
    return table.repaired(~theirs.is_in([*words, ""]), column, say, **{column: ours})


VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL", "L": "LATERAL"}
SEXES = {"F": "F", "M": "M", "FEMALE": "F", "MALE": "M", "UNKNOWN": "", "O": ""}


def as_images(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of a source; those that a publisher does not give are unknown, and an unnamed patient is the image itself.

    Width and height are null where image space is the stored pixels.
    """
    missing = {"patient_id": pl.col("image_id"), "view": pl.lit(""), "sex": pl.lit("")}
    columns = [
        (pl.col(name) if name in rows.columns else missing.get(name, pl.lit(None))).cast(kind).alias(name)
        for name, kind in COLUMNS.items()
    ]
    return rows.select(columns)


def spelled(table: Table, column: str, whole: Findings, *, any_case: bool = False) -> Table:
    """Finding names in the vocabulary's spelling; rows with unknown ones are set aside.

    Underscores are the publishers' way and go unreported, and so does the case of letters with `any_case`.
    """
    names = table.rows[column].unique(maintain_order=True).to_list()
    table, ours = _spellings(table, column, {name: [name] for name in names}, whole, any_case=any_case)
    return table.with_columns(**{column: pl.col(column).replace_strict(ours, default=None, return_dtype=pl.String)})


def _spellings(
    table: Table, column: str, texts: Mapping[str, Sequence[str]], whole: Findings, *, any_case: bool = False
) -> tuple[Table, dict[str, str]]:
    """Their names and ours; `texts` holds, for each of their names, the cells of `column` that contain it.

    Aliases and other cases are repairs with a count. A near miss is never taken for the finding: it is an error that offers it.
    """
    ours = {name: whole.resolve(name) for name in texts if name in whole}
    for name in [name for name in texts if name not in ours][:MOST_TOLD]:
        hint = did_you_mean(name, [*whole.names, *whole.aliases], count=1)
        bad = pl.col(column).is_in(texts[name])
        table = table.set_aside(bad, "unknown finding", _literal(f'"{name}" is not a finding of this source{hint}'))
    left = [text for name in texts if name not in ours for text in texts[name]]
    table = table.set_aside(pl.col(column).is_in(left), "unknown finding", f'"{{{column}}}" is not a finding of this source')
    for name, own in sorted(ours.items()):
        seen, meant = name.replace("_", " "), own.replace("_", " ")
        if seen != meant and not (any_case and seen.lower() == meant.lower()):
            say = _literal(f'"{name}" read as "{own}"')
            table = table.reported("repaired", "label spelling", pl.col(column).is_in(texts[name]), say)
    return table, ours


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def separated(table: Table, whole: Findings, chosen: Findings) -> tuple[Table, Int8[np.ndarray, "image finding"]]:
    """Labels of a column `labels` such as `Effusion|Mass`: those named are present, all others absent; blank is unknown.

    Only the distinct cells are looked at (836 in ChestX-ray14), so 112,120 rows take milliseconds.
    """
    names = {cell: [name for part in cell.split("|") if (name := part.strip())] for cell in table.rows["labels"].unique()}
    texts: dict[str, list[str]] = defaultdict(list)
    for cell in sorted(names):
        for name in names[cell]:
            texts[name].append(cell)
    known = vocabulary(whole, None, no_finding=True)
    table, ours = _spellings(table, "labels", texts, known)
    both = [cell for cell in texts.get(NO_FINDING, ()) if len(set(names[cell])) > 1]
    say = f'"{{labels}}" names a finding beside {NO_FINDING}; the finding counts'
    table = table.reported("repaired", "contradiction", pl.col("labels").is_in(both), say)
    cells = table.rows["labels"].unique().to_list()
    rows = np.zeros((len(cells), len(chosen)), dtype=np.int8)
    for row, cell in enumerate(cells):
        present = {ours[name] for name in names[cell]}
        present -= {NO_FINDING} if len(present) > 1 else set()
        rows[row] = [name in present for name in chosen] if present else UNKNOWN
    place = table.rows["labels"].replace_strict(cells, range(len(cells)), return_dtype=pl.UInt32)
    return table, rows[place.to_numpy()]


def cells(table: Table, columns: Sequence[str]) -> tuple[Table, UInt8[np.ndarray, "image finding"]]:
    """Label columns as PRESENT, ABSENT, UNCERTAIN or BLANK; any other cell is DAMAGED and an error."""
    codes = [
        pl.col(name).str.to_lowercase().replace_strict(CELLS, default=None, return_dtype=pl.UInt8).alias(name)
        for name in columns
    ]
    read = table.rows.select(codes)
    for name in columns:
        if read[name].null_count():
            first = table.rows[name].filter(read[name].is_null())[0]
            say = _literal(f'column {name} "{first}": expected 1, 0, -1 or nothing; taken as unknown')
            table = table.reported("error", "label value", read[name].is_null(), say)
    return table, read.fill_null(DAMAGED).to_numpy()


def numbers(table: Table, *columns: str) -> Table:
    """Columns as finite numbers; other rows are set aside. A decimal comma is no number, since it may be a separator."""
    for name in columns:
        value = pl.col(name).cast(pl.Float64, strict=False)
        table = table.set_aside(~value.is_finite(), "number", f'{name} "{{{name}}}": expected a number')
        table = table.with_columns(**{name: value})
    return table


def with_boxes_cleaned(table: Table, whole: Findings, images: pl.DataFrame, *, any_case: bool = False) -> Table:
    """Boxes (`image`, `finding`, `x0` … `y1` as numbers) of images in the table, inside the image where its size is known.

    Clipping is a repair, beyond `SLACK` pixels; a box of another image is noted, since a table may hold a part of the images.
    Boxes without area or wholly outside are errors, and the same box twice is kept once. `width` and `height` of the image
    stay as columns, infinite where unknown.
    """
    table = spelled(table, "finding", whole, any_case=any_case)
    foreign = ~pl.col("image").is_in(images["image_id"].implode())
    which = "it" if table.place == "entry" else "{image}"  # an entry's place is its image
    say = f"{which} is not in the table; its boxes are left out"
    table = table.reported("note", "box of another image", foreign, say)
    table = table.keep(~foreign)
    flat = (pl.col("x1") <= pl.col("x0")) | (pl.col("y1") <= pl.col("y0"))
    endless = ~pl.all_horizontal(pl.col(CORNERS).is_finite())
    corners = "({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    table = table.set_aside(endless, "number", f"{{finding}} box {corners} is not of finite numbers")
    table = table.set_aside(flat, "box without area", f"{{finding}} box {corners} has no area")
    sizes = images.select("image_id", "width", "height").fill_null(np.inf)
    table = replace(
        table, rows=table.rows.join(sizes, left_on="image", right_on="image_id", how="left", maintain_order="left")
    )
    width, height = pl.col("width"), pl.col("height")
    x0, y0, x1, y1 = (pl.col(name) for name in CORNERS)
    inside = {"x0": x0.clip(0), "y0": y0.clip(0), "x1": pl.min_horizontal(x1, width), "y1": pl.min_horizontal(y1, height)}
    say = f"{{finding}} box {corners} lies outside its image of {{width:g}} x {{height:g}}"
    table = table.set_aside((x0 >= width) | (y0 >= height) | (x1 <= 0) | (y1 <= 0), "box outside", say)
    beyond = pl.max_horizontal(-x0, -y0, x1 - width, y1 - height) > SLACK
    table = table.repaired(beyond, "box clipped", say.replace("lies outside", "reaches out of"), **inside)
    same = [name for name in table.rows.columns if name not in (table.place, "width", "height")]
    table = table.repaired(
        ~pl.struct(same).is_first_distinct(), "repeated box", f"{{finding}} box {corners} of {{image}} again; dropped"
    )
    return table.keep(pl.struct(same).is_first_distinct())


def as_boxes(rows: pl.DataFrame, chosen: Findings) -> dict[str, tuple[Box, ...]]:
    """Boxes of the chosen findings by image id, in the order of the rows."""
    found: dict[str, list[Box]] = defaultdict(list)
    for image, *box in rows.filter(pl.col("finding").is_in(chosen.names)).select("image", "finding", *CORNERS).iter_rows():
        found[image].append(Box(*box))
    return {image: tuple(boxes) for image, boxes in found.items()}
