"""The averaged weights against their formula."""

import torch
from torch import nn

from chestmap.training.optimization.weight_average import Average


def test_the_average_follows_its_formula():
    network = nn.Linear(3, 2)
    average = Average(network, 0.9)
    expected = network.weight.detach().clone()
    torch.manual_seed(0)
    for step in range(30):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.mean["weight"], expected)


def test_the_network_carries_the_average_for_a_while():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network[0].weight.add_(1.0)
        network[1].running_mean.add_(1.0)
    with average.in_place():
        torch.testing.assert_close(network[0].weight.detach(), before["0.weight"])
        assert network[1].running_mean.eq(1).all()  # a running average already
    torch.testing.assert_close(network[0].weight.detach(), before["0.weight"] + 1)
    torch.testing.assert_close(average.mean["0.weight"], before["0.weight"])


def test_frozen_parameters_are_not_averaged():
    network = nn.Linear(3, 2)
    network.bias.requires_grad_(False)
    assert set(Average(network, 0.5).mean) == {"weight"}
