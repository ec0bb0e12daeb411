"""Trains an aligner in steps: an anchor of the training images, the network fitted to it, pictures of both.

CIA-Net, the disease masks and `[around.alignment]` share these steps. The anchor is made of normal images alone, as in both
papers.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from pydantic import Field, field_validator
from torch import Tensor

from chestmap.datasets.split_rules import shuffled
from chestmap.errors import BadInput, BadModel, BadSettings
from chestmap.nn.alignment import (
    Aligner,
    AlignerSettings,
    Form,
    aligned,
    blurred,
    euclidean_loss,
    perceptual_loss,
)
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.settings import Settings
from chestmap.storage.json_file import read_json
from chestmap.tensors import Batch
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run import Run
from chestmap.training.task import Task
from chestmap.training.training_data import Data
from chestmap.vocabulary import NO_FINDING

SHOWN = 8  # images in the picture of pairs
MEASURED = 256  # images to report the distance to the anchor for

Weight = Annotated[float, Field(ge=0)]


READS = ("alignment",)
"""The settings that alignment depends on; what comes before it, as its judge, is known by its own step."""

POOLED = 512
"""Side of the canvas that `pool` is given for."""


class AlignmentSettings(Settings):
    """Anchor and losses; the defaults are those of disease masks (Kim 2020).

    `judge` is the network that gives the features of the perceptual loss, at its `stages`; a method may pass one of its own.
    """

    aligner: AlignerSettings = AlignerSettings()
    judge: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k", stages=(1, 2, 3, 4))
    anchor_images: Annotated[int, Field(ge=1)] = 2000  # normal images in the mean, or all there are
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # what of the mean is the anchor: x0 y0 x1 y1, shares
    pool: Annotated[int, Field(ge=1)] = (
        16  # smoothing before images are compared with the anchor: pixels of a canvas of 512, scaled
    )
    form: Form = "mean"  # of both losses
    perceptual_weight: Weight = 1.0
    euclidean_weight: Weight = 1.0

    @field_validator("crop")
    @classmethod
    def _has_area(cls, crop: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Refuses a crop that is empty, reversed, or reaches over the canvas."""
        if not (0 <= crop[0] < crop[2] <= 1 and 0 <= crop[1] < crop[3] <= 1):
            raise ValueError(f"{crop}: expected x0 < x1 and y0 < y1 within 0 and 1")
        return crop

    def pixels(self, images: Tensor) -> int:
        """Pixels that are smoothed over on a canvas like that of the images; 1: none."""
        return max(1, round(self.pool * min(images.shape[-2:]) / POOLED))


class Align(Task):
    """Fits images to the anchor, in pixels and in the judge's features (Kim 2020, eq. 9).

    The judge is frozen. The anchor lies in a buffer, so that it goes to the device with the network.
    """

    network: Aligner

    def __init__(self, network: Aligner, judge: Backbone, anchor: Tensor, settings: AlignmentSettings) -> None:
        super().__init__(network)
        self.judge, self.settings = judge, settings
        self.weights = {"euclidean": settings.euclidean_weight, "perceptual": settings.perceptual_weight}
        self.freeze(judge)
        self.register_buffer("anchor", anchor)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """How far warped images are from the anchor, in pixels and in features of the judge."""
        settings, anchor = self.settings, self.get_buffer("anchor")
        moved = blurred(aligned(batch.images, self.network(batch.images)), settings.pixels(batch.images))
        terms = {"euclidean": euclidean_loss(moved, anchor, settings.form)}
        if settings.perceptual_weight:
            terms["perceptual"] = perceptual_loss(self.judge.stages(moved), self.judge.stages(anchor), settings.form)
        return self.weighted(terms)


class Alignment(NamedTuple):
    """A trained aligner, and the anchor image in [0, 1] that it was fitted to."""

    aligner: Aligner
    anchor: Float32[np.ndarray, "height width"]


def align(run: Run, data: Data, settings: AlignmentSettings, schedule: Schedule, judge: Backbone | None = None) -> Alignment:
    """Three steps: `anchor`, `align`, and `pairs`, which shows images before and after."""
    if schedule.select not in ("loss", "last"):
        raise BadSettings(
            f'method.align.select: allowed: loss, last (got "{schedule.select}"); an alignment has no AUC and no maps'
        )
    anchor = make_anchor(run, data.train, settings)
    task = Align(
        Aligner(settings.aligner), judge or Backbone(settings.judge), torch.from_numpy(anchor)[None, None], settings
    )
    validation = data.validation if schedule.select == "loss" else None
    aligner = run.fit("align", task, data.train, schedule, validation, reads=READS).network
    pool = settings.pixels(torch.from_numpy(anchor))
    run.write("pairs", partial(_write_pairs, aligner, data.train, anchor, pool), of=data.train, reads=READS)
    return Alignment(aligner, anchor)


def make_anchor(run: Run, part: Part, settings: AlignmentSettings) -> Float32[np.ndarray, "height width"]:
    """The step `anchor`: the mean of normal images in [0, 1] at canvas size, as an array, a picture and a list of images."""
    write = partial(_write_anchor, part, settings.anchor_images, settings.crop, run.settings.seed)
    folder = run.write("anchor", write, of=part, reads=READS)
    try:
        return np.load(folder / "anchor.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder}: no readable anchor ({error}); delete the step's folder to make it anew") from None


def normal(part: Part) -> Bool[np.ndarray, "image"]:
    """Which images are known to show nothing: labelled "No Finding", or with every finding absent."""
    others = [row for row, name in enumerate(part.findings) if name != NO_FINDING]
    healthy = (part.labels[:, others] == 0).all(axis=1)
    if NO_FINDING in part.findings:
        healthy |= part.labels[:, part.findings.index(NO_FINDING)] == 1
    if not healthy.any():
        raise BadInput(
            f"{part.name}: none of {len(part)} images is known to be normal; anchor and partners are normal images"
        )
    return healthy


def _write_anchor(part: Part, count: int, crop: tuple[float, float, float, float], seed: int, folder: Path) -> None:
    """Averages normal images, crops to the lungs, and writes the anchor as array, picture and list of ids."""
    healthy = part.select(normal(part))
    ids = shuffled(healthy.ids, seed, "anchor")[:count]
    width, height = part.pack.settings.canvas
    total = np.zeros((height, width))
    for row in sorted(part.pack.rows(ids)):
        total += part.pack.pixels(np.array([row]))[0]
    columns, rows = (
        slice(round(crop[axis] * side), round(crop[axis + 2] * side)) for axis, side in enumerate((width, height))
    )
    mean = cv2.resize(total[rows, columns] / len(ids) / 255, (width, height), interpolation=cv2.INTER_LINEAR)
    np.save(folder / "anchor.npy", mean.astype(np.float32))
    cv2.imwrite(str(folder / "anchor.png"), np.rint(mean * 255).astype(np.uint8))
    (folder / "images.txt").write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")


def _write_pairs(aligner: Aligner, part: Part, anchor: Float32[np.ndarray, "height width"], pool: int, folder: Path) -> None:
    """`pairs.png`: the anchor, then images above and aligned below. `alignment.json`: mean distance of pixels to the anchor."""
    chosen = part.select(np.unique(np.linspace(0, len(part) - 1, MEASURED).astype(np.int64)))
    device = next(aligner.parameters()).device
    aligner.eval()
    before, after, columns = [], [], [np.concatenate([anchor, anchor])]
    wanted = torch.from_numpy(anchor).to(device)[None, None]
    for batch in Loader(part=chosen, settings=LoaderSettings(batch_size=8), shuffle=False).epoch(0):
        images = batch.images.to(device)
        with torch.inference_mode():
            moved = aligned(images, aligner(images))
            before += [euclidean_loss(blurred(image[None], pool), wanted, "mean").item() for image in images]
            after += [euclidean_loss(blurred(image[None], pool), wanted, "mean").item() for image in moved]
        columns += [torch.cat([image[0], other[0]]).cpu().numpy() for image, other in zip(images, moved, strict=True)]
    cv2.imwrite(str(folder / "pairs.png"), _picture(np.concatenate(columns[: SHOWN + 1], axis=1)))
    told = {"images": len(chosen), "distance_before": float(np.mean(before)), "distance_after": float(np.mean(after))}
    (folder / "alignment.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _picture(pixels: Float32[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Turns values in [0, 1] into bytes for a PNG; what lies outside is cut off."""
    return np.rint(pixels * 255).clip(0, 255).astype(np.uint8)


def tell_warnings(run: Run, folder: Path) -> None:
    """Those that a step left in its `masks.json`."""
    for line in read_json(folder / "masks.json", "delete the folder and train again").get("warnings", ()):
        run.screen.tell(f"{folder.name}: {line}")
