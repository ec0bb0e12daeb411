import math

import pytest
import torch

from chestmap.methods import cam
from chestmap.nn.losses import balanced_bce
from chestmap.nn.pooling import pcam


def settings(**more):
    return cam.CamSettings.model_validate({"backbone": {"name": "test_resnet", "output_stride": 16}} | more)


@pytest.mark.parametrize("pooling", ["mean", "max", "lse"])
def test_maps_are_the_linear_layer_at_every_position(pooling):
    torch.manual_seed(0)
    net = cam.Cam(settings(pooling=pooling), 3).eval()
    images = torch.rand(2, 1, 64, 96)
    out, features = net(images), net.backbone(images)
    assert out.maps.shape == (2, 3, 4, 6)
    wanted = torch.einsum("bchw,kc->bkhw", features, net.head.weight).relu()
    torch.testing.assert_close(out.maps, wanted, atol=1e-4, rtol=1e-4)
    by_hand = {
        "mean": features.mean((2, 3)),
        "max": features.amax((2, 3)),
        "lse": (6 * features).exp().mean((2, 3)).log() / 6,
    }
    torch.testing.assert_close(out.logits, net.head(by_hand[pooling]), atol=1e-4, rtol=1e-4)


def test_pcam_maps_are_probabilities():
    torch.manual_seed(0)
    net = cam.Cam(settings(pooling="pcam"), 2).eval()
    images = torch.rand(1, 1, 64, 64)
    out, features = net(images), net.backbone(images)
    scores = torch.einsum("bchw,kc->bkhw", features, net.head.weight) + net.head.bias[:, None, None]
    torch.testing.assert_close(out.maps, scores.sigmoid(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.logits, pcam(features, net.head.weight, net.head.bias))
    attended = (out.maps * scores).sum((2, 3)) / out.maps.sum((2, 3))
    torch.testing.assert_close(out.logits, attended, atol=1e-4, rtol=1e-4)


def test_own_rules():
    assert cam.METHOD.own_rule(settings()).threshold == pytest.approx(0.4 + math.log(999) / 100)
    assert cam.METHOD.own_rule(settings(own_rule="wang")).threshold == pytest.approx(60 / 255)


def test_balanced_loss_is_wang_eq_1():
    """beta_P = (|P| + |N|) / |P| and beta_N = (|P| + |N|) / |N| on the sums of -log, over |P| + |N| terms."""
    logits = torch.tensor([[0.3, -2.0, 1.0], [2.0, 0.1, -0.4]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, math.nan], [0.0, 0.0, 0.0]], dtype=torch.float64)
    f = [[1 / (1 + math.exp(-value)) for value in row] for row in logits.tolist()]
    positive = -math.log(f[0][0])
    negative = -sum(math.log(1 - one) for one in (f[0][1], *f[1]))
    wanted = (5 / 1 * positive + 5 / 4 * negative) / 5
    assert balanced_bce(logits, labels).item() == pytest.approx(wanted, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: balanced_bce(x, labels), logits)


@pytest.mark.parametrize("labels", [[[0.0, 0.0]], [[1.0, 1.0]], [[math.nan, math.nan]]])
def test_balanced_loss_without_one_side(labels):
    logits = torch.tensor([[0.5, -0.5]], requires_grad=True)
    loss = balanced_bce(logits, torch.tensor(labels))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", ["plain", "balanced"])
def test_task_learns(loss, batch):
    torch.manual_seed(0)
    task = cam.Classify(cam.Cam(settings(), 3), loss).train()
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    values = []
    for _ in range(3):
        terms = task(batch)
        assert list(terms) == ["findings"]
        optimizer.zero_grad()
        terms["findings"].backward()
        optimizer.step()
        values.append(terms["findings"].item())
    assert values[-1] < values[0]
