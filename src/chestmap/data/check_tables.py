"""A check's report as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from chestmap.data.check import Report

COLORS = {"error": "red", "repaired": "yellow", "note": "dim"}
ORDER = ("error", "repaired", "note")
LOOKED = {"tables": "tables only", "files": "tables, files present", "pixels": "tables, every image opened"}


def render(report: Report, console: Console) -> None:
    console.print(_summary(report))
    console.print(_findings(report))
    if report.parts:
        console.print(_parts(report))
    if report.problems:
        console.print(_problems(report))
    wrong = sum(problem.level == "error" for problem in report.problems)
    console.print(f"[red]errors: {wrong}[/]" if report.failed else "[green]nothing is wrong[/]")


def _table(title: str, *columns: str, names: int = 1) -> Table:
    """The first `names` columns to the left, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < names else "right")
    return table


def _summary(report: Report) -> Table:
    table = _table(f"{report.source}: {escape(report.root)}", "", "", names=2)
    table.show_header = False
    views = ", ".join(f"{view} {count:,}" for view, count in report.views.items())
    rows = {
        "images": f"{report.images:,}",
        "patients": f"{report.patients:,}",
        "views": views,
        "boxes": f"{report.boxes:,} on {report.boxed_images:,} images",
        "labeled but unboxed there": f"{report.labeled_unboxed:,}",
        "looked at": LOOKED[report.looked],
        "fingerprint": report.fingerprint,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _findings(report: Report) -> Table:
    names = (
        "finding",
        "positive",
        "negative",
        "unknown",
        "boxes",
        "boxed images",
        "with many",
        "labeled, unboxed",
        "boxed, unlabeled",
    )
    table = _table("Findings", *names)
    for one in report.findings:
        counts = (one.positive, one.negative, one.unknown, one.boxes, one.boxed_images, one.many_boxes, one.labeled_unboxed)
        table.add_row(escape(one.finding), *(f"{count:,}" if count else "·" for count in (*counts, one.boxed_unlabeled)))
    return table


def _parts(report: Report) -> Table:
    table = _table("Splits", "split", "part", "images", "patients", "boxed images", names=2)
    for one in report.parts:
        table.add_row(
            escape(one.split), escape(one.part), *(f"{count:,}" for count in (one.images, one.patients, one.boxed_images))
        )
    return table


def _problems(report: Report) -> Table:
    table = Table(title="Noticed", title_justify="left", title_style="bold", header_style="")
    for column in ("level", "what", "count", "where"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for problem in sorted(report.problems, key=lambda one: ORDER.index(one.level)):
        color = COLORS[problem.level]
        table.add_row(f"[{color}]{problem.level}[/]", problem.kind, f"{problem.count:,}", escape(problem.message))
    return table
