"""Finds out in which unit a table of boxes is: pixels, shares of the image, percent, or corners under the header of sides."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

CORNERS = ("x0", "y0", "x1", "y1")
PERCENT_FROM = 200
"""Pixels of the smaller side of every image, from which boxes that end below 100 are percent and not a corner of the image."""


def in_pixels(rows: pl.DataFrame, sizes: Mapping[str, tuple[float, float]]) -> tuple[pl.DataFrame | None, str]:
    """The boxes in pixels with the unit that they had; None where they are in pixels already."""
    sides = {"x", "y", "w", "h"} <= set(rows.columns)
    table = _with_sizes(rows, sizes)
    if table.is_empty():
        return None, "pixels"
    width, height = pl.col("width"), pl.col("height")
    greatest = max(float(table[name].max() or 0.0) for name in ("x1", "y1"))  # pyright: ignore[reportArgumentType]
    smallest = float(table.select(pl.min_horizontal(width.min(), height.min())).item())
    if greatest <= 1.0:
        return _scaled(table, width, height), "shares of the image"
    if greatest <= 100 and smallest >= PERCENT_FROM and _reaching(table):
        return _scaled(table, width / 100, height / 100), "percent of the image"
    if sides and _are_corners(table):
        return _named(table.with_columns(x1=pl.col("w"), y1=pl.col("h"))), "corners under a header of sides"
    return None, "pixels"


def _with_sizes(rows: pl.DataFrame, sizes: Mapping[str, tuple[float, float]]) -> pl.DataFrame:
    """Rows whose image is there, with its size."""
    short = pl.col("image").str.replace_all("\\", "/", literal=True)
    names = [short, short.str.split("/").list.last(), short.str.split("/").list.last().str.replace(r"\.[^.]*$", "")]
    place = {name: number for number, name in enumerate(sizes)}
    number = pl.coalesce(name.replace_strict(place, default=None, return_dtype=pl.Int64) for name in names)
    of = pl.DataFrame(list(sizes.values()), schema={"width": pl.Float64, "height": pl.Float64}, orient="row").with_row_index(
        "number"
    )
    return rows.with_columns(number=number).join(of.with_columns(pl.col("number").cast(pl.Int64)), on="number", how="inner")


def _reaching(table: pl.DataFrame) -> bool:
    """Whether boxes go as far down and right as findings of whole images do, and not only over a corner of 100 pixels."""
    return float(table["y1"].max() or 0.0) > 55 or float(table["x1"].max() or 0.0) > 55  # pyright: ignore[reportArgumentType]


def _are_corners(table: pl.DataFrame) -> bool:
    """A fourth of the boxes would leave the image as sides, and nearly all are sound as corners."""
    outside = (pl.col("x") + pl.col("w") > pl.col("width") * 1.02) | (pl.col("y") + pl.col("h") > pl.col("height") * 1.02)
    sound = (
        (pl.col("w") > pl.col("x"))
        & (pl.col("h") > pl.col("y"))
        & (pl.col("w") <= pl.col("width") * 1.02)
        & (pl.col("h") <= pl.col("height") * 1.02)
    )
    share_outside, share_sound = table.select(outside.mean(), sound.mean()).row(0)
    return share_outside > 0.25 and share_sound > 0.95


def _scaled(table: pl.DataFrame, x: pl.Expr, y: pl.Expr) -> pl.DataFrame:
    scaled = {name: pl.col(name) * (x if name.startswith("x") else y) for name in CORNERS}
    return _named(table.with_columns(**scaled))


def _named(table: pl.DataFrame) -> pl.DataFrame:
    return table.select("image", "finding", *(pl.col(name).round(2) for name in CORNERS))
