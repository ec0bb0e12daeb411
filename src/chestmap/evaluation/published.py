"""Holds the published tables of the five papers as data, so that ours can be printed next to them.

`published.toml` holds every figure as printed and explains its keys; nothing in it is corrected.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from chestmap.errors import BadTable, did_you_mean
from chestmap.vocabulary import VOCABULARIES

THRESHOLDED = ("T(IoU)", "T(IoR)", "AFP", "T(IoU) difference", "AFP difference")
"""Metrics that need a threshold T; that of AFP is the T(IoU) which makes a box a hit."""
METRICS = ("AUC", "p", *THRESHOLDED)


class Figure(float):
    """A printed number: `str` gives its digits as printed, everything else sees a float; NaN where nothing is printed."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Rule(NamedTuple):
    """How a map became a hit or a miss; `preset` is our nearest scoring preset, "" where there is none."""

    geometry: str
    threshold: str
    preset: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """`low`, `high` (95 % interval) and `spread` (standard deviation) are empty where the paper prints none."""

    name: str
    values: tuple[Figure, ...]
    metric: str = ""  # such as "AUC" or "T(IoU)@0.3"; the table's without T where its columns are thresholds
    source: str = ""  # whom the paper quotes; "" for its own run
    config: str = ""  # the file under configs/ that repeats the row, without .toml
    annotated: float | None = None  # where it differs from the table's split_settings
    low: tuple[Figure, ...] = ()
    high: tuple[Figure, ...] = ()
    spread: tuple[Figure, ...] = ()
    note: str = ""
    uncertain: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One printed table: its columns, its rows, and the rule by which maps became hits."""

    id: str
    paper: str  # the method that implements it
    citation: str
    title: str
    split: str
    metric: str
    rule: Rule
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    dataset: str = "chestxray14"
    across: Literal["findings", "branches", "thresholds"] = "findings"  # what the columns are; "Mean" may follow findings
    protocol: str = ""  # the split as the paper describes it
    split_settings: Mapping[str, Any] = field(default_factory=dict)  # of data.split, for each fold
    note: str = ""

    def row(self, name: str, metric: str = "") -> Row:
        """The row of a method; `metric`, such as "T(IoU)@0.3", chooses where it has several."""
        named = [row for row in self.rows if row.name == name]
        found = [row for row in named if metric in ("", row.metric)]
        if len(found) == 1:
            return found[0]
        if named:
            raise BadTable(f'{self.id}: "{name}" by "{metric}"; give one of {", ".join(row.metric for row in named)}')
        names = list(dict.fromkeys(row.name for row in self.rows))
        raise BadTable(f'{self.id}: no row "{name}"; rows: {", ".join(names)}{did_you_mean(name, names)}')

    def figures(self, row: Row) -> dict[str, Figure]:
        """A row's figures by column, without those that are not printed."""
        return {column: value for column, value in zip(self.columns, row.values, strict=True) if value == value}


def find(table_id: str) -> Table:
    """Give a published table by its id, such as `ham/table-3`."""
    tables = load_published()
    if table_id not in tables:
        raise BadTable(f'"{table_id}" is none of the {len(tables)} published tables{did_you_mean(table_id, tables)}')
    return tables[table_id]


@cache
def load_published() -> Mapping[str, Table]:
    """All tables by id, read and checked when first asked for."""
    return read_published((resources.files("chestmap.evaluation") / "published.toml").read_text(encoding="utf-8"))


def read_published(text: str) -> dict[str, Table]:
    """Reads tables from TOML and checks each: known findings, metrics and configs, as many figures as columns."""
    tree = tomllib.loads(text, parse_float=Figure)
    return {table_id: _table(table_id, entry, tree) for table_id, entry in tree["table"].items()}


def _table(table_id: str, entry: dict[str, Any], tree: dict[str, Any]) -> Table:
    columns = entry["columns"] if isinstance(entry["columns"], list) else tree["columns"][entry["columns"]]
    across = entry.get("across", "findings")
    if across == "findings":
        findings = VOCABULARIES[entry.get("dataset", "chestxray14")]
        columns = [column if column == "Mean" else findings.resolve(column) for column in columns]
    configs, paper, rows = entry.pop("configs", {}), table_id.partition("/")[0], []
    for row in entry.pop("rows"):
        metric, at = row.pop("metric", entry["metric"]), row.pop("at", None)
        row["metric"] = _metric(metric, at, by_row=across != "thresholds")
        row |= {"source": tree["sources"].get(row["name"], ""), "config": configs.get(row["name"], "")}
        rows.append(Row(**row | _figures(f"{table_id}, {row['name']}", row, columns)))
    if unused := set(configs) - {row.name for row in rows}:
        raise BadTable(f"{table_id}: configs for {', '.join(sorted(unused))}: no such row")
    if len({(row.name, row.metric) for row in rows}) < len(rows):
        raise BadTable(f"{table_id}: two rows have the same name and metric; give each row its own")
    entry |= {
        "id": table_id,
        "paper": paper,
        "citation": tree["papers"][paper],
        "rule": Rule(**tree["rules"][entry["rule"]]),
    }
    return Table(**entry | {"columns": tuple(columns), "rows": tuple(rows)})


def _metric(name: str, at: Figure | None, *, by_row: bool) -> str:
    if name not in METRICS:
        raise BadTable(f'metric "{name}": allowed: {", ".join(METRICS)}{did_you_mean(name, METRICS)}')
    needed = by_row and name in THRESHOLDED
    if needed != (at is not None) or not 0 < (at or 0.5) < 1:
        raise BadTable(f"metric {name} at {at}: expected {'T in (0, 1)' if needed else 'no T'}")
    return f"{name}@{float(at):g}" if at else name


def _figures(where: str, row: dict[str, Any], columns: list[str]) -> dict[str, tuple[Figure, ...]]:
    if isinstance(row["values"], dict) and set(row["values"]) <= set(columns):  # an inline table names the columns it fills
        row["values"] = [row["values"].get(column, Figure("nan")) for column in columns]
    found = {key: tuple(row[key]) for key in ("values", "low", "high", "spread") if key in row}
    for key, figures in found.items():
        if len(figures) != len(columns) or not all(isinstance(figure, Figure) for figure in figures):
            raise BadTable(f"{where}: {key} {figures}: expected {len(columns)} figures with a decimal point")
    return found
