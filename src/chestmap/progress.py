"""Progress of long work on stderr: a bar in a terminal, else a line at the start and one at the end.

Long functions call `progress_of` and never print. Without a terminal there is a line at the start and one at the end, so
that logs stay short.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Report = Callable[[int, int], None]
"""Called with what is done and the total."""


@contextmanager
def progress_of(what: str, total: int, *, show: bool | Report, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Yields `advance(count)`. `show` is True, False, or a function that is called instead of drawing.

    The time left is an estimate from the last half minute.
    """
    work = _Work(what=what, total=total, unit=unit)
    if callable(show):
        yield work.counting(show)
    elif not show:
        yield work.counting(lambda *_: None)
    elif sys.stderr.isatty():
        with _bar(work) as advance:
            yield advance
        sys.stderr.write(work.end)
    else:
        sys.stderr.write(f"{what}: {total:,} {unit}\n")
        yield work.counting(lambda *_: None)
        sys.stderr.write(work.end)


@dataclass(eq=False, kw_only=True)
class _Work:
    what: str
    total: int
    unit: str
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    def counting(self, report: Report) -> Callable[[int], None]:
        """Gives the function that adds to the count and reports."""

        def advance(count: int) -> None:
            self.done += count
            report(self.done, self.total)

        return advance

    @property
    def seconds(self) -> float:
        """Seconds since the start, never 0."""
        return max(time.perf_counter() - self.start, 1e-9)

    @property
    def rate(self) -> str:
        """Items a second, as text."""
        return f"{self.done / self.seconds:.0f}"

    @property
    def end(self) -> str:
        """The line at the end: how many, how long, how fast."""
        return f"{self.what}: {self.done:,} {self.unit} in {self.seconds:.1f} s ({self.rate}/s)\n"


@contextmanager
def _bar(work: _Work) -> Iterator[Callable[[int], None]]:
    """Imports rich here: a call without a terminal has no use for it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
    task = bar.add_task(work.what, total=work.total, rate="")
    with bar:
        yield work.counting(lambda done, _: bar.update(task, completed=done, rate=f"{work.rate} {work.unit}/s"))
