"""Findings of the pleural space: fluid, air, scar.

All three follow the inner wall of the chest, so their shapes come from `Chest.wall` and `Chest.lungs`, not from the picture.
"""

from __future__ import annotations

import numpy as np

from chestmap.phantom.findings.lesions import Mask
from chestmap.phantom.raster import smooth_step
from chestmap.phantom.scene import Lesion, Scene


def effusion(scene: Scene, lesion: Lesion) -> list[Mask]:
    """A meniscus that climbs the wall when upright, a veil when lying; one or both sides."""
    sides = (-1, 1) if lesion.random.random() < 0.28 else (lesion.side,)
    return [mask for side in sides for mask in _fluid(scene, lesion, side)]


def _fluid(scene: Scene, lesion: Lesion, side: int) -> list[Mask]:
    """One side. `height` is the fluid's level over the costophrenic angle in the middle of the lung.

    Its mask is where it took air that would have been seen, so fluid below the dome of the diaphragm is not marked.
    """
    r, chest = lesion.random, scene.chest
    x, y = scene.raster.grid
    height = float(np.clip(np.exp(r.normal(np.log(44), 0.55)) * lesion.growth, 14, 190))
    across = np.clip(x * np.float32(side / chest.body.half_width), 0, 1.1)
    flat = r.uniform(0.3, 0.55) + 0.4 * min(height / 160, 1)
    level = chest.bottom - 1.25 * height * (flat + (1 - flat) * across**2.6)
    wavy = scene.raster.noise(r, 40) * np.float32(1.5)
    deep = y - level + wavy
    soft = 7.0 if chest.exam.upright else 26.0
    share = smooth_step(deep, -soft, soft) * np.float32(0.97 if chest.exam.upright else 0.8)
    if not chest.exam.upright:  # a veil of layered fluid over most of the lung
        share = np.maximum(share, 0.30 * smooth_step(deep, -90, 10) * np.float32(min(1, height / 60)))
    here = x * side > 4
    before = scene.air * (1 - scene.filled)
    scene.fill(share * here * np.float32(min(1.0, 0.5 + 0.5 * lesion.strength)))
    mask = (share > 0.5) & here & (before > 18)
    return [mask] if mask.any() else []


def pneumothorax(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Air between the wall and a thin line, beyond which no vessel goes.

    Apical in most upright patients, along the whole side in a quarter, at the base in a third of those who lie.
    """
    r, raster, side = lesion.random, scene.raster, lesion.side
    line, gap, limits = _pleural_line(scene, lesion)
    x, y = raster.grid
    place = scene.chest.exam.place
    closed = np.concatenate([line, [[side * -6.0, line[-1, 1] + 60], [side * -6.0, line[0, 1]]]])
    inside = raster.blur(raster.polygon(place(closed)), 0.4) * np.float32(1 / 255)
    gone = (1 - inside) * (x * side > 0)
    gone *= smooth_step(y, limits[0] - 6, limits[0] + 2) * (1 - smooth_step(y, limits[1] - 2, limits[1] + 6))
    scene.bare = np.maximum(scene.bare, gone * np.minimum(scene.air * np.float32(1 / 12), 1))
    layer = raster.layer()
    raster.line(layer, place(line[(line[:, 1] > limits[0] - 4) & (line[:, 1] < limits[1] + 4)]), 1.3)
    scene.extra += raster.blur(layer, 0.3) * np.float32(lesion.strength * 7.0 / 255) * scene.lung
    scene.fill(inside * np.float32(min(0.35, 0.004 * gap) * r.uniform(0.5, 1.5)) * (x * side > 6))
    mask = (gone > 0.5) & (scene.air > 5)
    return [mask] if mask.any() else []


def _pleural_line(scene: Scene, lesion: Lesion) -> tuple[np.ndarray, float, tuple[float, float]]:
    """The edge of the collapsed lung from its tip down, its greatest distance from the wall, and the heights between
    which it shows.
    """
    r, chest, side = lesion.random, scene.chest, lesion.side
    body, tall = chest.body, chest.bottom - chest.body.apex
    kind = r.choice(3, p=[0.6, 0.28, 0.12] if chest.exam.upright else [0.4, 0.25, 0.35])
    wall = chest.lungs()
    wall = wall[len(wall) // 2 :] if side < 0 else wall[: len(wall) // 2][::-1]  # from the tip's inner foot to the angle
    v = (wall[:, 1] - body.apex) / tall
    gaps, ends = ((9, 27), (14, 48), (9, 22)), ((0.14, 0.32), (0.4, 0.8), (0.5, 0.75))
    size, stop = r.uniform(*gaps[kind]) * lesion.growth, r.uniform(*ends[kind])
    deep = (
        np.clip(1 - v / stop, 0, 1) ** (0.6, 0.4, 0)[kind] if kind < 2 else np.clip((v - stop) / (0.92 - stop), 0, 1) ** 0.6
    )
    deep *= 0.25 + 0.75 * smooth_step(np.abs(wall[:, 0]), 0.22 * body.half_width, 0.42 * body.half_width)
    deep = size * deep * (1 + 0.06 * np.sin(9 * v + r.uniform(0, 6)))
    root = chest.point(side, 0.25, 0.45)
    way = root - wall
    way /= np.hypot(way[:, 0], way[:, 1])[:, None]
    line = wall + way * np.maximum(deep, 0)[:, None]
    shown = wall[deep > 2.5, 1] if (deep > 2.5).any() else wall[:2, 1]
    return line, float(size), (float(shown.min()) - 8, float(shown.max()))


def pleural_thickening(scene: Scene, lesion: Lesion) -> list[Mask]:
    """A band along the wall or a cap on the apex."""
    r, chest, raster = lesion.random, scene.chest, scene.raster
    body, side = chest.body, lesion.side
    tall = chest.bottom - body.apex
    apical = r.random() < 0.45
    start, stop = (-0.05, r.uniform(0.10, 0.2)) if apical else sorted(r.uniform(0.25, 1.0, 2).tolist())
    stop = max(stop, start + 0.22)
    thick = r.uniform(6, 15) * lesion.growth * (1.3 if apical else 1.0)
    x, y = raster.grid
    v = (y - body.apex) * np.float32(1 / tall)
    span = smooth_step(v, start - 0.06, start + 0.06) * (1 - smooth_step(v, stop - 0.08, stop + 0.05))
    wall = np.interp(y, *_wall(chest)).astype(np.float32)
    depth = np.minimum(wall - x * side, (y - body.apex + 8) if apical else np.float32(1e3))
    lumps = thick * span * (1 + 0.35 * raster.noise(r, 22))
    share = smooth_step(lumps - depth, -2.0, 2.5) * span * (depth > -20) * (x * side > 8)
    before = scene.air * (1 - scene.filled)
    scene.fill(share * np.float32(min(0.85 * lesion.strength, 0.97)))
    mask = (share > 0.35) & (before > 4)
    return [mask] if mask.any() else []


def _wall(chest: object) -> tuple[np.ndarray, np.ndarray]:
    """Half-width of the inner chest as a table, for interpolation over a picture."""
    at = np.linspace(-200, 500, 141)
    return at, chest.body.wall(at, chest.bottom)  # type: ignore[attr-defined]
