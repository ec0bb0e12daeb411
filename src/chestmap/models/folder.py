"""The model folder: all that prediction needs, and nothing that runs code.

model.json           method, settings, what stands around it, findings, canvas, own rule, what it was trained on and with, sha256 of
                     the weights, format number; calibration, operating points, thresholds where `chestmap model calibrate` chose them
weights.safetensors  the network
config.toml          the configuration that trained it, without the places of the machine
README.md            the model card; figures.json and reliability.svg belong to it
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from chestmap import __version__
from chestmap.datasets.folder_tables import folder_findings
from chestmap.errors import BadInput, BadModel, did_you_mean
from chestmap.imaging.canvas import CanvasSettings
from chestmap.models.card import card
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings, checked
from chestmap.training.checkpoint import read_weights, save_weights, write_beside
from chestmap.training.method import Method
from chestmap.training.train import Trained
from chestmap.training.wrapper_settings import AroundSettings, build_around
from chestmap.types import Findings

FORMAT = 1
NEEDED: Mapping[str, type] = {
    "method": str, "settings": dict, "findings": list, "canvas": dict, "own_rule": dict, "sha256": str, "data": dict,
}  # fmt: skip
WORDS = {str: "text", dict: "a table", list: "a list"}


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
    if trained.made:
        about["made"] = trained.made
    if trained.config:
        write_beside(folder / "config.toml", tomli_w.dumps(trained.config).encode())
    write_beside(folder / "README.md", card(about).encode())
    write_about(folder, about)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """model.json: the new one or the old one, whatever happens."""
    write_beside(folder / "model.json", (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())


def open_model(folder: Path, methods: Mapping[str, Method]) -> Model:
    """Refuses whatever is missing, changed, newer or unknown; fetches nothing. Keys beside those of this version are kept unread."""
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
    findings, own_rule = _findings(about["findings"], where), _own_rule(about["own_rule"], where)
    with torch.device("meta"):
        network = build_around(method, settings, around, findings, canvas.canvas)
    state = read_weights(folder / "weights.safetensors", about["sha256"])
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise BadModel(
            f"{folder}: the weights do not fit the network of model.json: {' '.join(str(error).split())[:300]}"
        ) from None
    return Model(folder, method, settings, findings, canvas, own_rule, network.eval(), about)


def read_about(folder: Path) -> dict[str, Any]:
    """model.json, looked over but not yet compared with the weights."""
    path = folder / "model.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadModel(f"{folder}: no model.json; expected a model folder, such as model/ of a finished run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path}: cannot be read ({error}); copy the model folder again") from None
    found = about.get("format") if isinstance(about, dict) else None
    if not isinstance(found, int) or found < 1:
        raise BadModel(f"{path}: no format number; expected a model folder written by chestmap")
    if found > FORMAT:
        raise BadModel(f"{path}: format {found} is newer than {FORMAT}, which chestmap {__version__} reads; update chestmap")
    if missing := [key for key in NEEDED if key not in about]:
        raise BadModel(f"{path}: {', '.join(missing)} missing; copy the model folder again")
    for key, kind in NEEDED.items():
        if not isinstance(about[key], kind):
            raise BadModel(f"{path}: {key}: expected {WORDS[kind]} (got {about[key]!r:.60}); copy the model folder again")
    if len(about["sha256"]) != 64 or set(about["sha256"]) - set("0123456789abcdef"):
        raise BadModel(f"{path}: sha256: expected 64 hexadecimal digits, without which the weights cannot be verified")
    return about


def measured_points(about: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Sensitivity and positive predictive value of each operating point on the images that chose it."""
    found: dict[str, dict[str, float]] = {}
    for name, one in (about.get("calibrated_on") or {}).get("findings", {}).items():
        if name in (about.get("operating_points") or {}) and "sensitivity" in one:
            hits, false = one["sensitivity"] * one["with"], (1 - one["specificity"]) * one["without"]
            found[name] = {"sensitivity": one["sensitivity"]} | ({"PPV": hits / (hits + false)} if hits + false else {})
    return found


def _findings(names: list[Any], where: str) -> Findings:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BadModel(f"{where}: findings: expected names (got {names!r:.60}); copy the model folder again")
    try:
        return folder_findings(names)
    except BadInput as error:
        raise BadModel(f"{where}: {error}; copy the model folder again") from None


def _own_rule(tree: Mapping[str, Any], where: str) -> OwnRule:
    threshold, normalize = tree.get("threshold"), tree.get("normalize", True)
    strange = not isinstance(normalize, bool) or set(tree) - {"threshold", "normalize"}
    if strange or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise BadModel(f"{where}: own_rule: expected a threshold, and normalize true or false (got {dict(tree)!r:.80})")
    return OwnRule(float(threshold), normalize)
