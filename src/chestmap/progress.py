"""Progress of long work on stderr: a bar in a terminal, else a line at the start and one at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, int], None]
"""Called with what is done and the total."""


@contextmanager
def progress_of(what: str, total: int, *, show: bool | Report, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Yields `advance(count)`. `show` is True, False, or a function that is called instead of drawing.

    The time left is an estimate from the last half minute.
    """
    if callable(show):
        yield _callback(show, total)
        return
    console = Console(stderr=True, quiet=not show, highlight=False)
    start, done = time.perf_counter(), 0
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal))
    task = bar.add_task(what, total=total, rate="")

    def advance(count: int) -> None:
        nonlocal done
        done += count
        bar.update(task, completed=done, rate=f"{done / max(time.perf_counter() - start, 1e-9):.0f} {unit}/s")

    if not console.is_terminal:
        console.print(f"{what}: {total:,} {unit}", markup=False)
    with bar:
        yield advance
    seconds = time.perf_counter() - start
    console.print(f"{what}: {done:,} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):.0f}/s)", markup=False)


def _callback(report: Report, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return advance
