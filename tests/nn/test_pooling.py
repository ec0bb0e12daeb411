import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chestmap.nn import pooling


@pytest.fixture
def features():
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("r", [0.5, 6.0])
def test_log_sum_exp_is_its_formula(features, r):
    for b in range(2):
        for c in range(3):
            total = sum(math.exp(r * value) for value in features[b, c].flatten().tolist())
            assert pooling.log_sum_exp(features, r)[b, c].item() == pytest.approx(math.log(total / 20) / r, abs=1e-12)


@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.floats(0.01, 50))
def test_log_sum_exp_lies_between_mean_and_maximum(values, r):
    features = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)
    value = pooling.log_sum_exp(features, r).item()
    assert features.mean().item() - 1e-6 <= value <= features.max().item() + 1e-6


def test_log_sum_exp_tends_to_mean_and_maximum(features):
    torch.testing.assert_close(pooling.log_sum_exp(features, 1e-4), features.mean((2, 3)), atol=1e-2, rtol=0)
    torch.testing.assert_close(pooling.log_sum_exp(features, 1e3), features.amax((2, 3)), atol=1e-2, rtol=0)


def test_log_sum_exp_takes_half_precision_and_any_size():
    features = torch.full((1, 2, 8, 8), 300.0, dtype=torch.bfloat16)
    out = pooling.log_sum_exp(features, 6.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full((1, 2), 300.0))


def test_gradients(features):
    for name in pooling.POOLINGS:
        assert torch.autograd.gradcheck(lambda x, name=name: pooling.pooled(x, name), features.requires_grad_())


def test_pcam_pools_by_its_own_probabilities(features):
    """As published: probabilities, attention that sums to 1, pooled features, and the same linear layer over them."""
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(2, 3)), rng.normal(size=2)
    x, wanted = features.numpy(), np.zeros((2, 2))
    for b in range(2):
        for k in range(2):
            probability = np.zeros((4, 5))
            for i in range(4):
                for j in range(5):
                    probability[i, j] = 1 / (1 + math.exp(-(weight[k] @ x[b, :, i, j] + bias[k])))
            vector = (probability / probability.sum() * x[b]).sum((1, 2))
            wanted[b, k] = weight[k] @ vector + bias[k]
    linear = torch.nn.Linear(3, 2, dtype=torch.float64)
    linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
    np.testing.assert_allclose(pooling.pooled_logits(features, linear, "pcam").detach(), wanted, atol=1e-12)
    w, b = torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True)
    assert torch.autograd.gradcheck(pooling.pcam, (features.requires_grad_(), w, b))


def test_pcam_survives_scores_far_below_zero():
    features = torch.full((1, 1, 2, 2), -500.0)
    assert pooling.pcam(features, torch.ones(1, 1)).item() == pytest.approx(-500)


@pytest.mark.parametrize("name", ["mean", "max", "lse"])
def test_pooled_logits_are_linear_in_pooled_features(features, name):
    linear = torch.nn.Linear(3, 4, dtype=torch.float64)
    by_hand = {"mean": features.mean((2, 3)), "max": features.flatten(2).max(-1)[0], "lse": pooling.log_sum_exp(features)}
    torch.testing.assert_close(pooling.pooled_logits(features, linear, name), linear(by_hand[name]))
