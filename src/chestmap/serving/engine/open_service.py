"""Opens a service from model folders and a store's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chestmap.errors import BadInput
from chestmap.models.engines import ForwardSettings
from chestmap.models.predictor import load
from chestmap.serving.engine.served_model import ServedModel
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.store import Store
from chestmap.settings import checked


def open_service(folders: Sequence[Path], store: Path, settings: ServeSettings) -> Service:
    """Holds the store from here on; nothing is predicted before it starts."""
    tree = {key: getattr(settings, key) for key in ("engine", "device", "precision")}
    forward = checked(ForwardSettings, tree, name="--serve-set")
    served = [ServedModel(load(folder, forward)) for folder in folders]
    if len({one.sha256 for one in served}) < len(served):
        raise BadInput("the same model is given twice; give each once")
    return Service(served, Store(store, settings.database), settings)
