"""How much faster two processes train than one: `python benchmarks/scaling.py [SIDE [BATCH]]`, three minutes on two cores.

The same steps (ResNet-18, random images, a batch of all processes together) with one process, and with two whose batch norms are
synchronized or not, in turn, each process of one thread.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from chestmap.methods import METHODS
from chestmap.training import RunSettings
from chestmap.training.config import config_of
from chestmap.training.launch import launch
from chestmap.training.train import train

BATCHES, EPOCHS, TURNS = 4, 3, 2
CASES = {"1 process": (1, True), "2 processes": (2, True), "2 processes, norms of their own": (2, False)}


def write_images(root: Path, side: int, count: int) -> None:
    root.mkdir()
    random = np.random.default_rng(0)
    rows = ["image,patient_id,Mass,Nodule"]
    for number in range(count):
        cv2.imwrite(str(root / f"{number}.png"), random.integers(0, 255, (side, side), dtype=np.uint8))
        rows.append(f"{number}.png,p{number},{number % 2},{number // 2 % 2}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def worker(root: Path, folder: Path, asked: str) -> None:
    side, batch, synchronized = json.loads(asked)
    torch.set_num_threads(1)
    schedule = {"epochs": EPOCHS, "batch_size": batch, "select": "last", "augment": False}
    run = {"device": "cpu", "workers": 0, "tensorboard": False, "log_every": BATCHES, "checkpoint_minutes": 60}
    tree = {
        "run": {**run, "sync_batch_norm": synchronized},
        "data": {
            "source": {"name": "folder", "root": str(root), "labels": "labels.csv"},
            "split": {"name": "patients", "test": 0.1, "validation": 0.1},
            "pack": {"width": side, "height": side},
            "cache": str(root / "cache"),
        },
        "method": {"name": "cam", "backbone": {"name": "resnet18", "weights": "none"}, "classify": schedule},
    }
    train(config_of(tree, METHODS, name="scaling"), folder, progress=False)


def rates(folder: Path) -> list[float]:
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return [round(float(row[5]), 1) for row in rows if row[4] == "images_per_second"][1:]  # the first holds the warm-up


def main(side: int = 224, batch: int = 32) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        write_images(root, side, round(batch * BATCHES / 0.8))
        for turn in range(TURNS):
            for number, (name, (count, synchronized)) in enumerate(CASES.items()):
                folder = Path(place) / f"{turn}-{number}"
                command = [__file__, "worker", str(root), str(folder), json.dumps([side, batch, synchronized])]
                if count > 1:
                    launch(RunSettings(devices=count), command)
                else:
                    subprocess.run([sys.executable, *command], check=True)
                found[name] += rates(folder)
    print(f"{side} px, batches of {batch}; load of the machine (1, 5, 15 minutes): {os.getloadavg()}")
    alone = float(np.median(found["1 process"]))
    for name, values in found.items():
        each = float(np.median(values)) / CASES[name][0]
        print(f"{name}: {np.median(values):.1f} images/s, {each / alone:.0%} of one alone for each; {values}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        main(*map(int, sys.argv[1:]))
