"""Predicts with the small model of the tests, and dies of SIGKILL in the batch that is named, as nothing else is as sudden.

`python predict_small.py MODEL DATA OUT BATCH [PAUSE NAMES ROUTE]`
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from chestmap.datasets import open_source, source_settings
from chestmap.models.engines import ForwardSettings, open_forward
from chestmap.models.folder import open_model
from chestmap.models.predictor import Predictor
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import DatasetProvider, FileProvider
from prediction.bare_store import Bare
from training.small import METHODS

SETTINGS = JobSettings(batch_size=3, part_size=8, workers=0)


def small_predictor(folder: Path) -> Predictor:
    model = open_model(folder, METHODS)
    return Predictor(model, open_forward(model, ForwardSettings(engine="torch", device="cpu", precision=32)))


def provider_of(route: str, data: Path, predictor: Predictor) -> FileProvider | DatasetProvider:
    """The same images as files, as a list, or as a dataset."""
    if route == "dataset":
        source = open_source(source_settings({"name": "folder", "root": str(data), "labels": "labels.csv"}))
        return DatasetProvider.packed(source, sorted(source.ids), predictor.model.canvas, data.parent / "cache")
    return FileProvider([str(data.parent / "list.csv" if route == "list" else data)])


def predict(predictor: Predictor, route: str, data: Path, out: str, settings: JobSettings) -> None:
    """By one of the ways to ask for a prediction; shards in an odd order."""
    provider = provider_of(route, data, predictor)
    if route != "shards":
        predict_all(predictor, provider, out, settings, progress=False)
        return
    for index in (2, 0, 1):
        predict_shard(open_job(predictor, provider, out, settings, 3), Shard(index, 3), 0, progress=False)


def main(model: str, data: str, out: str, last: str, pause: str = "0", names: str = "", route: str = "files") -> None:
    if root := os.environ.get("BARE_ROOT"):
        Bare.begin(Path(root))
    torch.set_num_threads(1)
    predictor, seen = small_predictor(Path(model)), []
    forward = predictor.forward

    def dying(images: torch.Tensor) -> object:
        seen.append(len(images))
        time.sleep(float(pause))
        if len(seen) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(images)

    for name in ("engine", "device", "precision"):
        setattr(dying, name, getattr(forward, name))
    predictor.forward = dying
    predict(predictor, route, Path(data), out, SETTINGS.model_copy(update={"show_patient": names == "shown"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
