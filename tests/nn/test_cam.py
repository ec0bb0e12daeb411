import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chestmap.nn.cam import class_maps, is_flat, normalized, soft_mask
from chestmap.nn.losses import known_bce

maps_of_any_kind = hnp.arrays(np.float64, (3, 4), elements=st.floats(-1e3, 1e3))


def test_class_maps_are_the_weights_at_every_position():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(6, 3))
    got = class_maps(torch.tensor(features), torch.tensor(weight)).numpy()
    signed = class_maps(torch.tensor(features), torch.tensor(weight), relu=False).numpy()
    for b, k, i, j in np.ndindex(2, 6, 4, 5):
        value = sum(weight[k, c] * features[b, c, i, j] for c in range(3))
        assert signed[b, k, i, j] == pytest.approx(value, abs=1e-12)
        assert got[b, k, i, j] == pytest.approx(max(value, 0), abs=1e-12)


def test_class_maps_stay_fp32_under_autocast():
    features, weight = torch.randn(1, 64, 5, 5), torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = class_maps(features, weight)
    torch.testing.assert_close(got, class_maps(features, weight))


def test_soft_mask_is_eq_2():
    rng = np.random.default_rng(1)
    raw = rng.uniform(0, 3, (2, 2, 4, 3))
    for alpha, beta in ((100.0, 0.4), (8.0, 0.5)):
        got = soft_mask(torch.tensor(raw), alpha, beta).numpy()
        for b, k, i, j in np.ndindex(raw.shape):
            one = raw[b, k]
            scaled = (one[i, j] - one.min()) / (one.max() - one.min())
            assert got[b, k, i, j] == pytest.approx(1 / (1 + math.exp(-alpha * (scaled - beta))), abs=1e-12)


def test_gradient_runs_through_minimum_and_maximum():
    raw = torch.rand(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(normalized, raw)
    assert torch.autograd.gradcheck(lambda x: soft_mask(x, 10.0, 0.4), raw)


@given(maps_of_any_kind, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_normalized_forgets_scale_and_offset(raw, scale, offset):
    one = torch.tensor(raw)
    got = normalized(one)
    assert (got >= 0).all()
    assert (got <= 1 + 1e-12).all()
    if raw.max() - raw.min() > 1:
        assert got.max() == 1
        torch.testing.assert_close(normalized(one * scale + offset), got, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, math.nan, math.inf, -1e-30])
def test_flat_maps_are_empty_with_no_gradient(value):
    raw = torch.full((1, 2, 3, 3), 0.5)
    raw[0, 0] = value
    raw[0, 1, 1, 1] = 1.0
    raw.requires_grad_()
    assert is_flat(raw).tolist() == [[True, False]]
    got = normalized(raw)
    assert not got[0, 0].any()
    assert got[0, 1].max() == 1
    (soft_mask(raw).sum() + got.square().sum()).backward()
    assert not raw.grad[0, 0].any()
    assert torch.isfinite(raw.grad).all()


def test_rounding_is_no_signal_but_a_small_map_is_one():
    rounding = torch.full((3, 3), 5.0)
    rounding[0, 0] = 5.0000005
    assert is_flat(rounding)
    small = torch.zeros(3, 3)
    small[1, 1] = 1e-6
    assert not is_flat(small)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_soft_mask_of_half_precision_is_computed_in_fp32(kind):
    raw = torch.rand(1, 1, 8, 8).to(kind)
    got = soft_mask(raw)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, soft_mask(raw.float()))


def test_known_bce_is_the_mean_over_known_labels():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, math.nan], [0.0, 1.0]], dtype=torch.float64)
    wanted = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(0.5)), math.log(1 + math.exp(-3))]
    loss = known_bce(logits, labels)
    assert loss.item() == pytest.approx(sum(wanted) / 3)
    loss.backward()
    assert logits.grad[0, 1] == 0
    logits.grad = None
    empty = known_bce(logits, torch.full_like(labels, math.nan))
    empty.backward()
    assert empty.item() == 0
    assert not logits.grad.any()
