"""Sends what is logged to trackers: Weights & Biases and MLflow. `log.csv` is always written, TensorBoard by its own setting.

Both packages work without a network by their own settings (`WANDB_MODE=offline`, a folder as `MLFLOW_TRACKING_URI`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from chestmap.errors import BadInput

TrackerName = Literal["wandb", "mlflow"]


@runtime_checkable
class Tracker(Protocol):
    """What a step writes to; `update` counts optimizer steps."""

    def log(self, values: Mapping[str, float], update: int) -> None: ...

    def close(self) -> None: ...


class Wandb:
    """A run of the project `chestmap`, named after the run folder; a resumed training goes on in it."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = _package("wandb")
        self.run = wandb.init(
            project="chestmap", name=folder.name, id=folder.name, resume="allow", dir=str(folder), config=dict(config)
        )

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Sends values with the update as a value of its own, since steps of a run each begin at 1."""
        self.run.log({**values, "update": update})

    def close(self) -> None:
        """Ends the run at the tracker and sends what is left."""
        self.run.finish()


class Mlflow:
    """A run of the experiment `chestmap`, named after the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.mlflow = _package("mlflow")
        self.mlflow.set_experiment("chestmap")
        self.mlflow.start_run(run_name=folder.name)
        self.mlflow.log_params({key: str(value)[:250] for key, value in config.items()})

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Sends values at the step `update`."""
        self.mlflow.log_metrics(dict(values), step=update)

    def close(self) -> None:
        """Ends the run at the tracker."""
        self.mlflow.end_run()


TRACKERS: Mapping[str, type[Wandb] | type[Mlflow]] = {"wandb": Wandb, "mlflow": Mlflow}


def open_trackers(names: tuple[TrackerName, ...], folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Those that the setting `run.trackers` names."""
    return [TRACKERS[name](folder, config) for name in names]


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise BadInput(f'run.trackers: "{name}" is not installed; pip install {name}, or leave it out') from None
