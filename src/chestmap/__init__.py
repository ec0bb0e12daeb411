"""chestmap: which findings a chest X-ray shows, and where."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def load(folder: object, settings: Any = None) -> Any:
    """`chestmap.models.predictor.Predictor` of a model folder: `chestmap.load("runs/ham/model").predict("film.dcm").show()`.

    Imported by name when it is called: the package itself is imported without torch.
    """
    return import_module("chestmap.models.predictor").load(folder, settings)
