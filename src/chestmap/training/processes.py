"""The processes of a run: one, or several that train together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy

from chestmap.training.run_settings import RunSettings

LONGEST_WRITE = timedelta(hours=12)  # the others wait while the first process writes a step


class _Mixed(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        return data  # a batch is frozen, and autocast casts what it needs


def make_fabric(settings: RunSettings) -> Fabric:
    settings.apply()
    accelerator, (devices, nodes) = settings.accelerator(), settings.processes()
    strategy = "auto"
    if devices * nodes > 1:
        strategy = DDPStrategy(timeout=LONGEST_WRITE, find_unused_parameters=True)
    plugins: list[Any] = []
    if settings.precision != 32:
        plugins = [_Mixed("bf16-mixed" if settings.precision == "bf16" else "16-mixed", accelerator)]
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, plugins=plugins)
