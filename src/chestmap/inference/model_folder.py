"""The model folder: all that prediction needs, and nothing that runs code.

model.json           method, settings, what stands around it, findings, canvas, own rule, what it was trained on, sha256 of the weights, format number
weights.safetensors  the network
README.md            the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chestmap import __version__
from chestmap.data.canvas import CanvasSettings
from chestmap.data.folder_tables import folder_findings
from chestmap.data.predictions import OwnRule
from chestmap.errors import BadModel, did_you_mean
from chestmap.inference.model_card import card
from chestmap.settings import Settings, checked
from chestmap.training.around import AroundSettings, build_around
from chestmap.training.checkpoint import read_weights, save_weights, write_beside
from chestmap.training.method import Method
from chestmap.training.train import Trained
from chestmap.types import Findings

FORMAT = 1
NEEDED = ("method", "settings", "findings", "canvas", "own_rule", "sha256", "data")


@dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode with what it needs to know of images; `about` is model.json as it was read."""

    folder: Path
    method: Method
    settings: Settings
    findings: Findings
    canvas: CanvasSettings
    own_rule: OwnRule
    network: nn.Module
    about: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        return self.about["sha256"]


def write_model(folder: Path, trained: Trained) -> None:
    """Fills an empty folder; `Run.put` makes it beside and renames it."""
    method, settings = trained.method, trained.settings
    about = {
        "format": FORMAT,
        "chestmap": __version__,
        "method": method.name,
        "title": method.title,
        "paper": method.paper,
        "settings": settings.model_dump(mode="json"),
        "findings": list(trained.findings.names),
        "canvas": trained.canvas.model_dump(mode="json"),
        "own_rule": asdict(method.own_rule(settings)),
        "data": trained.data,
        "sha256": save_weights(trained.network, folder / "weights.safetensors"),
    }
    if trained.around:
        about["around"] = trained.around.of_model
    write_beside(folder / "README.md", card(about).encode())
    write_beside(folder / "model.json", (json.dumps(about, indent=1) + "\n").encode())


def open_model(folder: Path, methods: Mapping[str, Method]) -> Model:
    """Refuses whatever is missing, changed, newer or unknown; fetches nothing."""
    about = read_about(folder)
    name = about["method"]
    if name not in methods:
        raise BadModel(
            f'{folder}: made by method "{name}", which this version ({__version__}) does not have '
            f"({', '.join(methods)}){did_you_mean(str(name), methods)}"
        )
    method, where = methods[name], f"{folder}/model.json"
    settings = checked(method.settings, about["settings"], name=f"{where} (chestmap {about.get('chestmap', '?')})")
    around = checked(AroundSettings, about["around"], name=f"{where}: around") if "around" in about else None
    canvas = checked(CanvasSettings, about["canvas"], name=where)
    findings = folder_findings(about["findings"])
    with torch.device("meta"):
        network = build_around(method, settings, around, findings, canvas.canvas)
    state = read_weights(folder / "weights.safetensors", about["sha256"])
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise BadModel(
            f"{folder}: the weights do not fit the network of model.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return Model(folder, method, settings, findings, canvas, OwnRule(**about["own_rule"]), network.eval(), about)


def read_about(folder: Path) -> dict[str, Any]:
    """model.json, looked over but not yet compared with the weights."""
    path = folder / "model.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadModel(f"{folder}: no model.json; expected a model folder, such as model/ of a finished run") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{path}: cannot be read ({error}); copy the model folder again") from None
    found = about.get("format") if isinstance(about, dict) else None
    if not isinstance(found, int) or found < 1:
        raise BadModel(f"{path}: no format number; expected a model folder written by chestmap")
    if found > FORMAT:
        raise BadModel(f"{path}: format {found} is newer than {FORMAT}, which chestmap {__version__} reads; update chestmap")
    if missing := [key for key in NEEDED if key not in about]:
        raise BadModel(f"{path}: {', '.join(missing)} missing; copy the model folder again")
    return about
