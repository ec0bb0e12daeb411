"""The functions of the public Python API: everything that a verb does, with the same defaults.

Users import them from `chestmap` itself. What only the command line needs belongs in `cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.api.predicting import load, predict
    from chestmap.api.reporting import report
    from chestmap.api.scoring import evaluate
    from chestmap.api.training import train

__all__ = ["evaluate", "load", "predict", "report", "train"]

_PLACES = {"load": "predicting", "predict": "predicting", "report": "reporting", "evaluate": "scoring", "train": "training"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"chestmap.api.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
