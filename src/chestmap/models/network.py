"""Builds the torch network of a model folder from its settings and weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from chestmap.errors import BadModel, did_you_mean
from chestmap.models.folder import Model
from chestmap.settings import checked
from chestmap.training.method import Method
from chestmap.training.optimization.checkpoint import read_weights
from chestmap.training.wrapper_settings import AroundSettings, build_around
from chestmap.version import __version__


def network_of(model: Model, methods: Mapping[str, Method] | None = None) -> nn.Module:
    """In evaluation mode; `methods` are those of this version unless others are given."""
    if methods is None:
        from chestmap.methods import METHODS as methods  # noqa: N811
    about, name = model.about, model.method.name
    if name not in methods:
        raise BadModel(
            f'{model.folder}: made by method "{name}", which this version ({__version__}) does not have '
            f"({', '.join(methods)}){did_you_mean(name, methods)}"
        )
    method, where = methods[name], f"{model.folder}/model.json"
    given = {**method.earlier, **about["settings"]}
    settings = checked(method.settings, given, name=f"{where} (chestmap {about.get('chestmap', '?')})")
    around = checked(AroundSettings, about["around"], name=f"{where}: around") if "around" in about else None
    with torch.device("meta"):
        network = build_around(method, settings, around, model.findings, model.canvas.canvas)
    state = read_weights(model.folder / "weights.safetensors", model.sha256)
    state = {key: value.float() if value.dtype == torch.float16 else value for key, value in state.items()}  # kept small
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise BadModel(
            f"{model.folder}: the weights do not fit the network of model.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return network.eval()
