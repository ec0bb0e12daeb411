"""Reads and writes the model folder: all that prediction needs, and nothing that runs code.

model.json           method, settings, wrappers, findings, canvas, own rule, what it was trained on and with, sha256 of
                     the weights, format number; calibration, operating points, thresholds where `chestmap model calibrate` chose them
weights.safetensors  the network
graph.onnx           the same network for programs without torch; model.json holds its sha256 and that of its weights, which it
                     reads from weights.safetensors where those are half precision
config.toml          the configuration that trained it, without the places of the machine
README.md            the model card; figures.json and reliability.svg belong to it

Nothing here imports torch: a model with a graph predicts without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestmap.errors import BadInput, BadModel
from chestmap.imaging.canvas import CanvasSettings
from chestmap.predictions.header import OwnRule
from chestmap.settings import checked
from chestmap.storage.atomic import write_bytes, write_json
from chestmap.storage.json_file import json_of
from chestmap.storage.manifest import extend, is_sealed, seal, sha256_of, verified_bytes
from chestmap.types import Findings
from chestmap.version import __version__
from chestmap.vocabulary import folder_findings

if TYPE_CHECKING:
    from torch import nn

    from chestmap.training.method import Method
    from chestmap.training.train import Trained

COPY_AGAIN = "copy the model folder again"
FORMAT = 1
GRAPH, WEIGHTS = "graph.onnx", "weights.safetensors"
NEEDED: Mapping[str, type] = {
    "method": str, "settings": dict, "findings": list, "canvas": dict, "own_rule": dict, "sha256": str, "data": dict,
}  # fmt: skip
WORDS = {str: "text", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class MadeBy:
    """The method of a model, by its names."""

    name: str
    title: str
    paper: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """Opens the description of a model folder; `about` is model.json as it was read, `built` a network that is there already."""

    folder: Path
    findings: Findings
    canvas: CanvasSettings
    own_rule: OwnRule
    about: Mapping[str, Any]
    built: Any = None

    @property
    def sha256(self) -> str:
        """The hash of the weights, which identifies the model."""
        return self.about["sha256"]

    @cached_property
    def method(self) -> MadeBy:
        """The method that made the model, as the folder describes it; its package need not be installed."""
        name = str(self.about["method"])
        return MadeBy(name, str(self.about.get("title", name)), str(self.about.get("paper", "")))

    @cached_property
    def network(self) -> nn.Module:
        """The torch network in evaluation mode, built from the weights when it is first asked for."""
        from chestmap.models.network import network_of

        return network_of(self) if self.built is None else self.built

    @cached_property
    def graph(self) -> Path | None:
        """The graph of this model's weights, compared with its sha256; None where the folder holds none of them."""
        kept = self.about.get("graph")
        if not isinstance(kept, Mapping) or kept.get("weights") != self.sha256:
            return None
        path = self.folder / GRAPH
        if sha256_of(path, "write it again with `chestmap export --into`") != kept.get("sha256"):
            raise BadModel(
                f"{path}: is not the graph that model.json describes; write it again with `chestmap export --into {self.folder}`"
            )
        weights = self.folder / WEIGHTS
        if kept.get("reads") and sha256_of(weights, "get the model again") != self.sha256:
            raise BadModel(f"{weights}: the content is not what model.json describes; get the model again")
        return path


def write_model(folder: Path, trained: Trained) -> None:
    """Fill an empty folder; `Run.put` makes it under another name and renames it."""
    import tomli_w

    from chestmap.models.cards.card import card
    from chestmap.training.optimization.checkpoint import save_weights

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
        write_bytes(folder / "config.toml", tomli_w.dumps(trained.config).encode())
    write_bytes(folder / "README.md", card(about).encode())
    write_about(folder, about)
    seal(folder)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes model.json and brings its sum up to date; the file is the new one or the old one, whatever happens."""
    write_json(folder / "model.json", about)
    if is_sealed(folder):
        extend(folder, "model.json")


def open_model(folder: Path, methods: Mapping[str, Method] | None = None) -> Model:
    """Refuse whatever is missing, changed or newer; fetch nothing. Keys unknown to this version are kept unread.

    With `methods` the network is built at once, and its weights are compared with model.json.
    """
    about, where = read_about(folder), f"{folder}/model.json"
    canvas = checked(CanvasSettings, about["canvas"], name=where)
    model = Model(
        folder=folder,
        findings=_findings(about["findings"], where),
        canvas=canvas,
        own_rule=_own_rule(about["own_rule"], where),
        about=about,
    )
    if methods is None:
        return model
    from chestmap.models.network import network_of

    return Model(
        folder=folder,
        findings=model.findings,
        canvas=canvas,
        own_rule=model.own_rule,
        about=about,
        built=network_of(model, methods),
    )


def read_about(folder: Path) -> dict[str, Any]:
    """Reads model.json and refuses what is missing, damaged or newer than this version.

    The file is compared with the folder's sums. The weights are not, so that a description costs no reading of them.
    """
    path = folder / "model.json"
    if not path.exists():
        raise BadModel(f"{folder}: no model.json; expected a model folder, such as model/ of a finished run")
    about = json_of(verified_bytes(folder, path.name, COPY_AGAIN), path, COPY_AGAIN)
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
    """Makes findings of the names in model.json; an empty list, or what is no name, is refused."""
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BadModel(f"{where}: findings: expected names (got {names!r:.60}); copy the model folder again")
    try:
        return folder_findings(names)
    except BadInput as error:
        raise BadModel(f"{where}: {error}; copy the model folder again") from None


def _own_rule(tree: Mapping[str, Any], where: str) -> OwnRule:
    """Reads the method's own rule for maps; unknown keys and a threshold that is no finite number are refused.

    A key that is not known here might change how maps are cut, so none is passed over.
    """
    threshold, normalize = tree.get("threshold"), tree.get("normalize", True)
    strange = not isinstance(normalize, bool) or set(tree) - {"threshold", "normalize"}
    if strange or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise BadModel(f"{where}: own_rule: expected a threshold, and normalize true or false (got {dict(tree)!r:.80})")
    return OwnRule(float(threshold), normalize)
