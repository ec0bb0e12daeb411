"""What a person sees on stderr while a run trains, and the table at its end. Elsewhere than in a terminal: a line per event."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table


@dataclass(frozen=True)
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


class Screen:
    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def tell(self, line: str) -> None:
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
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def note(self, rate: float, loss: float) -> None:
        """Means since the last note, printed next to the bar."""
        if self.bar is not None:
            self.bar.update(self.task, rate=f"{rate:.1f} images/s", loss=f"loss {loss:.4f}")

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = None

    def table(self, steps: list[Summary]) -> None:
        table = Table("step", "epochs", "best", "time", "images/s", "peak memory")
        for step in steps:
            score = "" if step.score is None else f"{step.measure} {step.score:.4f}"
            rate = f"{step.images_per_second:.1f}" if step.images_per_second else ""
            memory = f"{step.peak_memory_gb:.2f} GB" if step.peak_memory_gb else ""
            name = step.step + (" (finished earlier)" if step.earlier else "")
            table.add_row(name, str(step.epochs or ""), score, _duration(step.seconds), rate, memory)
        self.console.print(table)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
