"""Augmentation: the pixels and the frame must tell the same story."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from chestmap.packs.augment import AugmentSettings, Change, about_center, augmented, draw, uniform, warped
from chestmap.types import Box, Frame

CANVAS = (96, 80)
HAM = AugmentSettings(scale=(1.0, 1.12), inside=True)
AG_CNN = AugmentSettings(crop=(0.08, 1.0))
EVERYTHING = AugmentSettings(translate=0.1, scale=(0.8, 1.25), rotate_degrees=30)
NAMED = {"ham": HAM, "ag-cnn": AG_CNN, "everything": EVERYTHING, "flips": AugmentSettings()}


def blob(x: float, y: float, sigma: float = 2.0) -> torch.Tensor:
    """A round spot centered on a point of the canvas; pixel i covers [i, i + 1)."""
    across = torch.exp(-((torch.arange(CANVAS[0]) + 0.5 - x) ** 2) / (2 * sigma**2))
    down = torch.exp(-((torch.arange(CANVAS[1]) + 0.5 - y) ** 2) / (2 * sigma**2))
    return torch.outer(down, across)[None, None]


def centroid(image: torch.Tensor) -> tuple[float, float]:
    weights = image[0, 0].double() / image.sum()
    across, down = torch.arange(CANVAS[0]) + 0.5, torch.arange(CANVAS[1]) + 0.5
    return float((weights.sum(0) * across).sum()), float((weights.sum(1) * down).sum())


@given(st.sampled_from(list(NAMED)), st.integers(0, 2**63), st.integers(0, 99), st.floats(30, 66), st.floats(30, 50))
def test_a_spot_is_where_the_frame_says(name, seed, epoch, x, y):
    settings = NAMED[name]
    change = draw(settings, CANVAS, seed, (epoch, 0), "an image")
    frame = Frame.fit((960.0, 800.0), CANVAS).then(change.matrix)
    (box,) = frame.to_canvas([Box("Mass", 10 * x - 1, 10 * y - 1, 10 * x + 1, 10 * y + 1)])
    expected = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    margin = 8 * math.sqrt(max(abs(change.matrix[0]), abs(change.matrix[4]), 1))
    assume(margin < expected[0] < CANVAS[0] - margin)
    assume(margin < expected[1] < CANVAS[1] - margin)
    found = centroid(augmented(blob(x, y), [change], settings))
    assert found == pytest.approx(expected, abs=0.02)


def test_each_direction_by_hand():
    image = torch.rand(1, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    square = (80, 80)
    moved = {
        "flip": ((-1.0, 0.0, 80.0, 0.0, 1.0, 0.0), image.flip(-1)),
        # x runs right and y down: (x, y) → (−y, x) carries the top to the right, clockwise on the screen
        "clockwise": (about_center((0, -1, 1, 0), square), torch.rot90(image, -1, (-2, -1))),
        "right and up": ((1, 0, 5, 0, 1, -7), torch.nn.functional.pad(image[..., 7:, :75], (5, 0, 0, 7))),
        "half": (about_center((0.5, 0, 0, 0.5), square), None),
    }
    for name, (matrix, expected) in moved.items():
        result = warped(image, [matrix])
        if expected is not None:
            assert torch.allclose(result, expected, atol=1e-4), name
    halved = warped(image, [moved["half"][0]])
    assert not halved[..., :20, :].any()
    assert torch.allclose(halved[..., 20:60, 20:60], torch.nn.functional.avg_pool2d(image, 2), atol=1e-4)


def test_the_angle_turns_clockwise_and_the_frame_with_it():
    image = blob(70, 40)
    angle = math.radians(20)
    matrix = about_center((math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)), CANVAS)
    x, y = centroid(warped(image, [matrix]))
    assert (x, y) == pytest.approx((48 + 22 * math.cos(angle), 40 + 22 * math.sin(angle)), abs=0.02)


@given(st.integers(0, 500), st.integers(0, 50))
def test_random_crops_stay_inside(image, epoch):
    ham = Frame.fit(CANVAS, CANVAS).then(draw(HAM, CANVAS, 1, (epoch, 0), str(image)).matrix)
    (whole,) = ham.to_canvas([Box("Mass", 0, 0, *map(float, CANVAS))])
    assert whole.x0 <= 1e-6
    assert whole.y0 <= 1e-6
    assert whole.x1 >= CANVAS[0] - 1e-6
    assert whole.y1 >= CANVAS[1] - 1e-6
    assert 1 - 1e-9 <= (whole.x1 - whole.x0) / CANVAS[0] <= 1.12 + 1e-9

    cut = Frame.fit(CANVAS, CANVAS).then(draw(AG_CNN, CANVAS, 1, (epoch, 0), str(image)).matrix)
    (kept,) = cut.to_image([Box("Mass", 0, 0, *map(float, CANVAS))])
    assert kept.x0 >= -1e-6
    assert kept.y0 >= -1e-6
    assert kept.x1 <= CANVAS[0] + 1e-6
    assert kept.y1 <= CANVAS[1] + 1e-6
    assert kept.area <= CANVAS[0] * CANVAS[1] * (1 + 1e-6)
    free = kept.x1 - kept.x0 < CANVAS[0] - 1e-6 and kept.y1 - kept.y0 < CANVAS[1] - 1e-6
    if free:  # not cut to the canvas' side
        assert kept.area >= 0.08 * CANVAS[0] * CANVAS[1] * (1 - 1e-6)
        assert 0.75 - 1e-6 <= (kept.x1 - kept.x0) / (kept.y1 - kept.y0) <= 4 / 3 + 1e-6


def test_draws_are_spread_evenly_and_differ_between_images_epochs_and_seeds():
    draws = np.array([uniform(0, (0, 0), str(image), 10) for image in range(4000)])
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(draws.std(axis=0) - 12**-0.5).max() < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(10)).max() < 0.06
    assert (
        len({uniform(*key, 1)[0] for key in [(0, (0, 0), "a"), (1, (0, 0), "a"), (0, (1, 0), "a"), (0, (0, 1), "a")]}) == 4
    )
    flips = [draw(AugmentSettings(flip=0.25), CANVAS, 0, (0, 0), str(image)).matrix[0] < 0 for image in range(4000)]
    assert np.mean(flips) == pytest.approx(0.25, abs=0.02)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10 (Salmon et al. 2011), written from its definition."""
    mask = 2**64 - 1
    for _ in range(10):
        first, second = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [second >> 64 ^ counter[1] ^ key[0], second & mask, first >> 64 ^ counter[3] ^ key[1], first & mask]
        key = [key[0] + 0x9E3779B97F4A7C15 & mask, key[1] + 0xBB67AE8584CAA73B & mask]
    return counter


def test_the_same_numbers_on_every_machine():
    """A stored run goes on with the same augmentation only if these never change."""
    image = int.from_bytes(hashlib.blake2b(b"00000013_005", digest_size=8).digest(), "little")
    expected = [number / 2**64 for block in (1, 2) for number in philox([block, 3, 0, image], [7, 0])]
    assert uniform(7, (3, 0), "00000013_005", 8) == pytest.approx(expected, abs=1e-12)
    assert uniform(7 + 2**64, (3, 0), "00000013_005", 1) == uniform(7, (3, 0), "00000013_005", 1)
    assert uniform(2**63 + 1, (0, 0), "a", 1) != uniform(2**63, (0, 0), "a", 1)


def test_intensities_by_hand():
    settings = AugmentSettings(flip=0, brightness=0.2, contrast=0.3, gamma=0.5)
    image = np.random.default_rng(0).random((2, 1, 8, 9), dtype=np.float32)
    changes = [draw(settings, (9, 8), 0, (0, 0), name) for name in "ab"]
    result = augmented(torch.from_numpy(image), changes, settings).numpy()
    for row, change in enumerate(changes):
        assert 0.8 <= change.brightness <= 1.2
        assert 0.7 <= change.contrast <= 1.3
        assert 1 / 1.5 <= change.gamma <= 1.5
        for y in range(8):
            for x in range(9):
                value = (image[row, 0, y, x] * change.brightness - 0.5) * change.contrast + 0.5
                assert result[row, 0, y, x] == pytest.approx(min(max(value, 0), 1) ** change.gamma, abs=1e-5)


def test_flips_alone_move_pixels_without_touching_them():
    image = torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    turned = Change((-1.0, 0.0, 9.0, 0.0, 1.0, 0.0))
    still = Change((1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    result = augmented(image, [turned, still], AugmentSettings())
    assert torch.equal(result[0], image[0].flip(-1))
    assert torch.equal(result[1], image[1])


def test_an_image_does_not_depend_on_its_neighbours():
    images = torch.rand(5, 1, 80, 96, generator=torch.Generator().manual_seed(0))
    changes = [draw(EVERYTHING, CANVAS, 0, (0, 0), str(image)) for image in range(5)]
    together = augmented(images, changes, EVERYTHING)
    for row in range(5):
        assert torch.equal(together[row : row + 1], augmented(images[row : row + 1], changes[row : row + 1], EVERYTHING))


def test_ranges_are_ordered_and_positive():
    for wrong in ({"scale": (1.2, 1.0)}, {"crop": (0.0, 1.0)}, {"aspect": (1.0, math.inf)}):
        with pytest.raises(ValueError, match="expected two positive numbers, the smaller first"):
            AugmentSettings.model_validate(wrong)
