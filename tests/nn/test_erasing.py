"""Mining steps and the aggregated map against plain loops; regions against an independent flood fill."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chestmap.nn import erasing
from chestmap.nn.erasing import aggregate, erase, mined, peak_region, without_peak


def flood(mask, seeds):
    """Cells reached from the seeds by steps to any of eight neighbors inside the mask."""
    height, width = mask.shape
    reached = np.zeros(mask.shape, dtype=bool)
    waiting = [(int(y), int(x)) for y, x in zip(*np.nonzero(seeds & mask), strict=True)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < height and 0 <= x < width and mask[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return reached


def region_by_hand(one, level=0.5):
    low, high = one.min(), one.max()
    if not np.isfinite(one).all() or high == low:
        return np.zeros(one.shape, dtype=bool)
    return flood((one - low) / (high - low) >= level, one == high)


def step_by_hand(x, w, mask):
    """eq. 7 with X ⊙ M made, channel by channel; then the region of the peak is set to 0."""
    maps, after = np.zeros(mask.shape), mask.copy()
    for i in range(mask.shape[0]):
        for c in range(mask.shape[1]):
            for y, z in np.ndindex(mask.shape[2:]):
                maps[i, c, y, z] = sum(x[i, d, y, z] * mask[i, c, y, z] * w[c, d] for d in range(x.shape[1]))
            after[i, c][region_by_hand(maps[i, c])] = 0
    return maps, after


def aggregate_by_hand(maps, masks):
    """eq. 8 as printed."""
    total = np.zeros(maps[0].shape)
    for t in range(1, len(maps) + 1):
        total += maps[t - 1]
        for earlier in range(1, t):
            total += maps[earlier - 1] * (1 - masks[earlier - 1])
    return total / len(maps)


grids = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
whole = grids.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(0, 6).map(float)))


@settings(max_examples=60)
@given(whole, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_region_of_the_peak_is_a_flood_fill(maps, level):
    """Small whole numbers, so that plateaus, ties and flat maps are frequent."""
    found = peak_region(torch.tensor(maps), level).numpy()
    for i, c in np.ndindex(maps.shape[:2]):
        np.testing.assert_array_equal(found[i, c], region_by_hand(maps[i, c], level))


@settings(max_examples=50)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(0, 143))
def test_both_ways_to_a_region_agree(mask, place):
    seeds = np.zeros(mask.shape, dtype=bool)
    seeds.flat[place % mask.size] = True
    wanted = flood(mask, seeds)
    tensors = torch.tensor(seeds & mask)[None, None], torch.tensor(mask)[None, None]
    assert np.array_equal(erasing._labeled(*tensors)[0, 0].numpy(), wanted)
    spread = erasing._spread(*tensors)[0, 0].numpy()
    assert not (spread & ~wanted).any()
    if wanted.sum() <= sum(mask.shape):  # a shorter way than its rounds
        assert np.array_equal(spread, wanted)


def test_a_winding_region_is_followed_to_its_end():
    mask = np.ones((41, 41))
    mask[1::4, :-1], mask[3::4, 1:] = 0, 0
    maps = mask.copy()
    maps[0, 0] = 2.0
    found = peak_region(torch.tensor(maps)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(found, mask == 1)


def test_maps_do_not_touch_each_other():
    """In the one picture that is labeled they stand one above the other."""
    maps = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    maps[..., 1, 1] = 0.2
    maps[0, 0, 3], maps[0, 1, 0] = 1.0, 1.0
    maps[1, :, 2, 2] = 1.0
    found = peak_region(maps)
    assert [int(one.sum()) for one in found.flatten(0, 1)] == [4, 4, 1, 1]


def test_a_map_that_says_nothing_loses_nothing():
    maps = torch.tensor([1.0, math.nan, math.inf])[:, None, None, None].repeat(1, 1, 3, 3)
    maps[1:, :, 1, 1] = 0.0
    mask = torch.ones(3, 1, 3, 3)
    assert torch.equal(without_peak(maps, mask), mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_mining_steps_are_eq_7(dtype):
    rng = np.random.default_rng(1)
    x, w = rng.uniform(0, 1, (2, 5, 4, 6)), rng.normal(size=(3, 5))
    mask = torch.ones(2, 3, 4, 6, dtype=dtype)
    wanted = np.ones((2, 3, 4, 6))
    maps, masks, by_hand = [], [], []
    for _ in range(3):
        seen, mask = erase(torch.tensor(x), torch.tensor(w), mask)
        shown, wanted = step_by_hand(x, w, wanted)
        np.testing.assert_allclose(seen.numpy(), shown, atol=1e-12)
        np.testing.assert_array_equal(mask.to(torch.float64).numpy(), wanted)
        assert mask.dtype == dtype
        maps, masks, by_hand = [*maps, seen], [*masks, mask], [*by_hand, (shown, wanted)]
    assert (masks[0].sum((2, 3)) < 24).all()
    final = aggregate_by_hand(*zip(*by_hand, strict=True))
    np.testing.assert_allclose(aggregate(maps, masks).numpy(), final, atol=1e-12)


def test_only_positive_evidence_is_mined_where_asked():
    rng = np.random.default_rng(2)
    x, w = torch.tensor(rng.uniform(0, 1, (1, 5, 4, 4))), torch.tensor(rng.normal(size=(2, 5)))
    seen, mask = erase(x, w, torch.ones(1, 2, 4, 4), relu=True)
    evidence = torch.einsum("bchw,fc->bfhw", x, w).relu()
    torch.testing.assert_close(seen, evidence)
    torch.testing.assert_close(mask.double(), 1 - peak_region(evidence).double())


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_aggregated_map_is_eq_8(steps):
    rng = np.random.default_rng(steps)
    maps, masks, mask = [], [], np.ones((2, 3, 4, 5))
    for _ in range(steps):
        maps.append(rng.normal(size=mask.shape) * mask)
        mask = mask * (rng.random(mask.shape) < 0.8)
        masks.append(mask)
    wanted = aggregate_by_hand(maps, masks)
    stacked = torch.tensor(np.stack(maps)), torch.tensor(np.stack(masks))
    np.testing.assert_allclose(aggregate(*stacked).numpy(), wanted, atol=1e-12)
    without_last = aggregate([*stacked[0]], [*stacked[1][:-1].bool()])
    np.testing.assert_allclose(without_last.numpy(), wanted, atol=1e-12)


def test_one_network_alone_gets_its_first_map_back():
    """Of eq. 8 as printed: what is erased is filled with what the same features gave before."""
    x, w = torch.rand(2, 5, 8, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    mask, maps, masks = torch.ones(2, 3, 8, 8), [], []
    for _ in range(4):
        seen, mask = erase(x, w, mask)
        maps, masks = [*maps, seen], [*masks, mask]
    torch.testing.assert_close(aggregate(maps, masks), maps[0])


def test_a_second_region_is_raised_without_learning():
    """By hand: peaks of 4 and 1; the second step's map is scaled by 1, and the mean of both steps is (1/4 + 1) / 2."""
    maps = torch.zeros(1, 1, 3, 7)
    maps[0, 0, 1] = torch.tensor([0, 4.0, 2, 0, 1, 0.25, 0])
    found = mined(maps, steps=2)
    torch.testing.assert_close(found[0, 0, 1], torch.tensor([0, 1, 0.5, 0, 0.625, 0.15625, 0]))
    torch.testing.assert_close(mined(maps, steps=1), maps / 4)
    assert mined(torch.zeros(1, 1, 3, 3)).sum() == 0


def test_gradients_pass_the_maps_and_not_the_choice():
    x = torch.rand(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    mask[:, :, 2] = 0
    assert torch.autograd.gradcheck(lambda a, b: erase(a, b, mask)[0], (x, w))
    seen, after = erase(x, w, mask)
    assert not after.requires_grad
    seen.sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, 2] == 0).all()


@pytest.mark.slow
def test_can_be_exported():
    class Mined(torch.nn.Module):
        def forward(self, maps):
            return mined(maps)

    maps = torch.rand(2, 3, 8, 8)
    program = torch.export.export(Mined(), (maps,))
    torch.testing.assert_close(program.module()(maps), mined(maps))
