"""Verifies a model folder, beyond what opening one checks: `chestmap model check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chestmap.errors import did_you_mean
from chestmap.models.engines import ForwardSettings, open_forward
from chestmap.models.folder import GRAPH, NEEDED, Model, open_model
from chestmap.models.predictor import Predictor
from chestmap.storage.manifest import SUMS, damage_in
from chestmap.training.method import Method

KEYS = (
    "format", "chestmap", "title", "paper", "around", "made", "calibration", "operating_points", "thresholds", "calibrated_on", "graph",
    *NEEDED,
)  # fmt: skip
FILES = ("model.json", "weights.safetensors", GRAPH, "README.md", "config.toml", "figures.json", "reliability.svg", SUMS)


@dataclass(frozen=True)
class Verification:
    """`facts` is one line; `problems` are things that opening passes over, one line each."""

    facts: str
    problems: tuple[str, ...]


def look_over(folder: Path, methods: Mapping[str, Method]) -> Verification:
    """Opens the model, compares the hash of its weights, and predicts one black image; raises what `open_model` raises."""
    model = open_model(folder, methods)
    predictor = Predictor(model, open_forward(model, ForwardSettings(engine="torch", device="cpu", precision=32)))
    width, height = model.canvas.canvas
    _ = model.graph  # compares its hash
    predictor.arrays(np.zeros((1, 1, height, width), np.float32), ["a black image"])
    unknown = [
        f"{folder}/model.json: {key}: not a key of this version{did_you_mean(key, KEYS)}" for key in _overlooked(model)
    ]
    beside = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    strays = [f"{folder}/{name}: not part of a model folder, and never read; move it elsewhere" for name in beside]
    return Verification(_facts(predictor), (*unknown, *strays, *damage_in(folder)))


def _overlooked(model: Model) -> list[str]:
    return [key for key in model.about if key not in KEYS]


def _facts(predictor: Predictor) -> str:
    """One line about the model: method, findings, canvas, size, training data, and that its hash is right."""
    model, about = predictor.model, predictor.model.about
    data, canvas, count = about["data"], model.canvas, len(predictor.findings)
    millions = sum(value.numel() for value in model.network.parameters()) / 1e6
    images = f" ({data['train']['images']:,} images)" if "train" in data else ""
    chosen = ", ".join(
        f"{len(about.get(key) or {})} of {count} {what}"
        for key, what in (("calibration", "calibrated"), ("operating_points", "with an operating point"),
                          ("thresholds", "with a threshold of the map"))
    )  # fmt: skip
    return (
        f"{model.folder}: {model.method.name}, {count} findings ({chosen}), {canvas.width} × {canvas.height} {canvas.fit}, "
        f"{millions:.3g} million weights, trained on {data.get('source')}, split {data.get('split')}{images}, "
        f"chestmap {about.get('chestmap', '?')}, sha256 {model.sha256[:12]}… verified"
    )
