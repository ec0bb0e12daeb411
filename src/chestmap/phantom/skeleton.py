"""Ribs, spine, clavicles, scapulae and arms as attenuation beyond that of soft tissue.

A rib is a curve in space: around the chest from the spine to where the bone ends in front, descending as it goes.
Projected, it gives the level posterior and the steep anterior part that films show, and it follows turn, tilt and view by
itself. Tubes of bone get bright borders and a paler middle.
"""

from __future__ import annotations

import numpy as np

from chestmap.phantom.chest import Chest
from chestmap.phantom.raster import Field, Layer, Raster, ellipse, ribbon, smooth_step, spline, stream
from chestmap.phantom.thorax import arm

_DROP = (34, 56, 74, 90, 104, 116, 126, 134, 138, 132, 104, 64)
"""Millimeters that a rib descends from spine to breastbone, first to twelfth."""
_STRENGTH = np.array([0.6, 0.8, 1, 1, 1, 1, 1, 1, 0.85, 0.7, 0.5, 0.35])
_END = (148, 150, 152, 150, 147, 142, 136, 128, 120, 112, 88, 60)
"""Degrees around the chest where the bone ends: 0 at the spine, 180 in front."""


# Parts of a vertebra in units of its half-width and half-height.
_BLOCK = spline([(-1, -1), (0, -0.92), (1, -1), (0.9, 0), (1, 1), (0, 0.92), (-1, 1), (-0.9, 0)], 32, closed=True)
_PEDICLE = spline([(0.55, -0.7), (0.8, -0.2), (0.55, 0.25), (0.38, -0.2)], 14, closed=True)
_SPINOUS = spline([(0, 0.1), (0.17, 1.1), (0, 1.7), (-0.17, 1.1)], 14, closed=True)
_WING = ribbon(np.array([(0.7, -0.1), (1.25, -0.3), (1.75, -0.5)]), np.array([0.42, 0.34, 0.38]))


def ribs(chest: Chest, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twelve middle lines [12, 34, 2] on the film, their angles around the chest in degrees, and half-widths."""
    body = chest.body
    number = np.arange(1, 13)
    drop = np.array(_DROP) * (body.size * body.rib_drop * (1.12 - 0.24 * chest.exam.breath))
    start = body.vertebra(number - 0.1)
    reach = body.wall(start + 0.5 * drop, chest.bottom) + 2.5
    reach[10:] = np.minimum(reach[10:], body.half_width) * (0.98, 0.8)
    first = np.degrees(np.arcsin(np.minimum(0.5, 17.0 / reach)))
    degrees = first[:, None] + (np.array(_END) - first)[:, None] * np.linspace(0, 1, 34)
    angle = np.radians(degrees)
    x = reach[:, None] * np.sin(angle) ** 0.92
    rise = 6.0 * body.size * ((number > 1) & (number < 8))[:, None] * np.sin(np.minimum(angle, np.pi / 3) * 3)
    late = np.clip((degrees - 100) / 50, 0, 1)
    y = start[:, None] + drop[:, None] * (0.5 - 0.5 * np.cos(angle) + 0.1 * late) - rise
    neck = np.minimum((angle - angle[:, :1]) * 8 + 0.75, 1)
    width = body.rib_half_width * (1.0 + 0.25 * late - 0.1 * (number > 10)[:, None]) * neck
    flat = np.stack([side * x + body.spine(y) * np.clip(1 - x / 70, 0, 1), y], -1)
    return chest.exam.place(flat, -body.depth * 0.52 * np.cos(angle)), degrees, width


def make_ribs(raster: Raster, chest: Chest) -> Field:
    """Twelve pairs; the front parts are fainter and fade into cartilage towards the breastbone."""
    back, front = raster.layer(), raster.layer()
    r = stream(chest.body.seed, "ribs")
    for side in (-1, 1):
        lines, degrees, width = ribs(chest, side)
        lines = lines + r.normal(0, 0.8, (12, 1, 2))
        width = np.maximum(width - 0.5 / raster.scale, 0.6)  # what `fill` adds
        whole, core = ribbon(lines, width), ribbon(lines - [0.0, 0.18], np.maximum(width - 1.5, 0.4))
        strength = r.normal(1.0, 0.06, 12) * _STRENGTH
        for k in range(11, -1, -1):
            turn = int(np.searchsorted(degrees[k], 96))
            for layer, part, edge, inside in (
                (back, slice(0, turn), 255, 125),
                (front, slice(max(turn - 4, 0), 34), 200, 120),
            ):
                if part.stop - part.start < 5:
                    continue
                at = np.r_[np.arange(34)[part], 67 - np.arange(34)[part][::-1]]
                raster.fill(layer, whole[k, at], edge * strength[k])
                raster.fill(layer, core[k, at], inside * strength[k])
    x, _ = raster.grid
    across = np.abs(x) * np.float32(1 / chest.body.half_width)
    solid = chest.body.bone
    lateral = 1 + 0.12 * smooth_step(across, 0.72, 1.0)
    total = raster.blur(back, 0.38) * np.float32(0.235 * solid / 255)
    total += raster.blur(front, 0.6) * smooth_step(across, 0.30, 0.72) * np.float32(0.105 * solid / 255)
    return total * lateral


def make_spine(raster: Raster, chest: Chest) -> Field:
    """Bodies of C6 to L3 with their end plates, and behind them pedicles, transverse and spinous processes."""
    body, exam = chest.body, chest.exam
    number = np.arange(-7, 15)
    y = body.vertebra(number)
    tall = 0.43 * (body.vertebra(number + 1) - y)
    half = (14.0 + 0.75 * np.maximum(number, 0) + np.where(number > 0, 1.0, -1.0)) * body.size
    middle = np.stack([body.spine(y), y], -1)[:, None]
    unit = np.stack([half, tall], -1)[:, None]
    solid, arches = raster.layer(), raster.layer()
    _fill_all(raster, solid, exam.place(middle + _BLOCK * unit, -55.0), 250)
    _fill_all(raster, solid, exam.place(middle + 0.86 * _BLOCK * unit, -55.0), 190)
    _fill_all(raster, arches, exam.place(middle + _SPINOUS * unit * np.array([1.0, 1.0]), -98.0), 170)
    for side in (-1.0, 1.0):
        mirror = unit * np.array([side, 1.0])
        _fill_all(raster, arches, exam.place(middle + _PEDICLE * mirror, -72.0), 150)
        _fill_all(raster, arches, exam.place(middle + _WING * mirror, -80.0), 90)
    total = raster.blur(solid, 1.7) * np.float32(0.34 / 255) + raster.blur(arches, 0.9) * np.float32(0.22 / 255)
    return total * np.float32(body.bone)


def _fill_all(raster: Raster, layer: Layer, outlines: np.ndarray, value: float) -> None:
    """Many outlines of one brightness."""
    for outline in outlines:
        raster.fill(layer, outline, value)


def _strip(raster: Raster, layer: Layer, line: np.ndarray, width: np.ndarray, *, edge: float, inside: float) -> None:
    """A tube of bone: bright borders, the lower one thinner, and a paler middle."""
    width = np.maximum(width - 0.5 / raster.scale, 0.6)
    raster.fill(layer, ribbon(line, width), edge)
    raster.fill(layer, ribbon(line - [0.0, 0.18], np.maximum(width - 1.5, 0.4)), inside)


def make_shoulders(raster: Raster, chest: Chest) -> Field:
    """Clavicles, scapulae and upper arms."""
    layers = raster.layer(), raster.layer(), raster.layer()
    r = stream(chest.exam.seed, "shoulders")
    for side in (-1, 1):
        collar, blades, limbs = layers
        _clavicle(raster, chest, collar, side, float(r.normal(0 if chest.exam.view == "PA" else -4, 3)))
        _scapula(raster, chest, blades, side)
        _humerus(raster, chest, limbs, side)
    collar, blades, limbs = layers
    total = raster.blur(collar, 0.6) * np.float32(0.36 / 255)
    total += raster.blur(blades, 0.9) * np.float32(0.47 / 255)
    total += raster.blur(limbs, 0.8) * np.float32(0.55 / 255)
    return total * np.float32(chest.body.bone)


def _clavicle(raster: Raster, chest: Chest, layer: Layer, side: int, lift: float) -> None:
    """From the breastbone to the shoulder, S-shaped; `lift` moves the outer end."""
    s, k = chest.body.shoulders, chest.body.size
    corners = [
        (13, 30 * k),
        (42, 26 * k + 0.3 * lift),
        (0.45 * s, 17 * k + 0.6 * lift),
        (0.68 * s, 4 * k + lift),
        (0.86 * s, lift),
    ]
    line = spline(corners, 30)
    width = np.interp(np.linspace(0, 1, 30), [0, 0.03, 0.1, 0.3, 0.7, 0.93, 1], [4, 7.5, 7.0, 5.2, 5.2, 6.2, 3]) * k
    _strip(raster, layer, chest.exam.place(line * [side, 1], np.linspace(75, -5, 30)), width, edge=240, inside=150)


def _scapula(raster: Raster, chest: Chest, layer: Layer, side: int) -> None:
    """Turned off the lungs for PA, over their outer third in AP."""
    body, exam = chest.body, chest.exam
    s, k = body.shoulders, body.size
    inner = (1.0 - 0.22 * (1 - exam.arms)) * body.half_width * 0.92
    joint = 0.86 * s

    def fill(points: np.ndarray, depth: float, value: float) -> None:
        raster.fill(layer, exam.place(np.asarray(points, dtype=np.float64) * [side, 1], depth), value)

    fill(spline([
        (inner, 40 * k), (inner + 14, 20 * k), (0.6 * s, 14 * k), (joint - 12, 22 * k), (joint - 6, 36 * k),
        (joint - 10, 52 * k),
        (joint - 26, 78 * k), (inner + 34, 136 * k), (inner + 24, 152 * k), (inner + 12, 142 * k), (inner + 2, 92 * k),
    ], 60, closed=True), -75, 75)  # fmt: skip
    border = spline([(joint - 8, 48 * k), (joint - 26, 80 * k), (inner + 36, 134 * k), (inner + 28, 148 * k)], 24)
    fill(ribbon(border, np.linspace(3.4, 0.7, 24) * k), -75, 150)
    crest = spline([(inner + 6, 46 * k), (0.62 * s, 22 * k), (0.82 * s, 4 * k), (0.95 * s, -2 * k), (0.99 * s, 7 * k)], 24)
    fill(ribbon(crest, np.interp(np.linspace(0, 1, 24), [0, 0.5, 0.8, 0.95, 1], [1.0, 2.2, 5, 6, 3]) * k), -85, 140)
    beak = spline([(joint - 12, 28 * k), (joint - 22, 18 * k), (joint - 12, 12 * k)], 12)
    fill(ribbon(beak, np.linspace(5.0, 3.0, 12) * k), -30, 150)


def _humerus(raster: Raster, chest: Chest, layer: Layer, side: int) -> None:
    """Head and shaft with a marrow cavity that begins below the head."""
    k = chest.body.size
    middle = arm(chest, side)
    at = np.linspace(0, 1, len(middle))
    width = np.interp(at, [0, 0.08, 0.17, 0.33, 0.65, 1], [19, 17, 13, 11, 11.5, 13]) * k
    marrow = np.interp(at, [0, 0.1, 0.27, 0.65, 1], [1.0, 1.3, 4.0, 4.5, 4]) * k
    head = middle[0] + np.array([-side * 5.0, 3.0]) * k
    for shrink, value in ((np.zeros_like(marrow), 220), (marrow, 135)):
        ball = ellipse((head[0], head[1]), (23 * k - shrink[0], 23.5 * k - shrink[0]))
        for shape in (ball, ribbon(middle, np.maximum(width - shrink, 1))):
            raster.fill(layer, chest.exam.place(shape, -20.0), value)
