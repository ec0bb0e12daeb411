"""Learning rates against the formulas, and which parameters get which."""

import math

import pytest
import torch
from torch import nn

from chestmap.errors import BadSettings
from chestmap.settings import checked
from chestmap.training import Schedule, Task
from chestmap.training.optimization.schedule import optimizer_for


def test_a_constant_rate_stays():
    assert {Schedule(learning_rate=0.5).rate(update, 7) for update in range(70)} == {0.5}


def test_step_decay_falls_after_every_so_many_epochs():
    """HAM: 2e-5, a tenth after every 10 epochs."""
    schedule = Schedule(epochs=20, learning_rate=2e-5, decay="step", every=10, factor=0.1)
    assert schedule.rate(0, 100) == schedule.rate(999, 100) == 2e-5
    assert schedule.rate(1000, 100) == schedule.rate(1999, 100) == pytest.approx(2e-6)


def test_cosine_goes_from_the_rate_to_zero():
    schedule = Schedule(epochs=4, learning_rate=1.0, decay="cosine")
    for update in range(40):
        assert schedule.rate(update, 10) == pytest.approx((1 + math.cos(math.pi * update / 40)) / 2)


def test_warm_up_is_linear_and_meets_the_decay():
    schedule = Schedule(epochs=3, learning_rate=1.0, warmup=0.5, decay="cosine")
    rates = [schedule.rate(update, 8) for update in range(24)]
    assert rates[:4] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)  # the middle of the 20 steps after warm-up


class Two(Task):
    def __init__(self):
        super().__init__(nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)}))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        raise NotImplementedError


def groups(schedule, task=None):
    task = task or Two()
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    optimizer = optimizer_for(task, schedule)
    return optimizer, {
        names[id(parameter)]: (group["factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_parts_have_their_own_rates_and_norms_may_go_without_decay():
    _, found = groups(Schedule(part_factors={"backbone": 0.1, "backbone.bias": 0.2}, weight_decay=0.01, decay_all=False))
    assert found == {
        "network.backbone.weight": (0.1, 0.01),
        "network.backbone.bias": (0.2, 0.0),
        "network.head.weight": (1.0, 0.01),
        "network.head.bias": (1.0, 0.0),
        "scale": (1.0, 0.0),
    }


def test_frozen_parameters_get_no_rate():
    task = Two()
    task.freeze(task.network["backbone"])
    _, found = groups(Schedule(), task)
    assert set(found) == {"network.head.weight", "network.head.bias", "scale"}


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_the_optimizer_asked_for(name, kind):
    optimizer, _ = groups(Schedule(optimizer=name, momentum=0.8))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True) if name == "sgd" else group["betas"] == (0.8, 0.999)


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(
        BadSettings, match=r'part_factors: "bakbone" is no part of the network \(backbone, head\); did you mean "backb'
    ):
        groups(Schedule(part_factors={"bakbone": 0.1}))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"warmup": 3, "epochs": 3}, "warmup 3 epochs of 3: expected fewer"),
        ({"patience": 2, "select": "last"}, "patience needs a score"),
        ({"part_factors": {"a": -1}}, "part_factors: a = -1: expected 0 or more"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1"),
    ],
)
def test_schedules_that_cannot_be(tree, message):
    with pytest.raises(BadSettings, match=message):
        checked(Schedule, tree, name="x.toml")
