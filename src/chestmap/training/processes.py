"""The processes of a run: one, or several that train together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy

from chestmap.training.run_settings import RunSettings

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LONGEST_WRITE = timedelta(hours=12)  # the others wait while the first process writes a step


class _Mixed(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        return data  # a batch is frozen, and autocast casts what it needs


def make_fabric(settings: RunSettings) -> Fabric:
    """Launched: with several devices and no torchrun, this starts the script again for each of the other processes."""
    settings.apply()
    accelerator, (devices, nodes) = settings.accelerator(), settings.processes()
    strategy = "auto"
    if devices * nodes > 1:
        strategy = DDPStrategy(timeout=LONGEST_WRITE, find_unused_parameters=True)
    plugins: list[Any] = []
    if settings.precision != 32:
        plugins = [_Mixed("bf16-mixed" if settings.precision == "bf16" else "16-mixed", accelerator)]
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, plugins=plugins)
    fabric.launch()
    if fabric.local_rank > 0:
        _end_with_parent()
    if not fabric.is_global_zero:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 -- for good: the result is told once
    return fabric


def _end_with_parent() -> None:
    """A process that Fabric started would wait for a killed first one forever; Linux can end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
