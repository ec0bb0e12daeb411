"""Connects the processes of a run: one, or several that torchrun, Slurm or `chestmap train --devices` started.

Every process of a run calls the same functions in the same order; the first process writes files.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed

from chestmap.errors import BadInput, BadSettings
from chestmap.training.run_settings import RunSettings
from chestmap.training.slurm import adopt_slurm

Value = TypeVar("Value")

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LONGEST_WAIT = timedelta(
    hours=2
)  # of a process for the others in a batch or a save; for a step that is written it has no end


class _Mixed(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        """Leaves a batch alone: it is frozen, and autocast casts what it needs."""
        return data  # a batch is frozen, and autocast casts what it needs


def make_fabric(settings: RunSettings) -> Fabric:
    """Launched: joined to the other processes where there are any."""
    adopt_slurm(settings.devices, settings.nodes)
    settings.apply()
    accelerator, (devices, nodes) = settings.accelerator(), settings.processes()
    several = devices * nodes > 1
    plugins: list[Any] = []
    if "RANK" in os.environ:
        plugins.append(TorchElasticEnvironment())
        _end_with_parent()
    elif several:
        raise BadSettings(
            f"run.devices, run.nodes: {devices * nodes} processes are asked for, but this one was started alone; "
            "start it with `chestmap train`, torchrun or srun"
        )
    if settings.precision != 32:
        plugins.append(_Mixed("bf16-mixed" if settings.precision == "bf16" else "16-mixed", accelerator))
    strategy = DDPStrategy(timeout=LONGEST_WAIT, find_unused_parameters=True) if several else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, plugins=plugins)
    fabric.launch()
    if not fabric.is_global_zero:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 -- for good: the result is printed once
    return fabric


def from_all(fabric: Fabric, value: Value) -> list[Value]:
    """The value of every process, by rank; all must ask at once."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    distributed.all_gather_object(values, value)
    return values


@contextmanager
def in_turn(fabric: Fabric) -> Iterator[None]:
    """First the first process, then the first of every other machine, then all others: for caches, shared or of a machine's own."""
    first = fabric.is_global_zero
    with fabric.rank_zero_first():
        if first:
            yield
    with fabric.rank_zero_first(local=True):
        if not first:
            yield


def check_shared(fabric: Fabric, folder: Path) -> None:
    """Every process must see what the first one writes."""
    fabric.barrier()
    seen = from_all(fabric, "" if (folder / "run.lock").exists() else socket.gethostname())
    if any(seen):
        missing = ", ".join(f"{rank} on {host}" for rank, host in enumerate(seen) if host)
        raise BadInput(f"{folder}: not seen by rank {missing}; put the run folder where all machines see the same files")


def _end_with_parent() -> None:
    """Without its launcher a process would wait for the others forever; Linux can end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
