"""The squeezed noisy OR against arithmetic of 170 digits, and what it says of the size of regions."""

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from chestmap.errors import BadSettings
from chestmap.nn.instances import InstanceSettings, limited_loss, log_any, mil_loss


def exactly(logits: np.ndarray, floor: float, times: int = 1) -> tuple[float, float, float]:
    """log(1 - prod q), log prod q, and the first one's slope in the first cell; each cell stands so many times."""
    with mp.workdps(170):
        share, total = 1 - mpf(floor), mpf(0)
        chances = [1 / (1 + mp.exp(-mpf(float(z)))) for z in logits]
        total = -times * sum(mp.log1p(-share * p) for p in chances)
        p = chances[0]
        pull = share * p * (1 - p) / (1 - share * p) / mp.expm1(total)
        return float(mp.log(-mp.expm1(-total))), float(-total), float(pull)


@pytest.mark.parametrize("cells", [256, 1024, 4096, 16384])
@pytest.mark.parametrize("height", [-200.0, -16.0, -8.0, 0.0, 8.0, 100.0])
def test_the_squeezed_or_is_exact(cells, height):
    """Wherever the cells stand, in single precision too; the gradient is finite and right."""
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    floor = 0.98
    for kind, rough in ((torch.float64, 1e-11), (torch.float32, 3e-5)):
        some = (height + noise).to(kind)
        logits = some.repeat(1, 1, cells // 256, 1).requires_grad_()
        present, absent = log_any(logits, floor)
        present.sum().backward()
        wanted, none, pull = exactly(some.double().numpy().ravel(), floor, cells // 256)
        assert present.item() == pytest.approx(wanted, rel=rough, abs=1e-60)
        assert absent.item() == pytest.approx(none, rel=rough, abs=1e-80)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[0, 0, 0, 0].item() == pytest.approx(pull, rel=max(rough, 1e-10), abs=1e-38)


@pytest.mark.parametrize("floor", [1e-6, 0.3, 0.5, 0.9, 0.999])
def test_other_floors_are_exact_too(floor):
    logits = torch.linspace(-40, 40, 9, dtype=torch.float64)
    for z in logits:
        present, absent = log_any(z.reshape(1, 1, 1, 1), floor)
        wanted, none, _ = exactly(z.reshape(1).numpy(), floor)
        assert present.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        assert absent.item() == pytest.approx(none, rel=1e-9)


def test_a_region_as_large_as_a_box_is_as_likely_as_not():
    """Of 256 cells 34.3 in sum; under the plain form eighteen cells at one half are certainty."""
    region = torch.full((1, 1, 16, 16), -60.0)
    region.view(-1)[:34] = 60.0
    chance = [log_any(region, floor)[0].exp().item() for floor in (0.98, 0.0)]
    assert chance == pytest.approx([0.497, 1.0], abs=1e-3)
    region.view(-1)[:], region.view(-1)[:18] = -60.0, 0.0
    assert log_any(region)[0].exp().item() > 0.999995
    assert log_any(region, 0.98)[0].exp().item() == pytest.approx(0.165, abs=1e-3)


def test_the_losses_take_the_floor():
    logits, labels = (
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.tensor([[1.0, 0, 1], [0, 1, 0]]),
    )
    present, absent = log_any(logits, 0.98)
    wanted = -(labels * present + (1 - labels) * absent)
    assert mil_loss(logits, labels, 0.98).item() == pytest.approx(wanted.mean().item())
    images, boxes = limited_loss(logits, torch.zeros_like(logits), labels, 0.98)
    assert images.item() == pytest.approx(wanted.sum().item() / 2)
    assert boxes.item() == 0


def test_the_start_fits_the_form():
    for form in ("squeezed", "plain"):
        settings = InstanceSettings(form=form, prior=0.1)
        cells = torch.full((1, 1, 16, 16), settings.start(256))
        assert log_any(cells, settings.floor)[0].exp().item() == pytest.approx(0.1, rel=1e-5)


def test_a_grid_too_coarse_for_any_finding_is_refused():
    with pytest.raises(BadSettings, match=r"method\.instances: 16 cells .* at most 0\.28; use a larger canvas"):
        InstanceSettings().start(16)
    assert InstanceSettings(form="plain").start(16) < 0
    assert InstanceSettings().start(64) < 0
