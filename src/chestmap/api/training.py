"""Trains what a config asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def train(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    progress: bool = True,
) -> Path:
    """Trains a config (a TOML file, the name of a shipped one, or the same as a mapping) into a run folder; returns its model folder.

    The same call goes on where it stopped. Overrides are those of `chestmap train --set`.

    Examples:
        >>> import chestmap
        >>> chestmap.train("own.toml", ["run.seed=1"], "runs/other", progress=False).as_posix()
        'runs/other/model'
    """
    from chestmap.methods import METHODS
    from chestmap.models.export import write_with_graph
    from chestmap.named_configs import config_path
    from chestmap.settings import with_overrides
    from chestmap.training.config import config_of, read_config
    from chestmap.training.train import train as train_model

    if isinstance(config, Mapping):
        read, name = config_of(with_overrides(dict(config), overrides), METHODS, name="config"), "run"
    else:
        path = config_path(str(config))
        read, name = read_config(path, overrides, METHODS), path.stem
    return train_model(read, Path(out) if out else Path("runs") / name, write_with_graph, progress=progress)
