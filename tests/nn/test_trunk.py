"""A frozen trunk: what is kept of an image gives the network the same features as the image itself, and does not learn."""

import copy

import pytest
import torch

from chestmap.errors import BadSettings
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.folding import folded


def backbone(name="test_resnet", **settings):
    torch.manual_seed(0)
    return Backbone(BackboneSettings(name=name, **settings))


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0"])
@pytest.mark.parametrize(("stages", "frozen"), [((2, 3, 4), 3), ((3, 4), 3), ((4,), 2), ((1, 4), 2)])
def test_kept_features_are_read_in_place_of_the_image(name, stages, frozen):
    net = backbone(name, stages=stages, frozen=frozen).eval()
    plain = backbone(name, stages=stages).eval()
    plain.load_state_dict(net.state_dict())
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        kept = net.kept(images)
        wanted = plain.stages(images)
        for found in (net.stages(images), net.stages(kept), copy.deepcopy(net).stages(kept)):
            assert len(found) == len(stages)
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other)


def test_features_kept_for_more_stages_serve_a_network_that_wants_fewer():
    images = torch.rand(2, 1, 64, 64)
    many, few = backbone(stages=(2, 3, 4), frozen=3).eval(), backbone(stages=(3, 4), frozen=3).eval()
    few.load_state_dict(many.state_dict())
    with torch.no_grad():
        for one, other in zip(few.stages(many.kept(images)), few.stages(images), strict=True):
            torch.testing.assert_close(one, other)
    with pytest.raises(BadSettings, match="write the views again"):
        many.stages(few.kept(images))


def test_frozen_stages_neither_learn_nor_count():
    net = backbone(stages=(3, 4), frozen=2).train()
    before = copy.deepcopy(net.state_dict())
    net(torch.rand(4, 1, 64, 64)).sum().backward()
    torch.optim.SGD([one for one in net.parameters() if one.requires_grad], lr=0.1).step()
    still = {key for module in net.still() for key in module.state_dict()}
    assert still
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    frozen = {
        key for key in before if key.startswith(("features.conv1", "features.layer1", "features.layer2", "features.bn1"))
    }
    assert changed
    assert not changed & frozen
    assert all(parameter.grad is None for module in net.still() for parameter in module.parameters())


def test_a_pyramid_joins_stages_on_the_finest_grid_and_folds():
    net = backbone(stages=(2, 3, 4), pyramid=24).eval()
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        joined = net(images)
        assert joined.shape == (1, 24, 8, 8)
        assert (net.channels, net.stride) == (24, 8)
        torch.testing.assert_close(folded(net)(images), joined, atol=1e-5, rtol=1e-4)
        moved = net(images.roll(32, -1))
    assert not torch.allclose(moved, joined)


def test_networks_without_an_order_of_modules_are_refused():
    with pytest.raises(BadSettings, match="frozen stages need a network such as resnet"):
        backbone("mobilenetv3_small_050", frozen=2)
    with pytest.raises(BadSettings, match="no frozen stages"):
        backbone().kept(torch.rand(1, 1, 64, 64))
