"""From a CSV file to columns of text, whatever its separator, quotes and header.

Damage to the whole file raises `BadTable`; damage to a row sets the row aside as a `Problem`, and the others go on.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import polars as pl

from chestmap.datasets.source import Level, Problem
from chestmap.datasets.text_files import read_text
from chestmap.errors import BadTable, did_you_mean

Spellings = Mapping[str, tuple[str, ...]]
"""Our name of a column: the publisher's spellings; case, spaces and punctuation do not matter."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Text columns without blanks at their ends, "" where empty; the column `place` holds a row's place in the file."""

    file: str
    rows: pl.DataFrame
    place: str = "row"  # the header is row 1
    problems: tuple[Problem, ...] = ()
    others: tuple[str, ...] = ()  # columns nobody asked for, as the file spells them

    def __len__(self) -> int:
        return len(self.rows)

    def reported(self, level: Level, kind: str, which: pl.Expr | pl.Series, say: str) -> Table:
        """The table with a problem for the rows `which`, if any; `say` is filled with the first row's columns."""
        rows = self.rows.filter(which)
        if rows.is_empty():
            return self
        more = f" ({len(rows):,} in all)" if len(rows) > 1 else ""
        said = " ".join(say.format(**rows.row(0, named=True)).split())
        message = f"{self.file} {self.place} {rows[self.place][0]}: {said[:300]}{more}"
        return replace(self, problems=(*self.problems, Problem(level, kind, message, len(rows))))

    def set_aside(self, bad: pl.Expr, kind: str, say: str) -> Table:
        """The table without its bad rows, which become one error."""
        bad = bad.fill_null(value=True)
        return self.reported("error", kind, bad, say + "; set aside").keep(~bad)

    def repaired(self, bad: pl.Expr, kind: str, say: str, **columns: pl.Expr) -> Table:
        """The table with columns replaced, and a report of the rows where that mattered."""
        told = self.reported("repaired", kind, bad.fill_null(value=True), say)
        return replace(told, rows=self.rows.with_columns(**columns)) if columns else told

    def keep(self, which: pl.Expr) -> Table:
        """The table with these rows alone, unreported."""
        return replace(self, rows=self.rows.filter(which))

    def with_columns(self, **columns: pl.Expr | pl.Series) -> Table:
        """A copy with these columns added or replaced."""
        return replace(self, rows=self.rows.with_columns(**columns))


def read_csv(path: Path, required: Spellings, optional: Spellings | None = None, *, rest: bool = False) -> Table:
    """Columns under our names; with `rest` also every other column under its own. Separator: comma, semicolon or tab."""
    lines = read_text(path).split("\n")
    top = next(number for number, line in enumerate(lines) if line.strip())
    wanted = {**required, **(optional or {})}
    try:
        header, separator = _header(lines[top], wanted)
    except csv.Error:
        raise BadTable(f"{path}: its first line, of {len(lines[top]):,} characters, holds no column names") from None
    found = _find_columns(path, header, required, optional or {}, rest=rest)
    last = max(index for index, name in enumerate(header) if name)
    split = _split_quoted if any('"' in line for line in lines[top + 1 :]) else _split_plain
    table = split(path, lines[top + 1 :], top + 2, separator, (last + 1, len(header)))
    columns = {name: f"field_{index}" for name, index in found.items()}
    left = [(index, name) for index, name in enumerate(header) if name and index not in found.values()]
    others = {name: f"field_{index}" for index, name in left if name not in {*columns, "row"}}
    columns |= others if rest else {}
    clean = [pl.col(field).fill_null("").str.strip_chars().alias(name) for name, field in columns.items()]
    if table.rows.is_empty():
        raise BadTable(f"{path}: no usable row below the header")
    return replace(table, rows=table.rows.select("row", *clean), others=tuple(others))


def _header(line: str, wanted: Spellings) -> tuple[list[str], str]:
    """The names of the first line under the separator that explains most of them; a repeated name gets a number."""
    spellings = {plain(spelling) for each in wanted.values() for spelling in each}
    choices = [([name.strip() for name in next(csv.reader([line], delimiter=mark))], mark) for mark in ",;\t"]
    names, separator = max(choices, key=lambda choice: len({plain(name) for name in choice[0]} & spellings))
    return names, separator


def plain(name: str) -> str:
    """Letters and digits only, in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _find_columns(path: Path, header: list[str], required: Spellings, optional: Spellings, *, rest: bool) -> dict[str, int]:
    """The index of each wanted column; all missing or repeated ones are reported at once."""
    plains = [plain(name) for name in header]
    named = [name for name in header if name]
    found: dict[str, int] = {}
    for name, spellings in {**required, **optional}.items():
        places = [index for spelling in spellings for index, one in enumerate(plains) if one and one == plain(spelling)]
        found |= {name: places[0]} if places else {}
    twice = [name for name, count in Counter(named).items() if count > 1 and (rest or header.index(name) in found.values())]
    wrong = [f'column "{name}" stands {named.count(name)} times' for name in twice]
    free = [name for index, name in enumerate(header) if name and index not in found.values()]
    missing = [spellings[0] for name, spellings in required.items() if name not in found]
    wrong += [f'no column "{name}"{did_you_mean(name, free, count=1)}' for name in missing]
    if wrong:
        raise BadTable(f"{path}: {'; '.join(wrong)}; the first line holds {', '.join(named)[:200]}")
    return found


def _split_plain(path: Path, lines: list[str], first: int, separator: str, widths: tuple[int, int]) -> Table:
    """The quick way, for files without quotation marks."""
    numbers = pl.Series("row", range(first, first + len(lines)), dtype=pl.UInt32)
    table = Table(file=path.name, rows=pl.DataFrame([numbers, pl.Series("line", lines, dtype=pl.String)]))
    table = replace(table, rows=table.rows.filter(pl.col("line").str.strip_chars() != ""))
    trimmed = pl.col("line").str.strip_chars_end(separator + " ").str.count_matches(separator, literal=True) + 1
    fields = pl.col("line").str.count_matches(separator, literal=True) + 1
    table = _without_ragged(path, table.with_columns(fields=fields, trimmed=trimmed), widths)
    split = pl.col("line").str.split_exact(separator, widths[1] - 1)
    names = [f"field_{index}" for index in range(widths[1])]
    return replace(table, rows=table.rows.select("row", split.struct.rename_fields(names).alias("split")).unnest("split"))


def _split_quoted(path: Path, lines: list[str], first: int, separator: str, widths: tuple[int, int]) -> Table:
    """The strict way: a quotation mark that is never closed would swallow all rows below it, so it stops the reading."""
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    numbered: list[tuple[int, list[str]]] = []
    start = 0
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                numbered.append((first + start, fields))
            start = reader.line_num
    except csv.Error:
        raise BadTable(f'{path} row {first + start}: a quotation mark (") is not closed, or stands inside a field') from None
    rows = pl.DataFrame(
        {
            "row": pl.Series([row for row, _ in numbered], dtype=pl.UInt32),
            "fields": pl.Series([len(fields) for _, fields in numbered], dtype=pl.UInt32),
            "trimmed": pl.Series([_filled(fields) for _, fields in numbered], dtype=pl.UInt32),
        }
    )
    columns = list(zip_longest(*(fields for _, fields in numbered), fillvalue=""))[: widths[1]]
    columns += [("",) * len(numbered)] * (widths[1] - len(columns))
    texts = [pl.Series(f"field_{index}", column, dtype=pl.String) for index, column in enumerate(columns)]
    return _without_ragged(path, Table(file=path.name, rows=rows.with_columns(texts)), widths)


def _filled(fields: Sequence[str]) -> int:
    """How many fields there are up to the last that is not blank."""
    return max((index + 1 for index, field in enumerate(fields) if field.strip()), default=0)


def _without_ragged(path: Path, table: Table, widths: tuple[int, int]) -> Table:
    """Sets aside rows with too few fields, or with text in too many; when most are such, the header is wrong.

    Empty names and fields at the end do not count: the box file of ChestX-ray14 has nine names over six fields.
    """
    least, most = widths
    ragged = (pl.col("fields") < least) | (pl.col("trimmed") > most)
    bad = table.rows.filter(ragged)
    if len(bad) * 2 > len(table) > 2:
        row, fields = bad.select("row", "fields").row(0)
        raise BadTable(
            f"{path} row {row}: {fields} fields under {most} column names, as in {len(bad):,} of {len(table):,} rows"
        )
    return table.set_aside(
        ragged, "row length", f"{{fields}} fields, expected {most if least == most else f'{least} to {most}'}"
    )
