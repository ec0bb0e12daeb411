"""CIA-Net's losses against plain loops, and the MIL loss against extended precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chestmap.methods import cia_net as cia
from chestmap.types import Box, Findings, Frame

NAN = math.nan


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def mil_by_hand(logits, labels):
    """eq. 5, as printed."""
    terms = []
    for cells, y in zip(logits.reshape(-1, *logits.shape[-2:]), np.array(labels).flat, strict=True):
        if math.isnan(y):
            continue
        none = 1.0
        for z in cells.flat:
            none *= 1 - sigmoid(z)
        terms.append(-y * math.log(1 - none) - (1 - y) * math.log(none))
    return sum(terms) / len(terms) if terms else 0.0


LABELS = {
    "some unknown": [[1, NAN, 0], [0, 1, 1]],
    "all unknown": [[NAN] * 3] * 2,
    "soft": [[0.3, 1, 0], [0, NAN, 0.9]],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_mil_loss_of_eq_5(labels):
    logits = np.random.default_rng(0).normal(-1, 1.5, size=(2, 3, 3, 2))
    tensor = torch.from_numpy(logits).requires_grad_()
    loss = cia.mil_loss(tensor, torch.tensor(labels, dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(mil_by_hand(logits, labels))
    for place in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        slope = (mil_by_hand(up, labels) - mil_by_hand(down, labels)) / 2e-6
        assert tensor.grad[place].item() == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("height", [-300.0, -100.0, -40.0, -20.0, -14.9, -9.0, -5.0, 0.0, 5.0, 100.0])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_mil_loss_is_stable_for_16384_cells(height, kind):
    """Against extended precision, where no step rounds to 0 or 1; the gradient is finite and pulls where it should."""
    noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) * 0.5
    logits = (height + noise).to(kind).requires_grad_()
    z = logits.detach().double().numpy().astype(np.longdouble).ravel()
    total = np.logaddexp(0, z).sum()
    rough = 1e-11 if kind is torch.float64 else 2e-5
    for label, exact in ((1.0, -np.log(-np.expm1(-total))), (0.0, total)):
        logits.grad = None
        loss = cia.mil_loss(logits, torch.full((1, 1), label))
        loss.backward()
        exact = float(exact)
        assert loss.item() == pytest.approx(exact, rel=rough, abs=1e-30 if abs(exact) < 1e-30 else rough * abs(exact))
        assert torch.isfinite(logits.grad).all()
        pull = logits.grad.double().sum().item()
        assert pull <= 0 if label else pull >= 0
        if label and height <= -20:  # far from any cell: the pull is shared out and sums to 1
            assert pull == pytest.approx(-1, rel=0.02)


def test_an_image_s_score_is_that_of_eq_5():
    logits = np.random.default_rng(1).normal(-2, 1, size=(2, 3, 2, 2))
    present, absent = cia.log_any(torch.from_numpy(logits))
    for place in np.ndindex(2, 3):
        none = math.prod(1 - sigmoid(z) for z in logits[place].flat)
        assert sigmoid((present - absent)[place].item()) == pytest.approx(1 - none)


corner = st.floats(-20, 120)


@given(st.tuples(corner, corner, st.floats(0.5, 80), st.floats(0.5, 80)))
def test_cells_that_overlap_a_box(place):
    x, y, width, height = place
    frame, findings = Frame.fit((100, 100), (64, 64)), Findings(("Mass", "Nodule"))
    box = Box("Nodule", x, y, x + width, y + height)
    found = cia.cell_targets([[box]], [frame], findings, (8, 4))[0]
    for row in range(4):
        for column in range(8):
            cell = Box("Nodule", column * 12.5, row * 25, column * 12.5 + 12.5, row * 25 + 25)
            shared = cell.intersection(box)
            if shared == 0 or shared > 1e-3:
                assert found[1, row, column].item() == (shared > 0)
    assert found[0].sum() == 0


def test_a_box_that_fills_cells_exactly_marks_only_them():
    frame = Frame.fit((1024, 1024), (512, 512))
    targets = cia.cell_targets([[Box("Mass", 64, 128, 192, 192)]], [frame], Findings(("Mass",)), (16, 16))
    assert targets[0, 0].nonzero().tolist() == [[2, 1], [2, 2]]


def test_box_loss_of_eq_4():
    rng = np.random.default_rng(2)
    logits, targets = rng.normal(size=(2, 2, 3, 3)), (rng.random((2, 2, 3, 3)) < 0.3).astype(np.float64)
    found = cia.box_loss(torch.from_numpy(logits), torch.from_numpy(targets))
    for i, k in np.ndindex(2, 2):
        loss = 0.0
        for z, y in zip(logits[i, k].flat, targets[i, k].flat, strict=True):
            loss += -y * math.log(sigmoid(z)) - (1 - y) * math.log(1 - sigmoid(z))
        assert found[i, k].item() == pytest.approx(loss)
