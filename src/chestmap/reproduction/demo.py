"""Trains the small model of `chestmap demo`: `combined` on phantoms, from the starter's backbone, in a minute or two.

`chestmap demo` calls it. The model is small and its figures are printed next to those of the medoid box, so that
nobody takes it for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chestmap.evaluation.measure import Measure
from chestmap.evaluation.scores import MEAN, Evaluation
from chestmap.evaluation.settings import EvaluationSettings
from chestmap.models.folder import write_model
from chestmap.prediction.from_pack import PredictSettings
from chestmap.reproduction.score_run import predict_and_score
from chestmap.settings import Tree
from chestmap.training.config import config_of
from chestmap.training.method import Method
from chestmap.training.train import train

STAGES = 2
"""How many stages stay as the starter has them; what they make of two augmentations of each image is computed once."""
VIEWS = 2
AUGMENT: Tree = {
    "flip": 0.0,
    "translate": 0.04,
    "scale": [0.95, 1.1],
    "rotate_degrees": 5,
    "brightness": 0.08,
    "contrast": 0.15,
    "gamma": 0.15,
}


@dataclass(frozen=True)
class Size:
    """`side` is of the canvas in pixels."""

    side: int = 128
    epochs: int = 8


def demo_model(out: Path, root: Path, methods: Mapping[str, Method], size: Size, *, progress: bool = True) -> Evaluation:
    """Train in `<out>/runs/combined` on the official list of a phantom, and score on its test images."""
    config = config_of(_tree(out, root, size), methods, name="demo")
    folder = out / "runs" / "combined"
    train(config, folder, write_model, progress=progress)
    how = PredictSettings(batch_size=32), EvaluationSettings(resamples=200)
    return predict_and_score(folder, config.data, methods, how, progress=progress)


def _tree(out: Path, root: Path, size: Size) -> Tree:
    schedule: Tree = {
        "epochs": size.epochs,
        "batch_size": 24,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "warmup": 0.5,
        "decay": "cosine",
        "clip": 5.0,
        "select": "last",
        "validate_every": size.epochs,
    }
    backbone: Tree = {
        "name": "tf_efficientnet_lite0",
        "weights": "starter",
        "stages": [2, 3, 4],
        "frozen": STAGES,
        "pyramid": 64,
    }
    return {
        "run": {"workers": 0, "tensorboard": False},
        "data": {
            "source": {"name": "nih", "root": str(root)},
            "split": {"name": "official"},
            "pack": {"width": size.side, "height": size.side},
            "cache": str(out / "cache"),
            "views": {"count": VIEWS},
            "augment": AUGMENT,
        },
        "method": {"name": "combined", "width": 64, "backbone": backbone, "learn": schedule},
    }


def in_words(scores: Evaluation) -> str:
    """Mean AUC, and how often a box is met at an IoU of .3, by the model and by the medoid box, which never looks at the image."""
    auc = scores.select(Measure.AUC, finding=MEAN)[0]
    met = {"finding": MEAN, "at": 0.3, "geometry": "mask"}
    ours = scores.select(Measure.IOU_MET, rule="validation", **met)[0]
    floor = scores.select(Measure.IOU_MET, rule="floor medoid", finding=MEAN, at=0.3)
    blind = f"; the medoid box, which never looks, meets {_with_ends(floor[0].value, None, None)}" if floor else ""
    return (
        f"Mean AUC {_with_ends(auc.value, auc.low, auc.high)}. Of the boxes, {_with_ends(ours.value, ours.low, ours.high)} are met "
        f"at an IoU of .3{blind}."
    )


def _with_ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
