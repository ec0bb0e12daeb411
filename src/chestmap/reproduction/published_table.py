"""Puts our scores next to a published table's, in its columns and by its rule.

Our figures go under the printed ones, by the table's own rule. A column that we did not measure stays empty, never zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chestmap.errors import UnknownFinding
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.published import Figure, Row
from chestmap.evaluation.published import Table as Published
from chestmap.evaluation.scores import MEAN, Evaluation, Score
from chestmap.evaluation.side_by_side import NOTHING, SHORT, Table
from chestmap.reproduction.table_plan import Plan, answers_of
from chestmap.storage.atomic import write_text
from chestmap.vocabulary import VOCABULARIES

CUTS = {"ham/text-low-threshold": 0.1}
"""Tables that cut the map lower than the method itself does, and where."""

SHORTER = {**SHORT, "Pneumonia": "Pneu.", "Nodule": "Nod.", "Consolidation": "Cons.", "Pleural Effusion": "Effu."}
SHORTER |= {"Enlarged Cardiomediastinum": "Media.", "Fracture": "Frac."}
WIDEST = 10
"""Columns that a terminal holds; a table of more prints its findings down."""


@dataclass(frozen=True)
class OwnRow:
    """A row of ours over its folds, by the table's columns; NaN where there is nothing to score."""

    row: Row
    folds: np.ndarray  # [fold, column]

    @property
    def mean(self) -> np.ndarray:
        """The mean over the folds that are known, by column; NaN where none is."""
        known = ~np.isnan(self.folds)
        total = np.where(known, self.folds, 0).sum(0)
        return np.where(known.any(0), total / known.sum(0).clip(1), np.nan)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over the folds that have a figure (n - 1); NaN where fewer than two have."""
        known = ~np.isnan(self.folds)
        squares = np.where(known, self.folds - self.mean, 0) ** 2
        return np.where(known.sum(0) > 1, np.sqrt(squares.sum(0) / (known.sum(0) - 1).clip(1)), np.nan)


def rule_of(table: Published) -> str:
    """Which rows of an evaluation follow the table's rule: those of a preset, or the method's own threshold."""
    if not table.rule.preset:
        return "own"
    unlimited = " without budget" if "without a limit" in table.rule.threshold else ""
    return f"preset {table.rule.preset}{unlimited}"


def ours(plan: Plan, found: Mapping[tuple[str, str], Sequence[Evaluation]]) -> list[OwnRow]:
    """`found` holds one evaluation for each fold of a config, by the config and the network's answer."""
    rows = []
    for row in plan.rows:
        each = zip(*(found[row.config, answer] for answer in answers_of(plan.table, row)), strict=True)
        rows.append(OwnRow(row, np.array([figures_of(evaluations, plan.table, row) for evaluations in each])))
    return rows


def figures_of(evaluations: Sequence[Evaluation], table: Published, row: Row) -> list[float]:
    """By the table's columns; `evaluations` are those of the row's answers.

    The mean is that of the findings that the row prints and we could score; of all findings where it prints the mean alone.
    """
    by_answer = [{_name_in(table, score.finding): score for score in _following(one, table, row)} for one in evaluations]
    if table.across == "branches":
        return [_value(scores.get(MEAN)) for scores in by_answer]
    (scores,) = by_answer
    overall, printed = _value(scores.get(MEAN)), table.figures(row)
    singles = {name: _value(scores.get(name)) for name in printed if name != "Mean"}
    known = [value for value in singles.values() if not np.isnan(value)]
    mean = overall if not singles else float(np.mean(known)) if known else np.nan
    return [mean if name == "Mean" else singles.get(name, np.nan) for name in table.columns]


def _name_in(table: Published, finding: str) -> str:
    """A finding of ours in the words of the table's dataset: its Pleural Effusion is another dataset's Effusion."""
    try:
        return VOCABULARIES[table.dataset].resolve(finding)
    except UnknownFinding:
        return finding


def _following(evaluation: Evaluation, table: Published, row: Row) -> list[Score]:
    measure, _, at = row.metric.partition("@")
    if measure == Measure.AUC:
        return evaluation.select(Measure.AUC, rule="")
    step = {"at": float(at)} if at else {}
    rule = rule_of(table)
    return evaluation.select(measure, rule=rule, **step, **({"geometry": "mask"} if rule == "own" else {}))


def _value(score: Score | None) -> float:
    return np.nan if score is None or score.value is None else score.value


def table_of(plan: Plan, rows: Sequence[OwnRow], notes: Sequence[str] = ()) -> Table:
    """The published lines as printed; under each of those that were trained, ours, and its spread where there are folds."""
    found = {(one.row.name, one.row.metric): one for one in rows}
    lines, measure = [], plan.table.metric
    for row in plan.shown:
        digits = max((len(str(figure).partition(".")[2]) for figure in row.values if figure == figure), default=2)
        lines.append(
            (row.metric.removeprefix(measure).removeprefix("@"), row.name, *(_printed(figure) for figure in row.values))
        )
        if one := found.get((row.name, row.metric)):
            several = f", {len(one.folds)} folds" if len(one.folds) > 1 else ""
            lines.append(("", f"  chestmap{several}", *(_cell(value, digits) for value in one.mean)))
            if several:
                lines.append(("", "  ± over folds", *(_cell(value, digits) for value in one.spread)))
    table = plan.table
    headers = (measure, "", *(SHORTER.get(column, column) for column in table.columns))
    rule = "; ".join(word for word in (table.rule.geometry, table.rule.threshold) if word)
    said = [
        f"Published: {table.citation}; {table.protocol}",
        *([f"Published rule: {rule}; ours: {rule_of(table)}"] if rule else []),
    ]
    remarks = (*said, *plan.left_out, *notes)
    if len(table.columns) > WIDEST:
        names = ("", *(label.strip() for _, label, *_ in lines))
        down = tuple((name, *(line[place + 2] for line in lines)) for place, name in enumerate(table.columns))
        return Table(title=f"{table.id}: {table.title}, {measure}", headers=names, rows=down, labels=1, notes=remarks)
    return Table(title=f"{table.id}: {table.title}", headers=headers, rows=tuple(lines), labels=2, notes=remarks)


def _printed(figure: Figure) -> str:
    return str(figure) if figure == figure else ""


def _cell(value: float, digits: int) -> str:
    return NOTHING if np.isnan(value) else f"{value:.{digits}f}"


def write(path: Path, plan: Plan, rows: Sequence[OwnRow], notes: Sequence[str]) -> None:
    """Write JSON with every fold, and Markdown."""
    columns = plan.table.columns
    tree = {
        "table": plan.table.id,
        "notes": list(notes),
        "rows": [
            {
                "row": one.row.name,
                "score": one.row.metric,
                "config": one.row.config,
                "published": {name: float(figure) for name, figure in plan.table.figures(one.row).items()},
                "ours": _named(columns, one.mean),
                "spread": _named(columns, one.spread),
                "folds": [_named(columns, fold) for fold in one.folds],
            }
            for one in rows
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, text in (
        (path, json.dumps(tree, indent=1, allow_nan=False) + "\n"),
        (path.with_suffix(".md"), table_of(plan, rows, notes).to_markdown()),
    ):
        write_text(place, text)


def _named(columns: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(columns, values, strict=True)}
