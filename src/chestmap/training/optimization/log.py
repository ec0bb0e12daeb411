"""Logs a step while it trains: one CSV for the run, and TensorBoard files.

`log.csv` is long, one number per row (step, epoch, update, seconds, name, value), since steps log different terms. `update`
counts optimizer steps; a resumed step drops the rows after the state that it goes on from.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Mapping
from itertools import count as counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chestmap.errors import Diverged
from chestmap.storage.atomic import write_bytes
from chestmap.training.optimization.checkpoint import Position
from chestmap.training.run_settings import RunSettings
from chestmap.training.trackers import open_trackers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "epoch", "update", "seconds", "name", "value")


class Log:
    """Writes the numbers of a step to log.csv, TensorBoard and the trackers.

    `at` is the step's position; rows that were written after its state was saved are dropped.
    """

    def __init__(self, folder: Path, step: str, at: Position, settings: RunSettings) -> None:
        self.trackers = open_trackers(settings.trackers, folder, settings.model_dump(mode="json") | {"step": step})
        self.step, path = step, folder / "log.csv"
        _cut(path, step, at.logged)
        self.file = path.open("a", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.board = _board(folder / "tensorboard" / step, at.update) if settings.tensorboard else None

    def write(self, at: Position, values: Mapping[str, float]) -> None:
        """Appends one row for each value to log.csv, and sends the values to TensorBoard and the trackers."""
        for name, value in values.items():
            self.rows.writerow((self.step, at.epoch + 1, at.update, f"{at.seconds:.1f}", name, f"{value:.7g}"))
            if self.board is not None:
                self.board.add_scalar(f"{self.step}/{name}", value, at.update)
        for tracker in self.trackers:
            tracker.log({f"{self.step}/{name}": value for name, value in values.items()}, at.update)
        self.file.flush()
        at.logged += len(values)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        for tracker in self.trackers:
            tracker.close()
        if self.board is not None:
            self.board.close()


def _cut(path: Path, step: str, count: int) -> None:
    """Keep whole rows: all of other steps, and the first `count` of this one."""
    rows: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
    own = counter(1)
    kept = [row for row in rows if row[0] != step or next(own) <= count]
    write_bytes(path, "".join(",".join(row) + "\n" for row in [COLUMNS, *kept]).encode())


def _board(folder: Path, update: int) -> SummaryWriter:
    """Opens the TensorBoard files of a step; a resumed step hides what was logged after `update`."""
    from torch.utils.tensorboard import SummaryWriter  # costs a second

    return SummaryWriter(str(folder), purge_step=update + 1 if update else None)


class Terms:
    """Loss terms of the batches since the last look; one look costs one wait for the device, whatever the number of terms.

    `from_all` gives the value of every process; all must ask at once.
    """

    def __init__(self, from_all: Callable[[dict[str, float]], list[dict[str, float]]]) -> None:
        self.from_all = from_all
        self.waiting: list[tuple[str, tuple[str, ...], dict[str, Tensor], float]] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, where: str, ids: tuple[str, ...], terms: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Keeps the terms of a piece on the device, without waiting for their values.

        `share` is the piece's part of its batch. `where` and `ids` name step and images should a term not be finite.
        """
        self.waiting.append((where, ids, {name: value.detach() for name, value in terms.items()}, share))

    def check_finite(self) -> None:
        """Raises `Diverged` at the first term that is not finite."""
        if not self.waiting:
            return
        values = torch.stack([value.float() for _, _, terms, _ in self.waiting for value in terms.values()]).tolist()
        numbers = iter(values)
        for where, ids, terms, share in self.waiting:
            for name in terms:
                value = next(numbers)
                if not math.isfinite(value):
                    raise Diverged(
                        f'{where}: loss term "{name}" is {value}; images {", ".join(ids)}. '
                        "Lower the learning rate, clip gradients, or look at these images"
                    )
                self.sums[name] = self.sums.get(name, 0.0) + value * share
                self.counts[name] = self.counts.get(name, 0.0) + share
        self.waiting.clear()

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """Sums values and shares by term, over all processes.

        All processes must call it at once. It raises `Diverged` as `check_finite` does.
        """
        self.check_finite()
        return _summed(self.from_all(self.sums)), _summed(self.from_all(self.counts))

    def means(self) -> dict[str, float]:
        """Averages each term since the last call, over all processes, and begins anew."""
        sums, counts = self.totals()
        means = {name: total / counts[name] for name, total in sums.items()}
        self.sums.clear()
        self.counts.clear()
        return means


def _summed(tables: list[dict[str, float]]) -> dict[str, float]:
    """Adds up the tables of all processes by name; a name may be missing in some."""
    total: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total.get(name, 0.0) + value
    return total


def peak_memory_gb(device: torch.device) -> float:
    """Of the GPU's tensors, or of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource  # not on Windows
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
