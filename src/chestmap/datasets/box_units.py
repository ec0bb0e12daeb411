"""In which unit boxes are given, by their numbers and the sizes of their images: pixels, percent, or fractions of the image.

A reader refuses what is plainly something else than pixels; the setting `box_unit` names the unit, and boxes are converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl

from chestmap.datasets.csv_table import Table
from chestmap.errors import BadImage, BadTable
from chestmap.imaging.size import size_of

Unit = Literal["pixels", "percent", "fraction"]
Guess = Literal["pixels", "percent", "fraction", "corners"]
"""`corners`: x0, y0, x1, y1 under a header of x, y, width, height."""
CORNERS = ("x0", "y0", "x1", "y1")

SAMPLE = 24
"""Images that are opened, for their size alone, to find out what boxes mean."""

FEWEST = 3
"""Boxes from which on their numbers say something about their unit."""

SMALLEST_SIDE = 200
"""Pixels on each side of an image in which boxes that all end below 100 are percent, and not in a corner of it."""

FAR = 55.0
"""Percent of the image that some box passes, right or down."""

BEYOND = 1.02
"""By this factor a box may pass its image by rounding."""


def boxes_in_pixels(marks: Table, images: pl.DataFrame, root: Path, unit: Unit | None, *, sides: bool) -> Table:
    """The boxes of `images` in pixels. `sides`: the file gives x, y, width and height, which corners are mistaken for."""
    if marks.rows.is_empty() or unit == "pixels":
        return marks
    if unit is None:
        _refuse_other_units(marks, _with_sizes(marks.rows, images, root, SAMPLE), sides=sides)
        return marks
    sized, share = _with_sizes(marks.rows, images, root), 100.0 if unit == "percent" else 1.0
    if sized.is_empty():
        raise BadTable(
            f"{marks.file}: boxes in {unit} need the sizes of images, and {marks.rows['image'][0]} cannot be opened"
        )
    lost = ~pl.col("image").is_in(sized["image"].unique().implode())
    marks = marks.set_aside(
        lost, "box of an image without size", "{image} cannot be opened, and boxes in " + unit + " need its size"
    )
    scaled = {name: pl.col(name) * (pl.col("wide" if name[0] == "x" else "high") / share) for name in CORNERS}
    return replace(marks, rows=sized.with_columns(**scaled).drop("wide", "high"))


def _with_sizes(rows: pl.DataFrame, images: pl.DataFrame, root: Path, most: int | None = None) -> pl.DataFrame:
    """Boxes with the size of their image, given or read from its file, as `wide` and `high`; of `most` images at most."""
    boxed = images.filter(pl.col("image_id").is_in(rows["image"].unique().implode())).head(most or len(images))
    sizes = dict(_sizes(boxed.select("image_id", "path", "width", "height").iter_rows(), root))
    table = pl.DataFrame(
        [(name, *size) for name, size in sizes.items()],
        schema={"image": pl.String, "wide": pl.Float64, "high": pl.Float64},
        orient="row",
    )
    return rows.join(table, on="image", how="inner", maintain_order="left")


def _sizes(rows: Iterable[tuple[str, str, float | None, float | None]], root: Path) -> Mapping[str, tuple[float, float]]:
    found = {}
    for name, path, width, height in rows:
        try:
            found[name] = (width, height) if width is not None and height is not None else size_of(root / path)
        except BadImage:
            continue  # a check reports what is wrong with it
    return found


def guessed_unit(rows: pl.DataFrame, sized: pl.DataFrame, *, sides: bool) -> Guess:
    """What the numbers are; `sized` are the boxes of images of known size, as `wide` and `high`."""
    rows = rows.filter(pl.all_horizontal(pl.col(CORNERS).is_finite()))
    if rows.is_empty():
        return "pixels"
    right, down = (float(rows[name].max() or 0.0) for name in ("x1", "y1"))  # pyright: ignore[reportArgumentType]
    if 0 < max(right, down) <= 1:
        return "fraction"
    if sized.is_empty() or len(rows) < FEWEST:
        return "pixels"
    if _smallest(sized) >= SMALLEST_SIDE and max(right, down) <= 100 and max(right, down) > FAR:
        return "percent"
    return "corners" if sides and _are_corners(sized) else "pixels"


def _smallest(sized: pl.DataFrame) -> float:
    return float(sized.select(pl.min_horizontal(pl.col("wide").min(), pl.col("high").min())).item())


def _refuse_other_units(marks: Table, sized: pl.DataFrame, *, sides: bool) -> None:
    say = 'set box_unit="{0}", or box_unit="pixels" if they are pixels all the same'
    match guessed_unit(marks.rows, sized, sides=sides):
        case "fraction":
            raise BadTable(
                f"{marks.file}: no box reaches beyond 1, so they are fractions of the image; {say.format('fraction')}"
            )
        case "percent":
            raise BadTable(
                f"{marks.file}: no box reaches beyond 100 in images of {_smallest(sized):g} pixels and more, so they are percent; "
                f"{say.format('percent')}"
            )
        case "corners":
            raise BadTable(
                f"{marks.file}: boxes of x, y, width, height leave their images, and as corners x0, y0, x1, y1 they lie inside; "
                'name them so, or set box_unit="pixels" if they are right'
            )


def _are_corners(sized: pl.DataFrame) -> bool:
    """A fourth of the boxes would leave their image, and as corners nearly all are sound."""
    width, height = pl.col("x1") - pl.col("x0"), pl.col("y1") - pl.col("y0")  # what is called so
    outside = (pl.col("x1") > pl.col("wide") * BEYOND) | (pl.col("y1") > pl.col("high") * BEYOND)
    sound = (
        (width > pl.col("x0")) & (height > pl.col("y0"))
        & (width <= pl.col("wide") * BEYOND) & (height <= pl.col("high") * BEYOND)
    )  # fmt: skip
    share_outside, share_sound = sized.select(outside=outside.mean(), sound=sound.mean()).row(0)
    return len(sized) >= FEWEST and share_outside > 0.25 and share_sound > 0.95
