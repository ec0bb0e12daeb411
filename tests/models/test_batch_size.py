"""How many images go through a network at once: what suits the canvas, as long as it fits into the memory that is free."""

import numpy as np
import pytest

from chestmap.models import batch_size
from chestmap.models.batch_size import chosen_batch_size

GIB = float(1 << 30)


class Calls:
    """A network that keeps the sizes of its batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))


@pytest.mark.parametrize(("side", "wanted"), [(1024, 1), (512, 4), (256, 16), (224, 16), (32, 256)])
def test_a_roomy_machine_is_not_probed(side, wanted, monkeypatch):
    monkeypatch.setattr(batch_size, "_free", lambda device: 8 * GIB)
    calls = Calls()
    assert chosen_batch_size(calls, (side, side)) == wanted
    assert calls.sizes == []


@pytest.mark.parametrize(("each", "wanted"), [(0.01, 16), (0.1, 8), (0.5, 1), (9, 1)])
def test_a_small_machine_is_probed_and_gets_what_fits(each, wanted, monkeypatch):
    monkeypatch.setattr(batch_size, "_free", lambda device: 2 * GIB)
    monkeypatch.setattr(batch_size, "_need", lambda forward, canvas: each * GIB)
    assert chosen_batch_size(np.asarray, (256, 256)) == wanted


def test_the_probe_is_one_and_two_images(monkeypatch):
    monkeypatch.setattr(batch_size, "_free", lambda device: 2 * GIB)
    calls = Calls()
    chosen_batch_size(calls, (64, 64))
    assert calls.sizes == [1, 2]
