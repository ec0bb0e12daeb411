"""Agreement of readers against values of the papers and plain counting."""

import math
from itertools import product

import numpy as np
import pytest

from chestmap.evaluation.verdict_agreement import cohen_kappa, gwet_ac1, overlap
from chestmap.types import Box


def pairs_of(both, first, second, neither):
    return [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither


def test_kappa_and_ac1_of_the_paradox_that_gwet_wrote_for():
    """Gwet 2008, table 1's kind: 118 of 125 agree, and kappa is near 0 since nearly all are positive."""
    pairs = pairs_of(118, 5, 2, 0)
    observed, first, second = 118 / 125, 123 / 125, 120 / 125
    by_chance = first * second + (1 - first) * (1 - second)
    assert cohen_kappa(pairs) == pytest.approx((observed - by_chance) / (1 - by_chance))
    assert cohen_kappa(pairs) < 0
    mean = (first + second) / 2
    chance = 2 * mean * (1 - mean)
    ac1 = gwet_ac1([{"a": one, "b": other} for one, other in pairs])
    assert ac1 == pytest.approx((observed - chance) / (1 - chance))
    assert ac1 == pytest.approx(0.9405, abs=5e-4)


def test_several_readers_who_did_not_all_judge_everything():
    """Plain loops over pairs of readers."""
    random = np.random.default_rng(1)
    ratings = [{reader: bool(random.integers(2)) for reader in "abcd" if random.random() < 0.7} for _ in range(60)]
    agreed = []
    for one in ratings:
        if len(one) > 1:
            same = [one[a] == one[b] for a, b in product(one, one) if a != b]
            agreed.append(sum(same) / len(same))
    shares = [sum(one.values()) / len(one) for one in ratings if one]
    present = sum(shares) / len(shares)
    chance = present * (1 - present) + (1 - present) * present
    assert gwet_ac1(ratings) == pytest.approx((np.mean(agreed) - chance) / (1 - chance))


def test_what_cannot_be_known_is_nan():
    assert math.isnan(cohen_kappa([]))
    assert math.isnan(cohen_kappa([(True, True)] * 5))
    assert math.isnan(gwet_ac1([{"a": True}, {}]))
    assert gwet_ac1([{"a": True, "b": True}] * 5) == 1
    assert cohen_kappa(pairs_of(5, 0, 0, 5)) == 1
    assert cohen_kappa(pairs_of(0, 5, 5, 0)) == -1
    assert math.isnan(overlap([], []))


def test_overlap_counts_the_pixels_of_whole_regions():
    random = np.random.default_rng(2)
    for _ in range(20):
        sides, masks = [], []
        for count in random.integers(1, 4, 2):
            boxes, mask = [], np.zeros((30, 30), bool)
            for _ in range(count):
                (x0, x1), (y0, y1) = (sorted(random.choice(31, 2, replace=False)) for _ in "xy")
                boxes.append(Box("Mass", float(x0), float(y0), float(x1), float(y1)))
                mask[y0:y1, x0:x1] = True
            sides.append(boxes)
            masks.append(mask)
        assert overlap(*sides) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
