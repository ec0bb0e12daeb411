"""Defines how a step is trained: a schedule in numbers, and the optimizer and learning rates that follow from it.

A config's tables such as `[method.learn]` are `Schedule`s. The learning rate is a pure function of the optimizer step, so
that a resumed step needs no record of it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from chestmap.errors import BadSettings, did_you_mean
from chestmap.settings import Settings


class TermSettings(Settings):
    """How a loss term comes in, besides the weight that its method gives it."""

    warmup: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # epochs in which its weight grows from 0
    most: float | None = Field(default=None, gt=0, lt=1)  # greatest share of the gradient at the backbone's features


class Schedule(Settings):
    """Everything that decides a step's result besides data, seed and the method's own settings."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=16, ge=1)  # of all processes together, which share it out evenly
    accumulate: int = Field(default=1, ge=1)  # batches per optimizer step
    batches: int | None = Field(default=None, ge=1)  # at most so many batches per epoch; each epoch draws others
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    part_factors: dict[str, float] = Field(default_factory=dict)  # times the rate, by part: { backbone = 0.1 }
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of SGD (Nesterov); Adam's first coefficient
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    decay_all: bool = True  # False: no weight decay on biases and norms
    warmup: float = Field(default=0.0, ge=0)  # epochs of linear warm-up
    decay: Literal["constant", "step", "cosine"] = "constant"
    every: int = Field(default=10, ge=1)  # epochs between two falls of "step"
    factor: float = Field(default=0.1, gt=0, le=1)  # of each fall of "step"
    clip: float | None = Field(default=None, gt=0)  # greatest gradient norm
    ema: float = Field(default=0.0, ge=0, lt=1)  # decay of the averaged weights; 0: none
    select: Literal["auc", "loss", "iou", "last"] = "auc"  # which epoch's weights are kept; iou: by validation boxes
    validate_every: int = Field(default=1, ge=1)  # epochs
    patience: int = Field(default=0, ge=0)  # validations without a better one before the step ends; 0: never
    boxed_share: float | None = Field(default=None, ge=0, le=1)  # least share of boxed images in a batch; none: as they come
    most_boxed: float | None = Field(default=None, gt=0, le=1)  # greatest share of boxed images in a batch
    terms: dict[str, TermSettings] = Field(default_factory=dict)  # by log name: { boxes = { most = 0.3 } }
    augment: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> Schedule:
        """Refuses settings that contradict each other, before anything is trained."""
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup {self.warmup:g} epochs of {self.epochs}: expected fewer than the epochs")
        if self.patience and self.select == "last":
            raise ValueError('patience needs a score: set select to "auc", "loss" or "iou"')
        if self.boxed_share and self.most_boxed and self.boxed_share > self.most_boxed:
            raise ValueError(f"boxed_share {self.boxed_share:g} is above most_boxed {self.most_boxed:g}; swap or drop one")
        wrong = [f"{part} = {value:g}" for part, value in self.part_factors.items() if not value >= 0]
        if wrong:
            raise ValueError(f"part_factors: {', '.join(wrong)}: expected 0 or more")
        return self

    @property
    def measure(self) -> Literal["auc", "loss", "iou"]:
        """What validation scores; the AUC where no score chooses."""
        return "auc" if self.select == "last" else self.select

    def share(self, processes: int, step: str) -> int:
        """Images of each process in a batch; refused where they would not be as many."""
        if self.batch_size % processes:
            fits = [count for count in range(1, self.batch_size + 1) if self.batch_size % count == 0]
            near = [max(one for one in fits if one < processes), *[one for one in fits if one > processes][:1]]
            raise BadSettings(
                f"{step}.batch_size: {self.batch_size} images cannot be shared out evenly over {processes} processes; "
                f"use {' or '.join(map(str, near))} processes, or another batch_size"
            )
        return self.batch_size // processes

    def rate(self, update: int, updates_per_epoch: int) -> float:
        """Gives the learning rate of optimizer step `update` (from 0), as a pure function of it.

        It rises linearly over `warmup` epochs. Then it stays, falls by `factor` each `every` epochs, or follows half a
        cosine to 0.
        """
        epoch = update / updates_per_epoch
        if epoch < self.warmup:
            return self.learning_rate * (update + 1) / (self.warmup * updates_per_epoch + 1)
        if self.decay == "step":
            return self.learning_rate * self.factor ** (int(epoch) // self.every)
        if self.decay == "cosine":
            passed = (epoch - self.warmup) / (self.epochs - self.warmup)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(passed, 1.0)))
        return self.learning_rate


def optimizer_for(task: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """One group of parameters per (learning rate factor, weight decay); frozen ones are left out.

    `part_factors` names parts of `task.network`, or of the task itself for what lies outside the network.
    """
    _check_parts(task, schedule.part_factors)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            factor = _factor(name.removeprefix("network."), schedule.part_factors)
            decay = schedule.weight_decay if schedule.decay_all or parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise BadSettings(f"{type(task).__name__}: every parameter is frozen, so there is nothing to train")
    tables = [
        {"params": parameters, "factor": factor, "weight_decay": decay} for (factor, decay), parameters in groups.items()
    ]
    return _optimizer(tables, schedule)


def _optimizer(groups: list[dict[str, Any]], schedule: Schedule) -> torch.optim.Optimizer:
    """Makes the optimizer; `momentum` is Nesterov's for SGD, and the first coefficient of Adam and AdamW."""
    rate, momentum = schedule.learning_rate, schedule.momentum
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0)
    kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=(momentum, 0.999))


def _check_parts(task: nn.Module, factors: dict[str, float]) -> None:
    """Refuses a factor for a part that the network does not have, and names the parts that it has."""
    parts = [name.removeprefix("network.") for name, _ in [*task.named_modules(), *task.named_parameters()] if name]
    for part in factors:
        if part not in parts:
            children = ", ".join(name for name, _ in task.get_submodule("network").named_children())
            raise BadSettings(f'part_factors: "{part}" is no part of the network ({children}){did_you_mean(part, parts)}')


def _factor(name: str, factors: dict[str, float]) -> float:
    """The factor of the longest part that holds the parameter; 1 where none does."""
    holding = [part for part in factors if name == part or name.startswith(part + ".")]
    return factors[max(holding, key=len)] if holding else 1.0
