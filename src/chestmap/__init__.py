"""Finds which findings a chest X-ray shows, and where: trains, scores and uses weakly supervised localization.

    import chestmap
    model = chestmap.load("runs/own/model")
    chestmap.predict(model, "film.png").boxes

Names are loaded when first used, so that `import chestmap` takes no time and no torch. Research use only; not a medical device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chestmap.version import __version__ as __version__

if TYPE_CHECKING:
    from chestmap import losses as losses
    from chestmap import metrics as metrics
    from chestmap.api import evaluate, load, predict, report, train
    from chestmap.datasets.source import Source
    from chestmap.geometry import Box
    from chestmap.methods import METHODS
    from chestmap.models.predictor import Predictor as Model
    from chestmap.packs.torch_dataset import Dataset
    from chestmap.types import Findings, Prediction

__all__ = [
    "METHODS",
    "Box",
    "Dataset",
    "Findings",
    "Model",
    "Prediction",
    "Source",
    "evaluate",
    "load",
    "losses",
    "metrics",
    "predict",
    "report",
    "train",
]

_PLACES = {
    **dict.fromkeys(("evaluate", "load", "predict", "report", "train"), "chestmap.api"),
    **dict.fromkeys(("Findings", "Prediction"), "chestmap.types"),
    "Box": "chestmap.geometry",
    "Dataset": "chestmap.packs.torch_dataset",
    "METHODS": "chestmap.methods",
    "Source": "chestmap.datasets.source",
}


def __getattr__(name: str) -> Any:
    if name in ("losses", "metrics"):
        return import_module(f"chestmap.{name}")
    if name == "Model":
        return import_module("chestmap.models.predictor").Predictor
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
