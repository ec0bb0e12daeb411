"""Plans a published table: which rows can be trained here, by which configs, on which folds; and what is missing.

The plan says what a table needs before anything is trained: configs, folds, boxes, and rows that cannot be repeated, with
the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chestmap.errors import BadInput, BadSettings, Refused, did_you_mean
from chestmap.evaluation.published import Row, Table, load_published
from chestmap.settings import Tree, read_toml
from chestmap.training.method import Method

FOLDS = (1, 2, 3, 4, 5)
CLOSED = {
    "chexpert-boxes": "its boxes were never published; the config trains on boxes of your own: chestmap train",
    "chexpert-test": "its images are the hidden test set of a challenge",
}
"""Splits with data that cannot be had."""

DERIVED = {
    "p": "a test between two rows of ham/table-6: reproduce that table, then chestmap compare",
    "T(IoU) difference": "differences between rows of attention_mining/table-5: reproduce that table",
    "AFP difference": "differences between rows of attention_mining/table-5: reproduce that table",
}
"""Metrics that no single model has."""

BRANCHES = {"Global": "global", "Local": "local", "Fusion": "fusion"}
"""Words of a table's rows or columns, and the `answer` of a method that has several in one network."""

SOURCE_OF = {"chestxray14": "nih", "chexpert": "chexpert"}
"""Dataset of a table → who reads it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`trees` are the configs as they are in their files, by name; `folds` holds () for a config with a split of none."""

    table: Table
    rows: tuple[Row, ...]  # those that are trained
    shown: tuple[Row, ...]  # those and the ones next to them
    trees: Mapping[str, Tree]
    folds: Mapping[str, tuple[int, ...]]
    left_out: tuple[str, ...] = ()  # why the other rows of the paper's own are not

    @property
    def runs(self) -> int:
        """How many trainings the table needs."""
        return sum(max(len(folds), 1) for folds in self.folds.values())


def answers_of(table: Table, row: Row) -> tuple[str, ...]:
    """Which of a network's answers a row prints, one for each of its columns or one for all; "" is its final answer."""
    if table.across == "branches":
        return tuple(BRANCHES[column] for column in table.columns)
    return (BRANCHES.get(row.name.partition(" ")[0], ""),)


def obstacle(table: Table, row: Row, configs: Path, methods: Mapping[str, Method]) -> str:
    """Why a row cannot be trained, "" where it can."""
    room = row.config.partition("/")[0]
    if not row.config:
        return f"quoted from {row.source}" if row.source else "no config repeats it"
    if table.split in CLOSED:
        return CLOSED[table.split]
    if (measure := row.metric.partition("@")[0]) in DERIVED:
        return DERIVED[measure]
    if room not in methods:
        return f"method {room} is not written yet"
    if not (configs / f"{row.config}.toml").is_file():
        return f"{configs / row.config}.toml is missing"
    return ""


def plan_of(
    table: Table, configs: Path, methods: Mapping[str, Method], *, row: str | None = None, fold: int | None = None
) -> Plan:
    """Raises `Refused` with one line where no row can be trained."""
    shown = _named(table, row)
    rows, hindered = [], {}
    for one in shown:
        if why := obstacle(table, one, configs, methods):
            hindered[one.name] = hindered.get(one.name, why if one.config else "")
        else:
            rows.append(one)
    left_out = tuple(f"{name}: {why}" for name, why in hindered.items() if why)
    if not rows:
        _refuse(table, shown, configs, methods)
    trees = {one.config: read_toml(configs / f"{one.config}.toml") for one in rows}
    has_folds = {config: str(tree.get("data", {}).get("split", {}).get("name", "")) for config, tree in trees.items()}
    folds = {config: FOLDS if name.startswith("fold-") else () for config, name in has_folds.items()}
    if fold is not None:
        if not any(folds.values()):
            raise BadInput(f"{table.id}: has no folds (its split is {table.split}); leave --fold out")
        if fold not in FOLDS:
            raise BadInput(f"--fold {fold}: expected 1 to {len(FOLDS)}")
        folds = {config: (fold,) if several else () for config, several in folds.items()}
    return Plan(table=table, rows=tuple(rows), shown=tuple(shown), trees=trees, folds=folds, left_out=left_out)


def _named(table: Table, name: str | None) -> list[Row]:
    found = [row for row in table.rows if name in (None, row.name)]
    if not found:
        names = list(dict.fromkeys(row.name for row in table.rows))
        raise BadInput(f'{table.id}: no row "{name}"; rows: {", ".join(names)}{did_you_mean(str(name), names)}')
    return found


def _refuse(table: Table, rows: list[Row], configs: Path, methods: Mapping[str, Method]) -> None:
    own = [row for row in rows if row.config]
    if not own:
        raise Refused(f"{table.id}: {_quoted(table, rows)}; nothing here to train")
    why = obstacle(table, own[0], configs, methods)
    if why.endswith("is missing") and not configs.is_dir():
        raise BadSettings(
            f"{configs}: no such folder; `chestmap reproduce` reads the configs of the repository: run it there or give --configs"
        )
    raise Refused(f"{table.id}: {why}")


def _quoted(table: Table, rows: list[Row]) -> str:
    if len({row.name for row in rows}) == 1 and rows[0].name:
        own = ", ".join(dict.fromkeys(row.name for row in table.rows if row.config)) or "none"
        return f'row "{rows[0].name}" is quoted from {rows[0].source}; rows with a config: {own}'
    return "all its rows are quoted from other papers"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the list of tables; `state` is "" where it can be reproduced."""

    id: str
    title: str
    source: str
    split: str
    runs: int
    state: str


def entries(configs: Path, methods: Mapping[str, Method]) -> list[Entry]:
    """Every table of the five papers, with what it needs."""
    found = []
    for table in load_published().values():
        state, runs = "", 0
        try:
            runs = plan_of(table, configs, methods).runs
        except (Refused, BadSettings) as error:
            state = str(error).removeprefix(f"{table.id}: ")
        found.append(
            Entry(id=table.id, title=table.title, source=SOURCE_OF[table.dataset], split=table.split, runs=runs, state=state)
        )
    return found
