"""Predicts with the small model of the tests, and dies of SIGKILL in the batch that is named, as nothing else is as sudden.

`python predict_small.py MODEL DATA OUT BATCH`
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from chestmap.models.engines import ForwardSettings, open_forward
from chestmap.models.folder import open_model
from chestmap.models.predictor import Predictor
from chestmap.prediction.job import JobSettings, predict_all
from training.small import METHODS

SETTINGS = JobSettings(batch_size=3, part_size=8, workers=0)


def small_predictor(folder: Path) -> Predictor:
    model = open_model(folder, METHODS)
    return Predictor(model, open_forward(model, ForwardSettings(engine="torch", device="cpu", precision=32)))


def main(model: str, data: str, out: str, last: str, pause: str = "0", names: str = "") -> None:
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
    settings = SETTINGS.model_copy(update={"show_patient": names == "shown"})
    predict_all(predictor, [data], Path(out), settings, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
