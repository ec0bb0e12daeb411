"""Measures how far readers agree: on presence (Cohen's kappa, Gwet's AC1), and on place (IoU of their boxes).

Cohen 1960, Educ Psychol Meas 20:37. Gwet 2008, Br J Math Stat Psychol 61:29; several readers after his eq. 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from chestmap.types import Box

Ratings = Sequence[Mapping[str, bool]]
"""For each image, who said of a finding whether it is there. A reader who did not judge it is left out."""


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float:
    """NaN for no pair, and where both always say the same word: chance alone explains that."""
    if not pairs:
        return math.nan
    count = len(pairs)
    observed = sum(one == other for one, other in pairs) / count
    first, second = (sum(column) / count for column in zip(*pairs, strict=True))
    by_chance = first * second + (1 - first) * (1 - second)
    return math.nan if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def gwet_ac1(ratings: Ratings) -> float:
    """For any number of readers, not all of whom need judge every image. NaN where no image has two readers."""
    several = [list(one.values()) for one in ratings if len(one) > 1]
    judged = [list(one.values()) for one in ratings if one]
    if not several:
        return math.nan
    observed = sum(_same(one) for one in several) / len(several)
    present = sum(sum(one) / len(one) for one in judged) / len(judged)
    by_chance = 2 * present * (1 - present)
    return (observed - by_chance) / (1 - by_chance)


def _same(said: Sequence[bool]) -> float:
    """The share of pairs of readers that say the same."""
    yes, count = sum(said), len(said)
    return (yes * (yes - 1) + (count - yes) * (count - yes - 1)) / (count * (count - 1))


def overlap(first: Sequence[Box], second: Sequence[Box]) -> float:
    """Intersection over union of the areas that two readers marked, each as one region."""
    xs = sorted({edge for box in (*first, *second) for edge in (box.x0, box.x1)})
    ys = sorted({edge for box in (*first, *second) for edge in (box.y0, box.y1)})
    both = either = 0.0
    for x0, x1 in pairwise(xs):
        for y0, y1 in pairwise(ys):
            inside = [any(b.x0 <= x0 and x1 <= b.x1 and b.y0 <= y0 and y1 <= b.y1 for b in one) for one in (first, second)]
            both += (x1 - x0) * (y1 - y0) * all(inside)
            either += (x1 - x0) * (y1 - y0) * any(inside)
    return both / either if either else math.nan
