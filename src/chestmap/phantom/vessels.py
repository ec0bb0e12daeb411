"""Lung vessels: trees that leave the hila and taper outwards, thicker below as in a standing patient.

Arteries and veins are grown once for a patient on an adult's lung 280 mm wide and 250 mm tall and stretched to the lungs of
each image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from chestmap.phantom.chest import Chest
from chestmap.phantom.raster import Field, Raster, ellipse, ribbon, spline, stream

_FULL = 16.0
"""Millimeters of blood at the brightest value of a layer."""

# Trunks of one side on an adult 280 mm wide and 250 mm from apex to angle: from the hilum at (38, 112).
# start x, start y, direction in degrees (0 outwards, 90 down), radius
_TRUNKS = np.array([
    (36, 98, -78, 3.6), (40, 98, -58, 3.4), (44, 103, -36, 3.2), (47, 110, -12, 3.0), (48, 118, 10, 3.2), (46, 126, 32, 3.6),
    (44, 132, 50, 4.2), (41, 138, 64, 4.6), (38, 144, 77, 4.4), (34, 148, 90, 3.6),
])  # fmt: skip


def _grow(r: np.random.Generator, start: np.ndarray, generations: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Branches as (x, y, direction, radius) rows; returns for each generation its paths [n, 6, 2] and radii at both
    ends.

    Every branch goes on, forks and puts out a twig; from the third generation on some do not. Radii shrink by a quarter to
    a third each time.
    """
    grown = []
    rows = start
    for generation in range(generations):
        n = len(rows)
        length = r.uniform(17, 32, n) * (0.87**generation)
        bend = r.normal(0, 13, (n, 5)).cumsum(1) * 0.55
        heading = np.radians(rows[:, 2:3] + bend)
        steps = np.stack([np.cos(heading), np.sin(heading)], 2) * (length / 5)[:, None, None]
        path = np.concatenate([rows[:, None, :2], rows[:, None, :2] + steps.cumsum(1)], 1)
        end = rows[:, 3] * r.uniform(0.66, 0.8, n)
        grown.append((path, rows[:, 3], end))
        last = np.degrees(heading[:, -1])
        fork = r.uniform(18, 42, n) * r.choice([-1, 1], n)
        on = np.column_stack([path[:, 5], last - 0.3 * fork, end])
        off = np.column_stack([path[:, 5], last + fork, end * r.uniform(0.6, 0.85, n)])
        twig = np.column_stack([path[:, 3], last - fork * r.uniform(0.9, 1.6, n), end * r.uniform(0.42, 0.6, n)])
        rows = np.concatenate([on, off, twig]) if generation < 2 else np.concatenate([on, off[::2], twig[r.random(n) < 0.6]])
        rows = rows[(rows[:, 3] > 0.3) & (rows[:, 0] > 12) & (rows[:, 0] < 150)]
    return grown


@lru_cache(maxsize=8)  # a patient's images follow each other
def _branches(seed: int, side: int, tree: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ten trunks and what grows from them; the left hilum is higher, veins enter lower and run more level."""
    r = stream(seed, "vessels", tree, side + 1)
    trunks = _TRUNKS.copy()
    trunks[:, 1] += 0 if side < 0 else -9
    trunks[:, 2] += r.normal(0, 7, len(trunks))
    trunks[:, 3] *= r.uniform(0.6, 1.0, len(trunks))
    if tree == "veins":  # they enter lower and run more level
        trunks[:, 1] += 20
        trunks[:, 2] = trunks[:, 2] * 0.75 + 4
        trunks[:, 3] *= 0.8
    if side > 0:
        trunks[-2:, 3] *= 0.75  # hidden by the heart
    return _grow(r, trunks, 6)


def make_vessels(raster: Raster, chest: Chest, air: Field) -> Field:
    """Millimeters of blood in the beam inside the lungs."""
    body, exam = chest.body, chest.exam
    to_mm = np.array([body.half_width / 140.0, (chest.bottom - body.apex) / 250.0])
    total = np.zeros((raster.side, raster.side), np.float32)
    low = 0.12 if exam.upright else 0.0
    for tree in ("arteries", "veins"):
        layer = raster.layer()
        pieces, widths = [], []
        for side in (-1, 1):
            for path, begin, end in _branches(body.seed, side, tree):
                where = path * to_mm * np.array([side, 1.0]) + np.array([chest.change.shift * 0.7, body.apex])
                swell = 2 * body.vessels * (1 + low * np.clip((path[:, 3, 1] - 120) / 60, -1, 1.3))
                pieces += [where[:, :4], where[:, 2:]]  # halves that overlap a little, the second narrower
                widths += [(0.75 * begin + 0.25 * end) * swell, (0.25 * begin + 0.75 * end) * swell]
        wide = np.concatenate(widths)
        raster.lines(
            layer, exam.place(np.concatenate(pieces)), wide, 255 * (wide / _FULL) ** 0.8
        )  # small ones are conspicuous, as they overlap less
        total += raster.blur(layer, 0.35)
    inside = np.minimum(air * np.float32(1 / 70), 1.0)
    return total * inside * np.float32(1.4 * _FULL / 255)


def make_hila(raster: Raster, chest: Chest) -> Field:
    """Millimeters of vessels and nodes at the roots of the lungs."""
    body, exam = chest.body, chest.exam
    r = stream(body.seed, "hila")
    moved = (chest.change.shift, 0.0)
    layer = raster.layer()
    for side in (-1, 1):
        x0, y0 = (35.0, float(body.vertebra(6.1))) if side < 0 else (36.0, float(body.vertebra(5.6)))
        t = r.uniform(-1, 1, 9)
        x = side * (x0 + 5 - 5 * t * t + r.normal(0, 3.5, 9)) * body.size + moved[0]
        y = y0 + t * 22 + r.normal(0, 3, 9)
        turn, across, along = side * np.radians(r.normal(-18, 22, 9)), r.uniform(4, 8, 9), r.uniform(6, 13, 9)
        circle = ellipse((0.0, 0.0), (1.0, 1.0), 0.0, 20)
        u, v = across[:, None] * circle[:, 0], along[:, None] * circle[:, 1]
        c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
        blobs = exam.place(np.stack([x[:, None] + c * u - s * v, y[:, None] + s * u + c * v], -1), 5.0)
        for blob, value in zip(blobs, r.uniform(70, 150, 9), strict=True):
            raster.fill(layer, blob, value)
        # The descending artery, along the heart on the right and behind it on the left.
        line = np.array([(x0 + 2, y0 + 4), (x0 + 9, y0 + 24), (x0 + 8, y0 + 46)]) * [side * body.size, 1]
        raster.fill(layer, exam.place(ribbon(spline(np.add(line, moved), 16), np.linspace(6.0, 3.0, 16)), 0.0), 100)
    return raster.blur(layer, 2.0) * np.float32(chest.change.hila * 42.0 / 255)
