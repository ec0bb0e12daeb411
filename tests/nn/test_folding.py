"""Folding changes no number beyond rounding, and only where a convolution's output is read by the norm alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from chestmap.methods import METHODS
from chestmap.nn.folding import folded
from chestmap.types import Findings

FINDINGS = Findings(("Effusion", "Mass", "Nodule"))


def trained_norms(network):
    """Statistics and weights such as training leaves: nothing is 0 or 1."""
    random = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1, generator=random)
            norm.running_var.uniform_(0.5, 1.5, generator=random)
            norm.weight.data.uniform_(0.5, 1.5, generator=random)
            norm.bias.data.normal_(0, 0.1, generator=random)
    return network.eval()


def norms(network):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


BOTH = [(name, "test_resnet") for name in METHODS] + [
    pytest.param(name, "densenet121", marks=() if name == "cam" else pytest.mark.slow) for name in METHODS
]


@pytest.mark.parametrize(("name", "backbone"), BOTH)
def test_a_folded_method_computes_the_same(name, backbone):
    method = METHODS[name]
    tree = {"name": name, **method.tiny, "backbone": {**method.tiny["backbone"], "name": backbone}}
    torch.manual_seed(0)
    network = trained_norms(method.build(method.settings.model_validate(tree), FINDINGS, (96, 64)))
    before, images = copy.deepcopy(network.state_dict()), torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        wanted, found = network(images), folded(network)(images)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.maps, wanted.maps, rtol=1e-5, atol=1e-5 * float(wanted.maps.max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())  # it was a copy
    left = norms(folded(network))
    assert left == 0 if backbone == "test_resnet" else 0 < left < norms(network) - 55  # those before a convolution stay


def test_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3.0)
    norm.weight.data.fill_(2.0)
    norm.bias.data.fill_(5.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    (only, _) = folded(nn.Sequential(conv, norm))
    assert only.weight.item() == 3.0  # (3 x - 1) / 2 * 2 + 5
    assert only.bias.item() == 4.0


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(1, 2, 3, bias=True), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.how = forward

    def forward(self, images):
        return self.how(self, images)


STAYS = {
    "read by another": lambda net, x: (lambda y: net.norm(y) + y)(net.conv(x)),
    "two norms after one convolution": lambda net, x: (lambda y: net.norm(y) + net.other(y))(net.conv(x)),
    "a convolution used twice": lambda net, x: net.norm(net.conv(x)) + net.conv(x.flip(-1)),
    "something between": lambda net, x: net.norm(net.conv(x).relu()),
    "a method of the tensor reads it": lambda net, x: (lambda y: net.norm(y) * y.mean())(net.conv(x)),
    "a weight that is also penalized": lambda net, x: net.norm(net.conv(x)) + net.conv.weight.square().sum(),
    "a weight that is also used bare": lambda net, x: functional.conv2d(x, net.conv.weight) + net.norm(net.conv(x)),
}


@pytest.mark.parametrize("how", list(STAYS))
def test_what_cannot_be_folded_stays(how):
    network = trained_norms(Net(STAYS[how]))
    images = torch.rand(2, 1, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_with_and_without_weights_after_a_shared_pair(affine):
    """The pair may be used twice, as a backbone is on two images."""
    network = Net(lambda net, x: net.norm(net.conv(x)) - net.norm(net.conv(x.flip(-2))))
    network.norm = nn.BatchNorm2d(2, affine=affine)
    network.norm.running_mean.fill_(0.3)
    images, network = torch.rand(2, 1, 9, 9), network.eval()
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(images), network(images), rtol=1e-5, atol=1e-6)
    assert norms(folded(network)) == 1  # `other`, which nothing runs through
