"""Scores that choose the weights which are kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float
from lightning_fabric import Fabric
from torch import Tensor

from chestmap.errors import BadInput, Diverged
from chestmap.tensors import Batch
from chestmap.training.task import Task


def mean_auc(scores: Float[np.ndarray, "image finding"], labels: Float[np.ndarray, "image finding"]) -> float:
    """Area under the ROC curve, mean over the findings that are present in some images and absent in others.

    NaN and labels between 0 and 1 count as unknown.
    """
    columns = zip(scores.T, labels.T, strict=True)
    areas = [
        _auc(score, column == 1, column == 0) for score, column in columns if (column == 1).any() and (column == 0).any()
    ]
    if not areas:
        raise BadInput('no finding is both present and absent among the validation images; set select to "loss" or "last"')
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
        if not torch.isfinite(logits).all():
            raise Diverged(f"validation: a logit is not finite; images {', '.join(batch.ids)}; lower the learning rate")
        rows.append(torch.cat([logits.float(), batch.labels.float()], dim=1))
    everywhere = _gathered(fabric, torch.cat(rows), -(-images // fabric.world_size))
    scores, labels = np.split(everywhere.cpu().numpy(), 2, axis=1)
    return {"validation_auc": mean_auc(scores, labels)}


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
