"""The two small models of `chestmap demo`: a plain classifier and HAM, alike but for the method, trained in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chestmap.evaluation.evaluate import EvaluationSettings
from chestmap.evaluation.scores import Evaluation
from chestmap.models.export import write_with_graph
from chestmap.prediction.from_pack import PredictSettings
from chestmap.reproduction.score_run import predict_and_score
from chestmap.settings import Tree
from chestmap.training.config import config_of
from chestmap.training.method import Method
from chestmap.training.train import train

BACKBONE = {"name": "test_resnet", "output_stride": 8}
MODELS: Mapping[str, Tree] = {
    "cam": {"name": "cam", "backbone": BACKBONE},
    "ham": {"name": "ham", "backbone": BACKBONE, "width": 64},
}
STEP = {"cam": "classify", "ham": "attend"}


@dataclass(frozen=True)
class Size:
    side: int = 128
    epochs: int = 16


def demo_model(
    name: str, out: Path, root: Path, methods: Mapping[str, Method], size: Size, *, progress: bool = True
) -> Evaluation:
    """Trained in `<out>/runs/<name>` on the official list of a phantom, and scored on its test images."""
    schedule: dict[str, Any] = {
        "epochs": size.epochs,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "decay": "cosine",
        "select": "last",
    }
    tree: Tree = {
        "run": {"workers": 0, "tensorboard": False},
        "data": {
            "source": {"name": "nih", "root": str(root)},
            "split": {"name": "official"},
            "pack": {"width": size.side, "height": size.side},
            "cache": str(out / "cache"),
        },
        "method": {**MODELS[name], STEP[name]: schedule},
    }
    config = config_of(tree, methods, name=f"demo, {name}")
    folder = out / "runs" / name
    train(config, folder, write_with_graph, progress=progress)
    how = PredictSettings(batch_size=32), EvaluationSettings(resamples=200)
    return predict_and_score(folder, config.data, methods, how, progress=progress)
