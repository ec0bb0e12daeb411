"""HAM's equations against plain loops in float64, written from the paper; gradients against finite differences of those loops."""

import math

import numpy as np
import pytest
import torch

from chestmap.methods import ham
from chestmap.nn.cam import soft_mask

NAN = math.nan
LABELS = {
    "none present": [[0, 0, 0, 0], [0, 0, 0, 0]],
    "one present": [[0, 0, 1, 0], [0, 0, 0, 0]],
    "many present": [[1, 1, 0, 1], [1, 1, 1, 1]],
    "some unknown": [[1, NAN, 0, 1], [NAN, NAN, NAN, 0], [NAN, 0, 1, NAN]],
    "all unknown": [[NAN] * 4, [NAN] * 4],
}


def soft(m):
    """eq. 2: normalized to [0, 1], then a sigmoid with alpha = 100 and beta = 0.4."""
    low, high = min(m.flat), max(m.flat)
    out = np.zeros(m.shape)
    for i in range(m.shape[0]):
        for j in range(m.shape[1]):
            out[i, j] = 1 / (1 + math.exp(-100 * ((m[i, j] - low) / (high - low) - 0.4)))
    return out


def overlap(inner, outer):
    """sum min(inner, outer) T(inner) / sum inner."""
    masked, top, bottom = soft(inner), 0.0, 0.0
    for i in range(inner.shape[0]):
        for j in range(inner.shape[1]):
            top += min(inner[i, j], outer[i, j]) * masked[i, j]
            bottom += inner[i, j]
    return top / bottom


def mean(values):
    return sum(values) / len(values) if values else 0.0


def bound_by_hand(positive, abnormal, labels):
    """eq. 3 for each image, then the mean over images with N > 0."""
    images = []
    for p, a, y in zip(positive, abnormal, labels, strict=True):
        terms = [1 - overlap(a[k], p[0]) for k in range(len(y)) if y[k] == 1]
        images += [sum(terms) / len(terms)] if terms else []
    return mean(images)


def union_by_hand(positive, abnormal, labels):
    """eq. 4 and 5."""
    images = []
    for p, a, y in zip(positive, abnormal, labels, strict=True):
        if not any(one == 1 for one in y):
            continue
        union = np.zeros(p[0].shape)
        for k in range(len(y)):
            if y[k] == 1:
                union = np.maximum(union, a[k])
        images.append(1 - overlap(p[0], union))
    return mean(images)


def amse_by_hand(abnormal, masks, boxed, plain=False):
    """eq. 6; `plain` is the MSE of Table VII."""
    images = []
    for a, g, z in zip(abnormal, masks, boxed, strict=True):
        terms = []
        for k in range(len(z)):
            if z[k] == 1:
                t = soft(a[k])
                error = sum((t[i, j] - g[k, i, j]) ** 2 for i in range(t.shape[0]) for j in range(t.shape[1]))
                terms.append(error / (t.size if plain else t.sum() + g[k].sum()))
        images += [sum(terms) / len(terms)] if terms else []
    return mean(images)


def slopes(function, array, h=1e-5):
    """Five-point differences: exact to about 1e-10 although T is steep."""
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept, value = array[index], 0.0
        for step, factor in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            array[index] = kept + step * h
            value += factor * function()
        array[index] = kept
        out[index] = value / (12 * h)
    return out


def maps(rng, *shape):
    return rng.uniform(0.05, 2.0, shape)


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize(("loss", "by_hand"), [(ham.bound_loss, bound_by_hand), (ham.union_loss, union_by_hand)])
def test_bound_and_union_are_eq_3_to_5(case, loss, by_hand):
    rng, labels = np.random.default_rng(3), np.array(LABELS[case], dtype=float)
    positive, abnormal = maps(rng, len(labels), 1, 4, 3), maps(rng, len(labels), 4, 4, 3)
    p, a = tensors(positive, abnormal)
    value = loss(p, a, torch.tensor(labels))
    value.backward()
    assert value.item() == pytest.approx(by_hand(positive, abnormal, labels), abs=1e-9)
    for tensor, array in ((p, positive), (a, abnormal)):
        wanted = slopes(lambda: by_hand(positive, abnormal, labels), array)
        np.testing.assert_allclose(tensor.grad.numpy(), wanted, atol=1e-7)


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("plain", [False, True])
def test_amse_is_eq_6(case, plain):
    rng, boxed = np.random.default_rng(4), np.array(LABELS[case], dtype=float)
    abnormal = maps(rng, len(boxed), 4, 4, 3)
    masks = (rng.uniform(size=abnormal.shape) > 0.6).astype(float)
    (a,) = tensors(abnormal)
    value = (ham.mse_loss if plain else ham.amse_loss)(a, torch.tensor(masks), torch.tensor(boxed))
    value.backward()
    assert value.item() == pytest.approx(amse_by_hand(abnormal, masks, boxed, plain), abs=1e-9)
    wanted = slopes(lambda: amse_by_hand(abnormal, masks, boxed, plain), abnormal)
    np.testing.assert_allclose(a.grad.numpy(), wanted, atol=1e-7)


def test_one_case_worked_on_paper():
    """T is 0 or 1 but for 1e-11: inner [0, 1, 3, 4] masks its upper two, so (min(3, 2) + min(4, 5)) / 8 is left inside."""
    inner = torch.tensor([[[[0.0, 1.0], [3.0, 4.0]]]], dtype=torch.float64)
    outer = torch.tensor([[[[9.0, 9.0], [2.0, 5.0]]]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert ham.bound_loss(outer, inner, one).item() == pytest.approx(1 - 6 / 8, abs=1e-6)
    assert ham.union_loss(inner, outer, one).item() == pytest.approx(1 - 6 / 8, abs=1e-6)
    box = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]], dtype=torch.float64)
    assert ham.amse_loss(inner, box, one).item() == pytest.approx((1 + 1) / (2 + 2), abs=1e-6)  # T = [0, 0, 1, 1]
    assert ham.mse_loss(inner, box, one).item() == pytest.approx(2 / 4, abs=1e-6)


def test_larger_masks_meet_t_after_soft_masking():
    """As printed in section III.C: bilinear interpolation of T(M), not of M."""
    torch.manual_seed(0)
    raw, masks = torch.rand(1, 2, 4, 4, dtype=torch.float64), (torch.rand(1, 2, 8, 8) > 0.5).double()
    boxed = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    t = torch.nn.functional.interpolate(soft_mask(raw), (8, 8), mode="bilinear", align_corners=False)[0, 0]
    wanted = (t - masks[0, 0]).square().sum() / (t.sum() + masks[0, 0].sum())
    assert ham.amse_loss(raw, masks, boxed).item() == pytest.approx(wanted.item(), abs=1e-12)


def authors_by_hand(positive, abnormal, labels, masks):
    """The authors' code in words: T with beta 0.75 on raw maps; by finding over the batch; AMSE a ratio of sums over the batch."""

    def held(inner, outer):
        return (np.minimum(inner, outer) / (1 + np.exp(-100 * (inner - 0.75)))).sum() / inner.sum()

    bound, amse, union = [], [], []
    for k in range(labels.shape[1]):
        rows = [b for b in range(len(labels)) if labels[b, k] == 1]
        if rows:
            bound.append(mean([1 - held(abnormal[b, k], positive[b, 0]) for b in rows]))
            ts = [soft(abnormal[b, k]) for b in rows]
            error = sum(((t - masks[b, k]) ** 2).sum() for t, b in zip(ts, rows, strict=True))
            amse.append(error / sum(t.sum() + masks[b, k].sum() for t, b in zip(ts, rows, strict=True)))
    present = labels == 1
    for b in np.flatnonzero(present.any(1)):
        union += [1 - held(positive[b, 0], (abnormal[b] * present[b][:, None, None]).max(0))]
    return mean(bound), mean(union), mean(amse)


@pytest.mark.parametrize("case", LABELS)
def test_authors_reading(case):
    rng, labels = np.random.default_rng(5), np.array(LABELS[case], dtype=float)
    positive, abnormal = maps(rng, len(labels), 1, 4, 3), maps(rng, len(labels), 4, 4, 3)
    masks = (rng.uniform(size=abnormal.shape) > 0.6).astype(float)
    p, a = tensors(positive, abnormal)
    y = torch.tensor(labels)
    got = [
        ham.bound_loss(p, a, y, ham.AUTHORS),
        ham.union_loss(p, a, y, ham.AUTHORS),
        ham.amse_loss(a, torch.tensor(masks), y, ham.AUTHORS),
    ]
    wanted = authors_by_hand(positive, abnormal, labels, masks)
    assert [one.item() for one in got] == pytest.approx(wanted, abs=1e-9)
    sum(got).backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("case", LABELS)
def test_normalized_maps_in_eq_3_to_5(case):
    """The text's equations on maps that were normalized before; T does not change by that."""
    rng, labels = np.random.default_rng(6), np.array(LABELS[case], dtype=float)
    positive, abnormal = maps(rng, len(labels), 1, 4, 3), maps(rng, len(labels), 4, 4, 3)
    low, span = (f(abnormal, axis=(2, 3), keepdims=True) for f in (np.min, np.ptp))
    scaled = (abnormal - low) / np.where(span > 0, span, 1)
    low, span = (f(positive, axis=(2, 3), keepdims=True) for f in (np.min, np.ptp))
    whole = (positive - low) / np.where(span > 0, span, 1)
    p, a = tensors(positive, abnormal)
    y, reading = torch.tensor(labels), ham.Reading(inside="normalized")
    assert ham.bound_loss(p, a, y, reading).item() == pytest.approx(bound_by_hand(whole, scaled, labels), abs=1e-9)
    assert ham.union_loss(p, a, y, reading).item() == pytest.approx(union_by_hand(whole, scaled, labels), abs=1e-9)


def test_each_part_of_the_authors_reading_acts_alone_and_together_they_are_it():
    rng, labels = np.random.default_rng(7), torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 1, 1]]).double()
    p, a = tensors(maps(rng, 3, 1, 4, 3), maps(rng, 3, 3, 4, 3))
    masks = torch.tensor((rng.uniform(size=(3, 3, 8, 6)) > 0.6).astype(float))

    def found(reading):
        losses = ham.bound_loss(p, a, labels, reading), ham.union_loss(p, a, labels, reading)
        return [one.item() for one in (*losses, ham.amse_loss(a, masks, labels, reading))]

    text = found(ham.TEXT)
    for part, changed in (
        ({"inside": "authors"}, (True, True, False)),
        ({"mean": "findings"}, (True, False, True)),
        ({"order": "resize-first"}, (False, False, True)),
    ):
        assert tuple(one != other for one, other in zip(found(ham.Reading(**part)), text, strict=True)) == changed, part
    whole = ham.Reading(inside="authors", mean="findings", order="resize-first")
    assert found(ham.HamSettings(reading="authors").reading) == found(whole)
    assert ham.HamSettings(reading="paper").reading == ham.TEXT
    with pytest.raises(ValueError, match="reading"):
        ham.HamSettings(reading="mine")


@pytest.mark.parametrize("reading", [ham.TEXT, ham.AUTHORS, ham.Reading(inside="normalized")], ids=str)
def test_zero_maps_cost_one_and_pull_nowhere(reading):
    p, a = tensors(np.zeros((1, 1, 3, 3)), np.zeros((1, 2, 3, 3)))
    labels = torch.ones(1, 2, dtype=torch.float64)
    bound, union = ham.bound_loss(p, a, labels, reading), ham.union_loss(p, a, labels, reading)
    boxes = ham.amse_loss(a, torch.ones(1, 2, 3, 3, dtype=torch.float64), labels, reading)
    assert (bound.item(), union.item(), boxes.item()) == (1, 1, pytest.approx(1))
    (bound + union + boxes).backward()
    assert not p.grad.any()
    assert not a.grad.any()


def test_unknown_findings_cannot_spoil_anything():
    """Whatever stands in the map of an unknown finding, even NaN, changes no value and gets no gradient."""
    rng = np.random.default_rng(6)
    positive, abnormal = maps(rng, 2, 1, 3, 3), maps(rng, 2, 2, 3, 3)
    labels = torch.tensor([[1.0, NAN], [NAN, NAN]], dtype=torch.float64)
    results = []
    for fill in (0.3, 1e9, NAN):
        abnormal[0, 1], abnormal[1] = fill, fill
        p, a = tensors(positive, abnormal)
        value = (
            ham.bound_loss(p, a, labels) + ham.union_loss(p, a, labels) + ham.amse_loss(a, (a.detach() > 1).double(), labels)
        )
        value.backward()
        assert not a.grad[labels.isnan()].any()
        results.append((value.item(), a.grad[0, 0].tolist(), p.grad.tolist()))
    assert results[0] == results[1] == results[2]


def test_losses_are_fp32_under_autocast():
    rng = np.random.default_rng(7)
    p, a = torch.tensor(maps(rng, 2, 1, 8, 8)), torch.tensor(maps(rng, 2, 3, 8, 8))
    labels, masks = torch.ones(2, 3), (torch.rand(2, 3, 8, 8) > 0.5).float()
    exact = [ham.bound_loss(p, a, labels), ham.union_loss(p, a, labels), ham.amse_loss(a, masks, labels)]
    with torch.autocast("cpu", torch.bfloat16):
        p, a = p.float(), a.float()
        got = [ham.bound_loss(p, a, labels), ham.union_loss(p, a, labels), ham.amse_loss(a, masks, labels)]
    for one, other in zip(got, exact, strict=True):
        assert one.dtype == torch.float32
        assert one.item() == pytest.approx(other.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [([0, 1, 0], 1), ([0, 0, 0], 0), ([NAN, 0, 0], NAN), ([NAN, 1, 0], 1), ([NAN, NAN, NAN], NAN)],
)
def test_positive_label(labels, wanted):
    got = ham.positive_labels(torch.tensor([labels], dtype=torch.float32))
    assert got.shape == (1, 1)
    assert got.item() == pytest.approx(wanted, nan_ok=True)


def test_own_level_is_where_t_is_0_999():
    line = torch.tensor([[0.0, ham.OWN_LEVEL, 1.0]], dtype=torch.float64)
    assert soft_mask(line)[0, 1].item() == pytest.approx(0.999, abs=1e-12)
    assert pytest.approx(0.46906755, abs=1e-8) == ham.OWN_LEVEL
