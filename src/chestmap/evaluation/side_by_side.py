"""Prints evaluations side by side as tables: for the terminal, Markdown, CSV and LaTeX.

The functions take evaluations by name and give a `Table`, which prints itself for a terminal, Markdown, CSV or LaTeX.
Figures have three decimals; what was not measured is n/a.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from chestmap.evaluation.comparison import Difference
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.scores import MEAN, Evaluation, Score

NOTHING = "n/a"
SHORT = {
    "Atelectasis": "Atel.",
    "Cardiomegaly": "Card.",
    "Effusion": "Effu.",
    "Infiltration": "Infi.",
    "Pneumothorax": "PTX",
}
SPECIAL = {symbol: f"\\{symbol}" for symbol in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text cells under headers; the first `labels` columns name the row, the others hold numbers. Notes follow below."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Letters that a line needs: two spaces go between columns, one at each end."""
        return sum(self._widths) + 2 * len(self.headers)

    @property
    def _widths(self) -> list[int]:
        return [max(len(line[column]) for line in (self.headers, *self.rows)) for column in range(len(self.headers))]

    def fitted(self, width: int) -> list[Table]:
        """Tables of at most so many letters a line, each with the labels; one column alone may be wider."""
        if self.width <= width:
            return [self]
        fixed = sum(self._widths[: self.labels]) + 2 * self.labels
        groups: list[list[int]] = [[]]
        for column in range(self.labels, len(self.headers)):
            needed = fixed + sum(self._widths[one] + 2 for one in [*groups[-1], column])
            if groups[-1] and needed > width:
                groups.append([])
            groups[-1].append(column)
        last = len(groups) - 1
        return [self._piece(group, self.notes if place == last else ()) for place, group in enumerate(groups)]

    def _piece(self, columns: Sequence[int], notes: tuple[str, ...]) -> Table:
        kept = [*range(self.labels), *columns]
        rows = tuple(tuple(row[one] for one in kept) for row in self.rows)
        return Table(
            title=self.title, headers=tuple(self.headers[one] for one in kept), rows=rows, labels=self.labels, notes=notes
        )

    def to_rich(self) -> RichTable:
        """For the terminal; numbers never wrap."""
        caption = "\n".join(self.notes)
        table = RichTable(
            title=self.title,
            title_justify="left",
            caption=caption,
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.pad_edge = False
        for index, header in enumerate(self.headers):
            table.add_column(header, justify="left" if index < self.labels else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Print the table as Markdown."""
        marks = ["---" if index < self.labels else "---:" for index in range(len(self.headers))]
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.headers, tuple(marks), *self.rows)
        ]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", *self.notes] if self.notes else [])]) + "\n"

    def to_csv(self) -> str:
        """Without title and notes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.headers)
        writer.writerows(self.rows)
        return text.getvalue()

    def to_latex(self) -> str:
        """A `tabular` for booktabs."""
        lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (self.headers, *self.rows)]
        columns = "l" * self.labels + "r" * (len(self.headers) - self.labels)
        top = [f"% {self.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
        return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def cell(score: Score | None, digits: int = 3, *, interval: bool = False) -> str:
    """A value, with its interval if wanted; "n/a" where there is none."""
    if score is None or score.value is None:
        return NOTHING
    text = f"{score.value:.{digits}f}"
    if interval and score.low is not None and score.high is not None:
        text += f" [{score.low:.{digits}f}, {score.high:.{digits}f}]"
    return text


def classification_table(evaluations: Sequence[Evaluation], measure: str = Measure.AUC, *, digits: int = 3) -> Table:
    """Findings down, evaluations across, with intervals; the means last."""
    found = [{row.finding: row for row in one.select(measure) if row.rule == ""} for one in evaluations]
    names = [name for name in dict.fromkeys(name for rows in found for name in rows) if not name.startswith(MEAN)]
    means = [name for name in dict.fromkeys(name for rows in found for name in rows) if name.startswith(MEAN)]
    lines = []
    for name in [*names, *means]:
        first = next(rows[name] for rows in found if name in rows)
        cells = (cell(rows.get(name), digits, interval=True) for rows in found)
        lines.append((name, f"{first.support} / {first.negatives}", *cells))
    title = f"{measure} by finding, {_confidence(evaluations)} intervals"
    return Table(
        title=title,
        headers=("finding", "with / without", *(one.title for one in evaluations)),
        rows=tuple(lines),
        labels=2,
        notes=_notes(evaluations),
    )


def localization_table(
    evaluations: Sequence[Evaluation],
    measure: str = Measure.IOU_MET,
    *,
    geometry: str = "mask",
    rules: Sequence[str] = ("own", "validation", "oracle"),
    digits: int = 2,
) -> Table:
    """As the papers print it: for each T a line for each evaluation and rule, then the floors; findings and means across.

    The line above the first T is the support.
    """
    columns = _columns(evaluations, measure, geometry)
    steps = sorted({row.at for one in evaluations for row in one.select(measure) if row.at is not None})
    lines = [("", "boxes", *(_support(evaluations, measure, geometry, name) for name in columns))]
    for step in steps:
        for one in evaluations:
            rows = [row for row in one.select(measure, at=step) if row.finding in columns]
            for rule in dict.fromkeys([*rules, *(row.rule for row in rows if row.rule.startswith("floor"))]):
                cells = {row.finding: row for row in rows if row.rule == rule and row.geometry in ("", geometry)}
                if cells and not (rule.startswith("floor") and one is not evaluations[-1]):
                    label = rule if rule.startswith("floor") else f"{one.title}, {rule}"
                    lines.append((f"{step:g}", label, *(cell(cells.get(name), digits) for name in columns)))
    headers = (measure, "", *(SHORT.get(name, name) for name in columns))
    return Table(title=f"{measure}, {geometry}", headers=headers, rows=tuple(lines), labels=2, notes=_notes(evaluations))


def _columns(evaluations: Sequence[Evaluation], measure: str, geometry: str) -> list[str]:
    rows = [row for one in evaluations for row in one.select(measure, geometry=geometry)]
    named = dict.fromkeys(row.finding for row in rows if not row.is_mean)
    return [*named, *dict.fromkeys(row.finding for row in rows if row.is_mean)]


def _support(evaluations: Sequence[Evaluation], measure: str, geometry: str, name: str) -> str:
    found = next((row for one in evaluations for row in one.select(measure, geometry=geometry, finding=name)), None)
    return str(found.support) if found else NOTHING


def preset_table(evaluations: Sequence[Evaluation], preset: str, *, digits: int = 3) -> Table:
    """Everything a preset scores, findings across."""
    rows = [[row for row in one.rows if row.rule.startswith(f"preset {preset}")] for one in evaluations]
    columns = list(dict.fromkeys(row.finding for several in rows for row in several))
    lines = []
    for one, several in zip(evaluations, rows, strict=True):
        for measure, at, rule in dict.fromkeys((row.measure, row.at, row.rule) for row in several):
            cells = {row.finding: row for row in several if (row.measure, row.at, row.rule) == (measure, at, rule)}
            label = f"{measure} at {at:g}" if at is not None else measure
            extra = rule.removeprefix(f"preset {preset}").strip()
            who = f"{one.title}, {extra}" if extra else one.title
            lines.append((label, who, *(cell(cells.get(name), digits) for name in columns)))
    headers = ("score", "", *(SHORT.get(name, name) for name in columns))
    return Table(title=f"preset {preset}", headers=headers, rows=tuple(lines), labels=2, notes=_notes(evaluations))


def summary_table(evaluations: Sequence[Evaluation], *, digits: int = 3) -> Table:
    """The means that a reader looks for first, one line each; the headline is the validation threshold."""
    wanted = [
        (Measure.AUC, {"measure": Measure.AUC}),
        ("average precision", {"measure": Measure.AP}),
        *(
            (
                f"T(IoU) {at:g}, {geometry}, {rule}",
                {"measure": Measure.IOU_MET, "at": at, "geometry": geometry, "rule": rule},
            )
            for at in (0.1, 0.3, 0.5)
            for geometry in ("mask", "any")
            for rule in ("validation", "own", "oracle")
        ),
        *(
            (f"T(IoU) {at:g}, medoid box", {"measure": Measure.IOU_MET, "at": at, "rule": "floor medoid"})
            for at in (0.1, 0.3, 0.5)
        ),
        (Measure.POINTING_GAME, {"measure": Measure.POINTING_GAME}),
        (Measure.MAX_BOX_ACC_V2, {"measure": Measure.MAX_BOX_ACC_V2, "rule": "oracle"}),
        (Measure.PXAP, {"measure": Measure.PXAP, "rule": ""}),
        ("AFP, validation", {"measure": Measure.AFP, "rule": "validation"}),
    ]
    lines = []
    for label, fields in wanted:
        scores = [next(iter(one.select(finding=MEAN, **fields)), None) for one in evaluations]
        if any(score is not None for score in scores):
            lines.append((label, *(cell(score, digits, interval=True) for score in scores)))
    headers = ("mean over findings", *(one.title for one in evaluations))
    title = f"Summary, {_confidence(evaluations)} intervals"
    return Table(title=title, headers=headers, rows=tuple(lines), labels=1, notes=_notes(evaluations))


def _notes(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The evaluated set, once where it is the same for all, then what each evaluation notes."""
    sets = [(one.title, one.evaluated.summary()) for one in evaluations if one.evaluated is not None]
    if len({told for _, told in sets}) == 1:
        lines = [sets[0][1]]
    else:
        lines = [f"{title}: {told}" for title, told in sets]
        lines += ["these are different sets: figures of one line do not compare"] if sets else []
    return tuple(dict.fromkeys([*lines, *(f"{one.title}: {note}" for one in evaluations for note in one.notes)]))


def _confidence(evaluations: Sequence[Evaluation]) -> str:
    found = {one.about.get("settings", {}).get("confidence", 0.95) for one in evaluations}
    return " and ".join(f"{100 * confidence:g} %" for confidence in sorted(found))


def comparison_tables(differences: Sequence[Difference], first: str, second: str, *, digits: int = 3) -> list[Table]:
    """The primary family, then the exploratory tests; a star marks a corrected p below 0.05."""
    found = []
    for family, notes in (
        ("primary", ("AUC: clustered variance by patient; hits: permutation by patient; Holm over these tests",)),
        ("exploratory", ("chosen after the fact, so these suggest and do not show; Holm over the findings of each score",)),
    ):
        lines = [_difference_line(one, digits) for one in differences if one.family == family]
        if lines:
            headers = ("score", "finding", "support", first, second, "difference", "p", "p, Holm")
            found.append(
                Table(title=f"{first} against {second}: {family}", headers=headers, rows=tuple(lines), labels=3, notes=notes)
            )
    return found


def _difference_line(one: Difference, digits: int) -> tuple[str, ...]:
    words = (one.measure, "" if one.at is None else f"{one.at:g}", one.geometry, one.rule)
    interval = f"{one.difference:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
    star = " *" if one.corrected < 0.05 else ""
    figures = f"{one.first:.{digits}f}", f"{one.second:.{digits}f}", interval, f"{one.p:.2g}", f"{one.corrected:.2g}{star}"
    return (" ".join(word for word in words if word), one.finding, str(one.support), *figures)


def brief_table(
    evaluations: Sequence[Evaluation], *, geometry: str = "mask", iou: Sequence[float] = (0.1, 0.3, 0.5)
) -> Table:
    """Localization in the width of a terminal: findings down, T(IoU) across by own and by validation thresholds."""
    rules = ("own", "validation")
    lines = []
    for one in evaluations:
        found = {(row.finding, row.rule, row.at): row for row in one.select(Measure.IOU_MET, geometry=geometry)}
        for name in dict.fromkeys(finding for finding, _, _ in found):
            scores = [found.get((name, rule, at)) for rule in rules for at in iou]
            support = next((score.support for score in scores if score), 0)
            label = (one.title,) if len(evaluations) > 1 else ()
            short = name.replace("mean without", "without")
            lines.append((*label, short, str(support), *(cell(score, 2) for score in scores)))
    label = ("predictions",) if len(evaluations) > 1 else ()
    headers = (*label, "finding", "boxes", *(f"{rule} {at:g}".replace(" 0.", " .") for rule in ("own", "val") for at in iou))
    title = f"T(IoU), {geometry}: share of boxes met, by own and by validation thresholds"
    return Table(title=title, headers=headers, rows=tuple(lines), labels=len(label) + 1, notes=_notes(evaluations))
