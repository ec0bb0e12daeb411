"""Scores validation images to choose the weights that are kept.

The loop calls these after each epoch. Larger is better for AUC and IoU, smaller for a loss; findings with one kind of label
do not count.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float
from lightning_fabric import Fabric
from torch import Tensor

from chestmap.errors import BadInput, Diverged
from chestmap.nn.boxes import resized
from chestmap.nn.cam import full_precision, normalized
from chestmap.tensors import Batch
from chestmap.training.task import Task

LEVELS = tuple(step / 32 for step in range(1, 32))
"""At which validation cuts a map."""

LIMITS = (0.1, 0.3, 0.5)


class NothingToRank(BadInput):
    """No finding is both present and absent among the validation images."""


def mean_auc(scores: Float[np.ndarray, "image finding"], labels: Float[np.ndarray, "image finding"]) -> float:
    """Area under the ROC curve, mean over the findings that are present in some images and absent in others.

    NaN and labels between 0 and 1 count as unknown.
    """
    columns = zip(scores.T, labels.T, strict=True)
    areas = [
        _auc(score, column == 1, column == 0) for score, column in columns if (column == 1).any() and (column == 0).any()
    ]
    if not areas:
        raise NothingToRank(
            'no finding is both present and absent among the validation images; set select to "loss" or "last"'
        )
    return float(np.mean(areas))


def _auc(scores: Float[np.ndarray, "image"], present: Bool[np.ndarray, "image"], absent: Bool[np.ndarray, "image"]) -> float:
    """The share of (present, absent) pairs in the right order, a tie counting half; by ranks (scikit-learn takes seconds to import)."""
    known = present | absent
    _, place, count = np.unique(scores[known], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = int(present.sum())
    return float((ranks[present[known]].sum() - positives * (positives + 1) / 2) / (positives * absent.sum()))


@torch.no_grad()
def validation_auc(fabric: Fabric, task: Task, batches: Iterable[Batch], images: int, findings: int) -> dict[str, float]:
    """`batches` are this process's share of `images`."""
    rows = [torch.empty((0, 2 * findings), device=fabric.device)]
    for batch in batches:
        with fabric.autocast():
            logits = task.predict(batch).logits
        _check_finite(logits, batch)
        rows.append(torch.cat([logits.float(), batch.labels.float()], dim=1))
    return _auc_of(fabric, rows, images)


def _check_finite(logits: Tensor, batch: Batch) -> None:
    if not torch.isfinite(logits).all():
        raise Diverged(f"validation: a logit is not finite; images {', '.join(batch.ids)}; lower the learning rate")


def _auc_of(fabric: Fabric, rows: list[Tensor], images: int) -> dict[str, float]:
    everywhere = _gathered(fabric, torch.cat(rows), -(-images // fabric.world_size))
    scores, labels = np.split(everywhere.cpu().numpy(), 2, axis=1)
    return {"validation_auc": mean_auc(scores, labels)}


@torch.no_grad()
def validation_iou(fabric: Fabric, task: Task, batches: Iterable[Batch], images: int, findings: int) -> dict[str, float]:
    """The AUC, and how well maps cover boxes: for each finding at the level that is best for it, then the mean over findings.

    `validation_iou` is the mean IoU of mask and boxes, `validation_iou_over_0.1` (0.3, 0.5) the share of boxed pairs that reach it.
    """
    scores = [torch.empty((0, 2 * findings), device=fabric.device)]
    overlaps = [torch.empty((0, 1 + len(LEVELS)), device=fabric.device)]
    for batch in batches:
        with fabric.autocast():
            output = task.predict(batch)
        _check_finite(output.logits, batch)
        scores.append(torch.cat([output.logits.float(), batch.labels.float()], dim=1))
        overlaps.append(_overlaps(output.maps, batch, normalize=task.maps_are_normalized))
    found = _auc_of(fabric, scores, images)
    rows = torch.cat(overlaps)
    most = len(rows)
    if fabric.world_size > 1:
        counted = fabric.all_reduce(torch.tensor(most, device=fabric.device), reduce_op="max")
        assert isinstance(counted, Tensor)
        most = int(counted.item())
    everywhere = _gathered(fabric, rows, most).cpu().numpy()
    return found | mean_iou(everywhere[~np.isnan(everywhere[:, 0])])


def mean_iou(rows: Float[np.ndarray, "pair column"]) -> dict[str, float]:
    """Of rows that hold a finding and the IoU at each level."""
    if not len(rows):
        raise BadInput('no validation image has a box; set select to "auc", "loss" or "last"')
    found = []
    for finding in np.unique(rows[:, 0]):
        values = rows[rows[:, 0] == finding, 1:]
        best = values[:, values.mean(0).argmax()]
        found.append([best.mean(), *((best >= limit).mean() for limit in LIMITS)])
    names = ["validation_iou", *(f"validation_iou_over_{limit}" for limit in LIMITS)]
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def _overlaps(maps: Float[Tensor, "batch finding h w"], batch: Batch, *, normalize: bool) -> Float[Tensor, "pair column"]:
    """For each boxed pair the finding, and the IoU of its boxes with the map on the canvas, cut at each of `LEVELS`."""
    width, height = batch.frames[0].canvas
    rows = [row for row, boxes in enumerate(batch.boxes) if boxes]
    some = batch.rows(rows)
    truth = some.masks(height, width)
    image, finding = (some.boxed.to(truth) * truth.amax((-2, -1)) > 0).nonzero(as_tuple=True)
    seen, truth = full_precision(maps[rows][image, finding]), truth[image, finding]
    seen = resized(normalized(seen) if normalize else seen, width, height)
    ious = []
    for level in LEVELS:
        mask = (seen >= level).float()
        shared = (mask * truth).sum((-2, -1))
        ious.append(shared / (mask.sum((-2, -1)) + truth.sum((-2, -1)) - shared))
    return torch.stack([finding.float(), *ious], dim=1)


@torch.no_grad()
def validation_loss(fabric: Fabric, task: Task, batches: Iterable[Batch]) -> dict[str, float]:
    """Each term's mean over the images, the task in evaluation mode, and the sum of these."""
    names: list[str] = []
    sums = torch.zeros(0)
    for batch in batches:
        with fabric.autocast():
            terms = task(batch)
        names = list(terms)
        values = torch.stack([*(value.double() for value in terms.values()), torch.ones((), device=fabric.device).double()])
        values = values * len(batch)
        sums = sums + values if len(sums) else values
    totals: list[float] = _gathered(fabric, sums[None], 1).sum(0).tolist()
    images = totals.pop()
    means = {f"validation_{name}": total / images for name, total in zip(names, totals, strict=True)}
    return means | {"validation_loss": sum(means.values(), 0.0)}


def _gathered(fabric: Fabric, rows: Tensor, most: int) -> Tensor:
    """Rows of all processes; a process with fewer than `most` adds rows of NaN, which read as unknown labels."""
    if fabric.world_size == 1:
        return rows
    everywhere = rows.new_zeros((fabric.world_size, most, rows.shape[1]))
    mine = everywhere[fabric.global_rank]
    mine[: len(rows)], mine[len(rows) :] = rows, torch.nan
    summed = fabric.all_reduce(everywhere, reduce_op="sum")  # Fabric's gathering is by a function that torch deprecates
    assert isinstance(summed, Tensor)
    return summed.flatten(0, 1)
