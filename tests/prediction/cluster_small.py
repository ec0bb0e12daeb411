"""The small model of the tests on a Ray that runs, as a driver that can be killed; a forward pass takes PAUSE seconds an image.

`python cluster_small.py MODEL DATA OUT ADDRESS ACTORS PAUSE`
"""

import sys
import time
from functools import partial
from pathlib import Path

import torch

from chestmap.models.predictor import Predictor
from chestmap.prediction.ray import ClusterSettings, predict_on_cluster
from chestmap.prediction.request import Request
from prediction.predict_small import small_predictor

SIZES = {"batch_size": 4, "part_size": 32}


class Slow:
    def __init__(self, forward, pause: float) -> None:
        self.forward, self.pause = forward, pause
        self.engine, self.device, self.precision = forward.engine, forward.device, forward.precision

    def __call__(self, images: torch.Tensor):
        time.sleep(self.pause * len(images))
        return self.forward(images)


def slow_predictor(folder: Path, pause: float) -> Predictor:
    torch.set_num_threads(1)
    predictor = small_predictor(folder)
    predictor.forward = Slow(predictor.forward, pause)
    return predictor


def main(model: str, data: str, out: str, address: str, actors: str, pause: str) -> None:
    opened = partial(slow_predictor, Path(model), float(pause))
    work = Request(model=Path(model), out=out, given=(data,), settings=SIZES, open_predictor=opened)
    start = time.perf_counter()
    share = predict_on_cluster(work, ClusterSettings(address=address, actors=int(actors)), partial(print, file=sys.stderr))
    sys.stdout.write(f"{share.images} {len(share.failed)} {share.left} {time.perf_counter() - start:.2f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
