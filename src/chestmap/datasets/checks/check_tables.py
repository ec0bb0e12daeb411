"""A check's report as tables on a terminal.

`chestmap data check` and `chestmap init` call `render` with a `Report`; nothing is computed here.
"""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chestmap.datasets.checks.check import Report

COLORS = {"error": "red", "repaired": "yellow", "note": "dim"}
WIDEST = 110
"""Columns that a table may take where the output is narrower: numbers are never cut."""

ORDER = ("error", "repaired", "note")
LOOKED = {"tables": "tables only", "files": "tables, files present", "pixels": "tables, every image opened"}


def render(report: Report, console: Console) -> None:
    """Prints the tables, then what was noticed, the worst first. Tables keep their width on a narrow console; text wraps."""
    tables = [_summary(report), _findings(report), *([_parts(report)] if report.parts else [])]
    narrow = console.width
    try:
        console.width = max(narrow, WIDEST)
        for table in tables:
            console.print(table, crop=False)
    finally:
        console.width = narrow
    if report.problems:
        console.print("[bold]Noticed[/]")
        console.print(_problems(report))
    wrong = sum(problem.level == "error" for problem in report.problems)
    console.print(f"[red]errors: {wrong}[/]" if report.failed else "[green]nothing is wrong[/]")


def _table(title: str, *columns: str, names: int = 1) -> Table:
    """The first `names` columns to the left, numbers to the right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < names else "right", no_wrap=True, vertical="bottom")
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
    """Columns that are zero throughout are left out, and a dot is a zero."""
    counts = {
        "positive": "positive",
        "negative": "negative",
        "unknown": "unknown",
        "boxes": "boxes",
        "many_boxes": "images with\nseveral",
        "labeled_unboxed": "labeled,\nunboxed",
        "boxed_unlabeled": "boxed,\nunlabeled",
    }
    shown = [name for name in counts if any(getattr(one, name) for one in report.findings)]
    table = _table("Findings", "finding", *(counts[name] for name in shown))
    for one in report.findings:
        numbers = (getattr(one, name) for name in shown)
        table.add_row(escape(one.finding), *(f"{number:,}" if number else "·" for number in numbers))
    return table


def _parts(report: Report) -> Table:
    table = _table("Splits", "split", "part", "images", "patients", "boxed images", names=2)
    for one in report.parts:
        table.add_row(
            escape(one.split), escape(one.part), *(f"{count:,}" for count in (one.images, one.patients, one.boxed_images))
        )
    return table


def _problems(report: Report) -> Table:
    """Errors first, notes last."""
    table = Table.grid(padding=(0, 2))
    for problem in sorted(report.problems, key=lambda one: ORDER.index(one.level)):
        color = COLORS[problem.level]
        table.add_row(f"[{color}]{problem.level}[/]", f"{problem.kind}: {escape(problem.message)}")
    return table
