"""The search for partners against every pair in plain float64."""

import numpy as np
import pytest
import torch

from chestmap.nn.similar_images import nearest, thumbnails


def by_hand(thumbs, among, own):
    rows = []
    for place, one in enumerate(thumbs.astype(np.float64)):
        best, chosen = -2.0, 0
        for row, other in enumerate(among.astype(np.float64)):
            cosine = one @ other / max(np.linalg.norm(other), 1) / max(np.linalg.norm(one), 1)
            if row != own[place] and cosine > best + 1e-9:
                best, chosen = cosine, row
        rows.append(chosen)
    return rows


@pytest.mark.parametrize("block", [7, 16, 4096])
def test_finds_what_comparing_every_pair_finds(block):
    rng = np.random.default_rng(0)
    among = rng.integers(0, 256, (40, 256), dtype=np.uint8)
    thumbs = np.concatenate([among[::2], rng.integers(0, 256, (15, 256), dtype=np.uint8), np.zeros((1, 256), np.uint8)])
    own = np.concatenate([np.arange(0, 40, 2), np.full(16, -1)])
    found = nearest(torch.from_numpy(thumbs), torch.from_numpy(among), torch.from_numpy(own), block)
    assert found.tolist() == by_hand(thumbs, among, own)
    without = nearest(torch.from_numpy(thumbs), torch.from_numpy(among), block=block)
    assert without[:20].tolist() == list(range(0, 40, 2))  # each its own nearest


def test_the_first_of_equal_ones():
    among = torch.tensor([[0] * 256, [10] * 256, [20] * 256, [10] * 256], dtype=torch.uint8)
    assert nearest(torch.full((1, 256), 30, dtype=torch.uint8), among, block=2).tolist() == [1]


def test_sums_of_white_images_are_exact():
    """256 products of 255 x 255 are below 2**24, so a few grey values in one place of 256 are noticed."""
    among = torch.full((3, 256), 255, dtype=torch.uint8)
    among[0, 0], among[1, 5] = 0, 245
    assert nearest(torch.full((1, 256), 255, dtype=torch.uint8), among).tolist() == [2]


def test_thumbnails_are_means():
    image = np.random.default_rng(1).random((32, 48)).astype(np.float32)
    found = thumbnails(torch.from_numpy(image)[None, None])[0].reshape(16, 16)
    assert found[3, 5] == round(float(image[6:8, 15:18].mean()) * 255)
    assert found.dtype == torch.uint8
