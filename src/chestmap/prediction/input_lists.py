"""Reads lists of images as tables (Parquet, CSV, TSV), in frames of bounded size.

A list has a column of paths, and ids where the user wants his own. Lists of millions of rows are read in frames, so memory
does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import polars as pl

from chestmap.datasets.text_files import read_text
from chestmap.errors import BadTable, did_you_mean

TABLES = {".parquet", ".csv", ".tsv"}
ROWS = 1 << 16
PATHS = ("path", "file", "file_name", "filename", "image", "image index")
IDS = ("image_id", "id")

SIMPLE = r"^[A-Za-z0-9_+@=~,\-][A-Za-z0-9_+@=~,. \-]{0,150}(/[A-Za-z0-9_+@=~,\-][A-Za-z0-9_+@=~,. \-]{0,150}){0,5}$"
"""Relative paths that are their own name: printable, without a part that climbs or begins with a dot, and short."""

Naming = Callable[[str], tuple[str, str]]
"""A cell of the list to a name and a place."""


def frames_of(path: Path) -> Iterator[pl.DataFrame]:
    """Columns `path` and `image_id`, "" where the list gives none; rows without a path are left out."""
    done = 0
    for decoded in (False, True):
        try:
            for frame in (
                _rows(path, _scan(path, decoded=decoded)).slice(done).collect_batches(chunk_size=ROWS, maintain_order=True)
            ):
                yield frame
                done += len(frame)
        except (OSError, pl.exceptions.PolarsError) as error:
            said = " ".join(str(error).split())[:200]
            if decoded or "utf-8" not in said or path.suffix.lower() == ".parquet":
                hint = (
                    'put names with a comma in quotation marks ("a, b.png")' if "more fields" in said else "write it as CSV"
                )
                raise BadTable(f"{path}: cannot be read as a table ({said}); {hint}, or as Parquet") from None
        else:
            return


def _rows(path: Path, scan: pl.LazyFrame) -> pl.LazyFrame:
    """Finds the columns of paths and ids by the names that lists use; without paths the list is refused."""
    names = scan.collect_schema().names()
    columns = {"path": _column(names, PATHS), "image_id": _column(names, IDS)}
    if columns["path"] is None:
        raise BadTable(f'{path}: no column "path"{did_you_mean("path", names, count=1)}; it holds {", ".join(names)[:200]}')
    texts = [
        (pl.col(theirs).cast(pl.String).fill_null("").str.strip_chars() if theirs else pl.lit("")).alias(ours)
        for ours, theirs in columns.items()
    ]
    return scan.select(texts).filter(pl.col("path") != "")


def _scan(path: Path, *, decoded: bool) -> pl.LazyFrame:
    """`decoded`: a CSV that is no UTF-8 goes through memory."""
    if path.suffix.lower() == ".parquet":
        return pl.scan_parquet(path)
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    if decoded or first.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = read_text(path).encode()
        first, table = content.partition(b"\n")[0], BytesIO(content)
    else:
        table = path
    separator = max("\t,;", key=lambda mark: first.count(mark.encode()))
    return pl.scan_csv(table, separator=separator, infer_schema=False, low_memory=True)


def _column(names: list[str], spellings: tuple[str, ...]) -> str | None:
    """The column that is meant, however its name is spelled."""
    plain = {"".join(letter for letter in name.lower() if letter.isalnum()): name for name in reversed(names)}
    found = (plain.get("".join(letter for letter in spelling if letter.isalnum())) for spelling in spellings)
    return next((name for name in found if name), None)


def named(frame: pl.DataFrame, folder: Path | str, name_of: Naming, plain: Callable[[str], str]) -> pl.DataFrame:
    """The rows of a plan: `name`, `path`, `member`, `problem`, `given`. Most names are their paths, which takes no loop."""
    own = frame.with_columns(simple=pl.col("path").str.contains(SIMPLE), simply=pl.col("image_id").str.contains(SIMPLE))
    odd = own.filter(~pl.col("simple"))["path"].unique()
    pairs = [name_of(text) for text in odd]
    names = dict(zip(odd, (name for name, _ in pairs), strict=True))
    places = dict(zip(odd, (place for _, place in pairs), strict=True))
    chosen = own.filter(~pl.col("simply") & (pl.col("image_id") != ""))["image_id"].unique()
    ids = dict(zip(chosen, map(plain, chosen), strict=True))
    given = pl.col("image_id") != ""
    by_id = pl.when("simply").then("image_id").otherwise(_looked_up("image_id", ids))
    by_path = pl.when("simple").then("path").otherwise(_looked_up("path", names))
    place = pl.lit(f"{folder}/") + pl.col("path")
    return own.select(
        name=pl.when(given).then(by_id).otherwise(by_path),
        path=pl.when("simple").then(place).otherwise(_looked_up("path", places)),
        member=pl.lit(None, pl.Int64),
        problem=pl.lit(""),
        given=given,
    )


def _looked_up(column: str, table: dict[str, str]) -> pl.Expr:
    return pl.col(column).replace_strict(table, default=None, return_dtype=pl.String) if table else pl.lit(None, pl.String)
