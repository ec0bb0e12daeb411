"""A run that looks at each task of a recipe before and after it is trained, and trains of each method in miniature."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from chestmap.methods import METHODS
from chestmap.nn.process_sums import counting_together
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.tensors import Batch
from chestmap.training import Run
from chestmap.training.config import Config, config_of
from training.small import data_settings

SIDE = 64


def tiny_config(name: str, dataset: Path, **changes: object) -> Config:
    data = data_settings(dataset).model_dump(mode="json", exclude_none=True)
    tree = {
        "run": {"device": "cpu", "workers": 0, "log_every": 1, "tensorboard": False, "checkpoint_minutes": 0},
        "data": data | {"pack": {"width": SIDE, "height": SIDE}},
        "method": {"name": name, **METHODS[name].tiny, **changes},
    }
    return config_of(tree, METHODS, name=f"tiny {name}")


class WatchedRun(Run):
    """`checks` are made of a copy of every task on a batch with boxes; what is frozen is compared after training."""

    checks = ()

    def fit(self, name, task, part, schedule, validation=None, **more):
        batch = next(Loader(part=part, settings=LoaderSettings(batch_size=12), shuffle=False).epoch(0))
        for check in self.checks:
            check(f"{len(self.steps) + 1}-{name}", deepcopy(task).train(), batch)
        before = frozen_state(task)
        trained = super().fit(name, task, part, schedule, validation, **more)
        after = frozen_state(trained)
        moved = [key for key, value in before.items() if not torch.equal(value, after[key])]
        assert not moved, f"{name}: frozen, but moved: {moved}"
        return trained


def frozen_state(task: nn.Module) -> dict[str, torch.Tensor]:
    """Frozen parameters, and the statistics of frozen parts."""
    state = {name: value.detach().clone() for name, value in task.named_parameters() if not value.requires_grad}
    for place, part in enumerate(task._frozen):
        state |= {f"frozen part {place}: {name}": value.clone() for name, value in part.named_buffers()}
    return state


def gradients_are_finite(step: str, task: nn.Module, batch: Batch) -> None:
    """Of every trainable parameter, none left out."""
    terms = task(batch)
    torch.stack(list(terms.values())).sum().backward()
    trainable = {name: value.grad for name, value in task.named_parameters() if value.requires_grad}
    missing = [name for name, gradient in trainable.items() if gradient is None]
    wrong = [name for name, gradient in trainable.items() if gradient is not None and not torch.isfinite(gradient).all()]
    assert trainable, step
    assert not missing, f"{step}: no gradient for {missing}"
    assert not wrong, f"{step}: gradient not finite for {wrong}"


def stilled(task: nn.Module) -> nn.Module:
    """A copy that learns, but without what sees or draws for each piece by itself: batch statistics and dropout."""
    copy = deepcopy(task).train()
    for layer in copy.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            layer.eval()
    return copy


def taught(
    task: nn.Module, batch: Batch, images_at_once: int | None, processes: int = 1
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Loss terms and gradients of a batch, computed as the loop does."""
    task.zero_grad()
    terms: dict[str, float] = {}
    for piece in batch.pieces(images_at_once):
        share = len(piece) / len(batch)
        torch.manual_seed(0)
        with counting_together(processes, share):
            found = task(piece)
        (torch.stack(list(found.values())).sum() * share).backward()
        terms = {name: terms.get(name, 0.0) + share * value.item() for name, value in found.items()}
    return terms, {name: one.grad.clone() for name, one in task.named_parameters() if one.grad is not None}


def pieces_add_up(step: str, task: nn.Module, batch: Batch) -> None:
    """Losses and gradients of a batch do not depend on how many of its images are computed at once."""
    copy = stilled(task)
    terms, gradients = taught(copy, batch, None)
    for images_at_once in (5,):
        some, others = taught(copy, batch, images_at_once)
        for name, value in terms.items():
            assert abs(some[name] - value) <= 1e-5 * max(1.0, abs(value)), f"{step}, {images_at_once} at once: {name}"
        for name, value in gradients.items():
            torch.testing.assert_close(
                others[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def an_absent_finding_does_no_harm(step: str, task: nn.Module, batch: Batch) -> None:
    """All absent, all unknown, and a batch without any box: the loss and its gradients stay finite."""
    labels = batch.labels.clone()
    labels[:, 0], labels[:, 1] = 0.0, torch.nan
    for changed in (
        replace(batch, labels=labels, boxes=tuple(() for _ in batch.boxes)),
        replace(batch, labels=torch.zeros_like(labels), boxes=tuple(() for _ in batch.boxes)),
        replace(batch, labels=torch.full_like(labels, torch.nan), boxes=tuple(() for _ in batch.boxes)),
    ):
        task.zero_grad()
        terms = task(changed)
        assert all(torch.isfinite(value) for value in terms.values()), (step, terms)
        torch.stack(list(terms.values())).sum().backward()
        wrong = [
            name for name, value in task.named_parameters() if value.grad is not None and not value.grad.isfinite().all()
        ]
        assert not wrong, f"{step}: gradient not finite for {wrong}"
