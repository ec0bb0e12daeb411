"""Shows training on stderr: a bar in a terminal, else a line per event; and a table at the end.

The loop calls `Screen`; nothing else prints. A log file gets a line for each epoch: losses, validation, best so far, time
left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One line of the table at the end; `score` is that of the kept weights."""

    step: str
    epochs: int = 0
    score: float | None = None
    measure: str = ""
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_gb: float = 0.0
    earlier: bool = False  # finished before this start


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch gave; `values` are losses and validation scores by name, `best` is the kept score, `left` seconds."""

    step: str
    number: int
    of: int
    values: Mapping[str, float]
    best: float | None
    left: float

    def __str__(self) -> str:
        """Writes the line of a log file; a score kept as minus a loss is shown without its sign."""
        numbers = " ".join(f"{name} {value:.4f}" for name, value in self.values.items())
        best = "" if self.best is None else f" best {abs(self.best):.4f}"
        return f"{self.step}: epoch {self.number}/{self.of} {numbers}{best}, {_duration(self.left)} left"


class Screen:
    """Writes the lines of a training to stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def tell(self, line: str) -> None:
        """Prints a line above the bar; square brackets in it are no markup."""
        self.console.print(line, markup=False)

    def start(self, step: str, *, total: int, done: int) -> None:
        """`total` and `done` are batches of the whole step."""
        if not self.console.is_terminal:
            self.tell(f"{step}: {'starts' if not done else f'goes on after {done} of'} {total} batches")
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[loss]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=self.console)
        self.task = self.bar.add_task(step, total=total, completed=done, rate="", loss="")
        self.bar.start()

    def advance(self, done: int) -> None:
        """Moves the bar to `done` updates."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def note(self, rate: float, loss: float) -> None:
        """Means since the last note, printed next to the bar."""
        if self.bar is not None:
            self.bar.update(self.task, rate=f"{rate:.1f} images/s", loss=f"loss {loss:.4f}")

    def epoch(self, epoch: Epoch) -> None:
        """A line where there is no bar: in a log file, a job's output, a notebook."""
        if self.bar is None:
            self.tell(str(epoch))

    def stop(self) -> None:
        """Takes the bar away; safe to call where there is none."""
        if self.bar is not None:
            self.bar.stop()
        self.bar = None

    def table(self, steps: list[Summary]) -> None:
        """Print the table of finished steps."""
        table = Table("step", "epochs", "best", "time", "images/s", "peak memory")
        for step in steps:
            score = "" if step.score is None else f"{step.measure} {step.score:.4f}"
            rate = f"{step.images_per_second:.1f}" if step.images_per_second else ""
            memory = f"{step.peak_memory_gb:.2f} GB" if step.peak_memory_gb else ""
            name = step.step + (" (finished earlier)" if step.earlier else "")
            table.add_row(name, str(step.epochs or ""), score, _duration(step.seconds), rate, memory)
        self.console.print(table)


def _duration(seconds: float) -> str:
    """Writes seconds as hours:minutes:seconds, rounded to the second."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
