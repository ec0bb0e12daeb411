"""A model folder, a table of patients and what the model "predicted" of them, with known truths behind the numbers."""

from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.split import SplitSettings, make_split
from chestmap.models.folder import read_about, write_model
from chestmap.packs.build import PackSettings
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.training.train import Trained
from chestmap.types import Findings, Frame
from training.small import FINDINGS, SMALL, Net

SPLIT = SplitSettings(name="patients", validation=0.4, test=0.4)
BOXES = {"Effusion": (16, 16, 40, 40), "Mass": (24, 24, 32, 32)}  # x0, y0, x1, y1 in images of 64 pixels
FRAME = Frame.fit((64.0, 64.0), (64, 64))
SLOPE, OFFSET = 0.5, -1.0
"""Of Effusion: the chance of the finding is sigmoid(SLOPE * logit + OFFSET)."""


def toy_source(root: Path, images: int = 400):
    """Two images of each patient; every third image with a finding has its box. Nodule never came."""
    root.mkdir(parents=True)
    random = np.random.default_rng(3)
    logits = random.normal(0, 3, (images, 3))
    chance = np.stack([expit(SLOPE * logits[:, 0] + OFFSET), expit(logits[:, 1]), np.zeros(images)], axis=1)
    labels = (random.random((images, 3)) < chance).astype(int)
    rows, boxes = ["image,patient_id,sex,age,view," + ",".join(FINDINGS)], ["image,finding,x0,y0,x1,y1"]
    for number, (row, patient) in enumerate(zip(labels, np.arange(images) // 2, strict=True)):
        sex, age, view = "FM"[patient % 2], "" if patient % 10 == 0 else 5 + patient % 90, ("PA", "AP")[number % 2]
        rows.append(f"i{number:03d}.png,p{patient},{sex},{age},{view}," + ",".join(map(str, row)))
        boxes += [
            f"i{number:03d}.png,{name}," + ",".join(map(str, corners))
            for name, corners in BOXES.items()
            if row[FINDINGS.index(name)] and number % 3 == 0
        ]
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return read_folder(FolderSettings(root=root, labels="labels.csv", boxes="boxes.csv")), logits


def toy_model(folder: Path, source, split) -> Path:
    """Untrained weights; what it says it was trained on is the split's training part."""
    folder.mkdir(parents=True)
    settings, canvas = SMALL.settings(), PackSettings(width=64, height=64)
    told = {"source": source.name, "fingerprint": source.fingerprint, "split": split.name}
    counts = {"images": len(split.parts["train"]), "fingerprint": "0"}
    data = told | {"split_fingerprint": split.fingerprint, "train": counts}
    made = {"seed": 7, "precision": 32, "versions": {"torch": "2.15"}, "git": None}
    config = {"run": {"seed": 7}, "method": {"name": "small"}}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # weights whose maps show every finding
        network = Net()
    write_model(
        folder,
        Trained(
            method=SMALL,
            settings=settings,
            findings=Findings(FINDINGS),
            canvas=canvas,
            network=network,
            data=data,
            around=None,
            made=made,
            config=config,
        ),
    )
    return folder


def toy_maps() -> np.ndarray:
    """8 x 8 cells of 8 pixels, the same for every finding: a core on the box of Mass, a shoulder on that of Effusion."""
    maps = np.full((3, 8, 8), 0.05, np.float16)
    maps[:, 2:5, 2:5] = 0.5
    maps[:, 3, 3] = 1.0
    return maps


def toy_predictions(folder: Path, model: Path, ids, scores, **beside):
    """`beside` stands in the header, as a calibration does."""
    about = {"method": "small", "sha256": read_about(model)["sha256"], **beside}
    writer = PredictionsWriter(
        folder, Header(findings=Findings(FINDINGS), canvas=(64, 64), model=about, own_rule=OwnRule(0.9), part_size=len(ids))
    )
    maps = np.broadcast_to(toy_maps(), (len(ids), 3, 8, 8))
    patients = tuple(f"p{int(one[1:4]) // 2}" for one in ids)
    chunk = Chunk(
        image_ids=tuple(ids), patient_ids=patients, frames=(FRAME,) * len(ids), scores=scores.astype(np.float32), maps=maps
    )
    writer.write(0, len(ids), iter([chunk]))
    writer.finish()
    return open_predictions(folder)


class Toy:
    """All of it in a folder."""

    def __init__(self, folder: Path) -> None:
        self.source, self.logits = toy_source(folder / "data")
        self.split = make_split(self.source, SPLIT)
        self.model = toy_model(folder / "model", self.source, self.split)
        self.ids = [*self.split.parts["validation"], *self.split.parts["test"]]
        self.predictions = toy_predictions(folder / "predictions", self.model, self.ids, expit(self.of(self.ids)))

    def of(self, ids) -> np.ndarray:
        return self.logits[self.source.rows(ids)]
