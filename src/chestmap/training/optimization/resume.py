"""Collects what a step's training changes, and goes on from.

A resumed step ends with the same weights as one that was never stopped: network, optimizer, averages, random state and
position are all kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from chestmap.errors import BadInput
from chestmap.training.optimization.checkpoint import Position, load_resume, save_resume
from chestmap.training.optimization.log import Terms
from chestmap.training.optimization.weight_average import Average
from chestmap.training.process_group import from_all
from chestmap.training.run_folder import read_json, write_json
from chestmap.training.task import Task


@dataclass(eq=False, kw_only=True)
class State:
    """Written by the first process, read by all; none of it belongs to a single process, so that their number may change."""

    fabric: Fabric
    task: Task
    optimizer: torch.optim.Optimizer
    average: Average | None
    at: Position = field(default_factory=Position)
    norms: dict[str, float] = field(default_factory=dict)
    """Of the gradients of loss terms, for the limits on their shares (`balance`)."""

    def __post_init__(self) -> None:
        self.terms = Terms(lambda table: from_all(self.fabric, table))

    def save(self, folder: Path) -> None:
        """All processes must come here at once."""
        sums, counts = self.terms.totals()
        if not self.fabric.is_global_zero:
            return
        state = {
            "position": asdict(self.at),
            "processes": self.fabric.world_size,
            "sums": sums,
            "counts": counts,
            "norms": self.norms,
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": self.average.mean if self.average else {},
        }
        save_resume(folder, self.at.epoch, self.at.batch, state)

    def load(self, folder: Path, tell: Callable[[str], None]) -> None:
        """From the newest state, where there is one; another number of processes is reported and recorded."""
        state = load_resume(folder, tell)
        if state is not None:
            self._restore(state)
            if state["processes"] != self.fabric.world_size and self.fabric.is_global_zero:
                before, now = state["processes"], self.fabric.world_size
                tell(f"{folder.name}: begun with {_processes(before)}, goes on with {_processes(now)}")
                _record(
                    folder,
                    {"epoch": self.at.epoch + 1, "batch": self.at.batch, "processes_before": before, "processes": now},
                )
        if len({(at.epoch, at.batch) for at in from_all(self.fabric, self.at)}) > 1:
            raise BadInput(
                f"{folder}: the processes see different saved states; put the run folder where all see the same files"
            )

    def _restore(self, state: dict[str, Any]) -> None:
        """Puts network, optimizer, averages and position back, and the sums of the log on the first process."""
        for one in fields(Position):
            setattr(self.at, one.name, state["position"][one.name])
        if self.fabric.is_global_zero:
            self.terms.sums, self.terms.counts = state["sums"], state["counts"]
        self.norms.update(state.get("norms", {}))
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average:
            self.average.load(state["average"])


def _record(step: Path, how: dict[str, int]) -> None:
    """Recorded with the last start in environment.json."""
    path = step.parent / "environment.json"
    recorded = read_json(path) or {"starts": [{}]}
    recorded["starts"][-1].setdefault("goes_on", []).append({"step": step.name} | how)
    write_json(path, recorded)


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"
