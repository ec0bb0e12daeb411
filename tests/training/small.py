"""A dataset, a network and a recipe so small that a run takes a second; also a script that is killed and started again.

`python small.py DATA FOLDER [KEY=VALUE ...]` trains in FOLDER what several processes learn as one does.
"""

import sys
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import nn

from chestmap.datasets.folder import FolderSettings
from chestmap.datasets.split import SplitSettings
from chestmap.nn.losses import known_bce
from chestmap.packs.build import PackSettings
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings, checked, with_overrides
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, RunSettings, Schedule, Task
from chestmap.training.training_data import DataSettings, open_data

FINDINGS = ("Effusion", "Mass", "Nodule")
CORNERS = {"Effusion": (2, 20), "Mass": (18, 4), "Nodule": (20, 22)}  # x, y of a bright square of 8 pixels


def write_dataset(root: Path, count: int = 40, side: int = 32) -> Path:
    """PNG files, labels.csv and boxes.csv; two images of each patient, a box for every third image."""
    root.mkdir(parents=True)
    random = np.random.default_rng(5)
    labels, boxes = ["image,patient_id," + ",".join(FINDINGS)], ["image,finding,x,y,w,h"]
    for number in range(count):
        present = random.random(3) < 0.5
        pixels = random.integers(0, 120, (side, side), dtype=np.uint8)
        for name in np.array(FINDINGS)[present]:
            x, y = CORNERS[name]
            pixels[y : y + 8, x : x + 8] = 230
            if number % 3 == 0:
                boxes.append(f"{number:03d}.png,{name},{x},{y},8,8")
        cv2.imwrite(str(root / f"{number:03d}.png"), pixels)
        known = ["" if number == 1 and column == 0 else str(int(value)) for column, value in enumerate(present)]
        labels.append(f"{number:03d}.png,p{number // 2}," + ",".join(known))
    (root / "labels.csv").write_text("\n".join(labels) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return root


def data_settings(root: Path, **changes: object) -> DataSettings:
    source = FolderSettings(root=root, labels="labels.csv", boxes="boxes.csv")
    split, pack = SplitSettings(name="patients", validation=0.3), PackSettings(width=32, height=32)
    return DataSettings(source=source, split=split, pack=pack, cache=root / "cache").model_copy(update=changes)


def small_data(root: Path) -> Data:
    return open_data(data_settings(root), progress=False)


class Net(nn.Module):
    """Convolution, batch norm, dropout: what makes an inexact resume show."""

    def __init__(self, *, norm: bool = True, dropout: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> Output:
        features = self.body(images)
        maps = torch.einsum("bchw,fc->bfhw", features, self.head.weight).relu()
        return Output(self.head(features.mean((2, 3))), maps)


class Classify(Task):
    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        output, known = self.network(batch.images), batch.is_known
        loss = nn.functional.binary_cross_entropy_with_logits(output.logits, batch.labels.nan_to_num(), reduction="none")
        return {"classify": (loss * known).sum() / known.sum(), "quiet": 0.01 * output.maps.mean()}


class Even(Task):
    """What several processes compute as one does: batch norm, a mean over known labels; no dropout, whose draws differ.

    `seen` is a file for each process: optimizer step and image, once for each time that it was learned from.
    """

    def __init__(self, seen: Path | None = None) -> None:
        super().__init__(Net(dropout=0.0))
        self.seen = seen
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        output = self.network(batch.images)
        if self.seen and self.training:
            with self.seen.open("a") as file:
                file.writelines(f"{int(self.step)} {name}\n" for name in batch.ids)
        return {"findings": known_bce(output.logits, batch.labels), "quiet": 0.01 * output.maps.mean()}

    def after_step(self) -> None:
        self.step += 1


EVEN = Schedule(epochs=3, batch_size=4, optimizer="sgd", learning_rate=0.1, ema=0.5, accumulate=2, boxed_share=0.5)


def train_even(root: str, folder: str, *overrides: str, **changes: object) -> None:
    torch.set_num_threads(1)
    settings = data_settings(Path(root))
    data = open_data(settings, progress=False)
    with Run(Path(folder), run_settings("log_every=1", *overrides), augment=settings.augment, progress=False) as run:
        seen = Path(folder) / f"seen-{run.fabric.world_size}-{run.fabric.global_rank}.txt"
        run.fit("learn", Even(seen), data.train, EVEN.model_copy(update=changes), data.validation)


SCHEDULE = Schedule(epochs=3, batch_size=4, learning_rate=1e-2, warmup=1, decay="cosine")


def recipe(run: Run, data: Data, schedule: Schedule = SCHEDULE) -> nn.Module:
    """Two steps and a folder between them: best by validation, then averaged weights of accumulated steps."""
    first = run.fit("teach", Classify(Net()), data.train, schedule, data.validation)
    run.write("notes", lambda folder: (folder / "note.txt").write_text("seen") and None, of=data.train)
    second = {"ema": 0.9, "accumulate": 2, "select": "loss", "clip": 1.0, "patience": 15, "epochs": schedule.epochs + 1}
    return run.fit("learn", Classify(first.network), data.train, schedule.model_copy(update=second), data.validation).network


class SmallSettings(Settings):
    name: Literal["small"] = "small"
    dropout: float = Field(default=0.3, ge=0, lt=1)
    learn: Schedule = SCHEDULE


def small_recipe(run: Run, data: Data, settings: SmallSettings) -> nn.Module:
    task = Classify(Net(dropout=settings.dropout))
    return run.fit("learn", task, data.train, settings.learn, data.validation).network


SMALL = Method(
    name="small",
    title="Small",
    paper="of the tests",
    settings=SmallSettings,
    build=lambda settings, findings, canvas: Net(dropout=settings.dropout),
    recipe=small_recipe,
    own_rule=lambda settings: OwnRule(0.5),
)
METHODS = {"small": SMALL}


def small_tree(root: Path) -> dict[str, Any]:
    """What a config file of this method holds."""
    return {
        "run": {"device": "cpu", "workers": 0, "log_every": 2, "tensorboard": False},
        "data": data_settings(root).model_dump(mode="json", exclude_none=True),
        "method": {"name": "small", "learn": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}},
    }


def run_settings(*overrides: str) -> RunSettings:
    tree = {"device": "cpu", "workers": 0, "log_every": 2, "tensorboard": False, "checkpoint_minutes": 0}
    return checked(RunSettings, with_overrides(tree, overrides), name="small")


def train_small(root: str, folder: str, *overrides: str, epochs: int = 3) -> None:
    torch.set_num_threads(1)
    schedule = SCHEDULE.model_copy(update={"epochs": epochs})
    data = open_data(data_settings(Path(root)), progress=False)
    with Run(Path(folder), run_settings(*overrides), augment=data_settings(Path(root)).augment, progress=False) as run:
        recipe(run, data, schedule)


if __name__ == "__main__":
    train_even(*sys.argv[1:])
