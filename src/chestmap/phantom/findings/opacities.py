"""Findings that fill the lung in places, and emphysema, which empties it.

The share of air that is lost sets the contrast: about 0.25 for an infiltration, 0.45 for pneumonia, 0.6 for a consolidation.
"""

from __future__ import annotations

import numpy as np

from chestmap.phantom.findings.lesions import Mask, place_in_lung
from chestmap.phantom.raster import Field, smooth_step, spline
from chestmap.phantom.scene import Lesion, Scene


def _patch(scene: Scene, r: np.random.Generator, center: np.ndarray, radii: tuple[float, float], rough: float) -> Field:
    """1 in the middle of an ill-defined patch, 0 outside; `rough` is how far its border wanders."""
    x, y = scene.raster.grid
    a, b = radii
    tilt = r.uniform(-0.5, 0.5)
    u, v = (x - float(center[0])) * np.float32(1 / a), (y - float(center[1])) * np.float32(1 / b)
    square = (u + tilt * v) ** 2 + (v - 0.3 * tilt * u) ** 2
    size = min(a, b)
    wander = scene.raster.noise(r, 0.8 * size) + 0.6 * scene.raster.noise(r, 0.35 * size)
    return smooth_step(1.0 - square + rough * wander, 0.0, 1.1)


def _mark(scene: Scene, share: Field, least: float = 0.12) -> Mask:
    """Fill the lung and return where it can be seen: a quarter of the strongest share, and lung under it."""
    before = scene.air * (1 - scene.filled)
    scene.fill(share)
    return (share > max(least, 0.25 * float(share.max()))) & (before > 14)


def _sides(lesion: Lesion, both: float) -> tuple[int, ...]:
    """Both sides with chance `both`, else the patient's own."""
    return (-1, 1) if lesion.random.random() < both else (lesion.side,)


def _union(masks: list[Mask]) -> list[Mask]:
    """Both lungs' areas as one: readers of NIH drew a single box around them."""
    together = np.logical_or.reduce(masks)
    return [together] if together.any() else []


def infiltration(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Faint, patchy, streaky; a reader draws one box even where both lungs are hit."""
    r, raster = lesion.random, scene.raster
    masks = []
    for side in _sides(lesion, 0.2):
        center = place_in_lung(scene, r, side, (0.3, 0.75), (0.3, 0.85))
        size = np.exp(r.normal(np.log(46), 0.28)) * lesion.growth
        patch = _patch(scene, r, center, (size * r.uniform(0.8, 1.05), size * r.uniform(0.9, 1.3)), 0.45)
        streaks = 0.85 + 0.22 * raster.noise(r, 22) + 0.12 * raster.noise(r, 9) + 0.22 * (0.7 - np.abs(raster.noise(r, 8)))
        masks.append(_mark(scene, patch * np.clip(streaks, 0.1, 1.6) * np.float32(0.27 * lesion.strength)))
    return _union(masks)


def pneumonia(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Airspaces filled lobe by lobe or in patches, the bronchi still open in it."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    masks = []
    for side in _sides(lesion, 0.18):
        center = place_in_lung(scene, r, side, (0.28, 0.7), (0.35, 0.88))
        size = np.exp(r.normal(np.log(46), 0.26)) * lesion.growth
        patch = _patch(scene, r, center, (size * r.uniform(0.8, 1.05), size * r.uniform(0.9, 1.25)), 0.33)
        open_ways = raster.layer()
        root = np.array([side * 34.0, float(chest.body.vertebra(6.4))])
        ends = center + r.normal(0, 0.5, (9, 2)) * size
        middle = 0.5 * (root + ends) + r.normal(0, 6, (9, 2))
        paths = np.stack([np.broadcast_to(root, ends.shape), middle, ends], 1)
        raster.lines(open_ways, chest.exam.place(paths), r.uniform(1.8, 4.0, 9), np.full(9, 255.0))
        air = raster.blur(open_ways, 0.6) * np.float32(0.35 / 255)
        clumps = np.clip(0.92 + 0.2 * raster.noise(r, 20) + 0.09 * raster.noise(r, 8), 0.3, 1.4)
        masks.append(_mark(scene, patch * clumps * (1 - air) * np.float32(min(0.43 * lesion.strength, 0.9))))
    return _union(masks)


_LOBES = {
    # side, then corners as (across, down) of the lung
    "right upper": (-1, [(0.12, 0.02), (0.45, -0.02), (0.75, 0.12), (1.0, 0.36), (1.02, 0.47), (0.6, 0.44), (0.15, 0.45)]),
    "right middle": (-1, [(0.12, 0.47), (0.6, 0.45), (0.98, 0.50), (0.8, 0.78), (0.3, 0.9), (0.12, 0.88)]),
    "right lower": (-1, [(0.1, 0.6), (0.5, 0.52), (0.95, 0.66), (1.02, 1.05), (0.5, 1.1), (0.1, 1.0)]),
    "left upper": (1, [(0.12, 0.02), (0.45, -0.02), (0.75, 0.12), (1.0, 0.36), (1.0, 0.5), (0.55, 0.55), (0.15, 0.5)]),
    "left lower": (1, [(0.1, 0.58), (0.5, 0.52), (0.95, 0.66), (1.02, 1.05), (0.5, 1.1), (0.1, 1.0)]),
}


def consolidation(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Dense and even; a lobe with the fissure as a sharp border, or a round part of one."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    if r.random() < 0.55:
        side, corners = _LOBES[list(_LOBES)[int(r.choice(5, p=[0.22, 0.13, 0.27, 0.13, 0.25]))]]
        outline = np.array([chest.point(side, u, v) for u, v in corners])
        outline = outline.mean(0) + (outline - outline.mean(0)) * r.uniform(0.72, 1.0) * min(lesion.growth, 1.1)
        layer = raster.polygon(chest.exam.place(spline(outline + r.normal(0, 3, outline.shape), 60, closed=True)))
        shape = raster.blur(layer, 2.5) * np.float32(1 / 255)
        shape = shape * np.clip(0.95 + 0.18 * raster.noise(r, 24), 0.5, 1.2)
    else:
        center = place_in_lung(scene, r, lesion.side, (0.3, 0.7), (0.4, 0.88))
        size = np.exp(r.normal(np.log(36), 0.25)) * lesion.growth
        shape = _patch(scene, r, center, (size, size * r.uniform(0.8, 1.1)), 0.15)
    return [_mark(scene, shape * np.float32(min(0.57 * lesion.strength, 0.93)))]


def edema(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Haze around both hila, blurred vessels, short septal lines at the lower walls."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    x, y = raster.grid
    middle = float(chest.body.vertebra(6.8))
    reach = 0.62 * chest.body.half_width
    far = np.sqrt(((np.abs(x) - 0.36 * chest.body.half_width) / (0.6 * reach)) ** 2 + ((y - middle) / (1.15 * reach)) ** 2)
    wings = smooth_step(1.55 - far + 0.28 * raster.noise(r, 30), 0.0, 1.3)
    level = np.float32(0.21 * lesion.strength)
    fluffy = np.clip(0.9 + 0.16 * raster.noise(r, 20) + 0.16 * (0.8 - np.abs(raster.noise(r, 8))), 0.3, 1.4)
    scene.vessels = scene.vessels * (1 - 0.4 * wings) + raster.blur(scene.vessels, 3.0) * 0.6 * wings
    layer = raster.layer()
    for side in (-1, 1):
        n = int(r.integers(6, 18))
        start = np.array(
            [chest.point(side, u, v) for u, v in zip(r.uniform(0.93, 0.99, n), r.uniform(0.62, 0.96, n), strict=True)]
        )
        end = start - np.array([side, 0.0]) * r.uniform(8, 17, (n, 1)) + r.normal(0, 1, (n, 2))
        raster.lines(layer, chest.exam.place(np.stack([start, end], 1)), np.full(n, 0.9), np.full(n, 255.0))
    scene.extra += raster.blur(layer, 0.3) * scene.lung * np.float32(4.0 * lesion.strength / 255)
    return [_mark(scene, wings * fluffy * level)]


def fibrosis(scene: Scene, lesion: Lesion) -> list[Mask]:
    """A coarse net at the bases and along the wall, or in shrunken apices."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    x, y = raster.grid
    v = (y - chest.body.apex) * np.float32(1 / (chest.bottom - chest.body.apex))
    u = np.abs(x) * np.float32(1 / chest.body.half_width)
    apical = r.random() < 0.3
    if apical:
        where = 1 - smooth_step(v + 0.08 * raster.noise(r, 30), 0.16, 0.42)
    else:
        where = smooth_step(v + 0.35 * (u - 0.6) + 0.07 * raster.noise(r, 30), 0.52, 0.9)
    if r.random() < 0.35:
        where = where * (x * lesion.side > 0)
    net = np.clip(0.55 - np.abs(raster.noise(r, 6.5)), 0, 1) + 0.8 * np.clip(0.5 - np.abs(raster.noise(r, 4.0)), 0, 1)
    bands = np.clip(0.3 - np.abs(raster.noise(r, 16)), 0, 1)
    amount = where * scene.lung
    scene.extra += amount * (net * 13 + bands * 19) * np.float32(lesion.strength)
    return [_mark(scene, amount * np.float32(0.2 * lesion.strength) * np.clip(1 + 0.4 * raster.noise(r, 14), 0, 2), 0.04)]


def emphysema(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Large, dark lungs with few vessels and, in some, bullae. The flat diaphragm is drawn already."""
    r, raster = lesion.random, scene.raster
    scene.aeration = min(0.74 + 0.07 * lesion.strength, 0.84)
    poor = np.clip(0.35 + 0.25 * raster.noise(r, 50), 0, 0.85) * np.float32(min(lesion.strength, 1.2))
    scene.vessels = scene.vessels * (1 - poor)
    scene.grain = scene.grain * (1 - 0.8 * poor)
    for _ in range(int(r.poisson(0.8))):
        center = place_in_lung(scene, r, int(r.choice([-1, 1])), (0.35, 0.85), (0.05, 0.5))
        size = r.uniform(14, 34)
        hole = _patch(scene, r, center, (size, size), 0.08)
        rim = np.clip(1 - np.abs(hole - 0.35) * 5, 0, 1)
        scene.bare = np.maximum(scene.bare, hole * 0.8)
        scene.extra += rim * scene.lung * np.float32(1.8)
    return [scene.air > 25]
