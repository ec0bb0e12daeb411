"""Findings with a body of their own: nodule, mass, atelectasis, hernia, the enlarged heart.

Each function adds the finding to a scene, sized and placed as radiology describes it, and gives its region. Lengths are in
millimeters.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from chestmap.phantom.raster import ellipse, ribbon, smooth_step, spline
from chestmap.phantom.scene import Lesion, Scene

Mask = Bool[np.ndarray, "h w"]


def place_in_lung(scene: Scene, r: np.random.Generator, side: int, across: tuple[float, float], down: tuple[float, float],
                  room: float = 45.0) -> np.ndarray:  # fmt: skip
    """A point of the lung in millimeters: `across` from spine to wall, `down` from apex to angle, where there are `room`
    mm of air.
    """
    chest, raster = scene.chest, scene.raster
    spot, r = np.zeros(2), r.spawn(1)[0]  # what follows does not depend on how many tries this takes
    for _ in range(12):
        spot = chest.point(side, r.uniform(*across), r.uniform(*down))
        column, row = np.clip(raster.to_pixels(chest.exam.place(spot[None]))[0].astype(int), 0, raster.side - 1)
        if scene.air[row, column] > room:
            break
    return spot


def _outline(r: np.random.Generator, center: np.ndarray, radius: float, lobes: float) -> np.ndarray:
    """A circle with a radius that wanders by a few low harmonics: `lobes` is their size as a share of the radius."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    wave = np.zeros_like(angle)
    for k in (2, 3, 4, 5, 7):
        wave += r.normal(0, lobes / k) * np.cos(k * angle + r.uniform(0, 6.3))
    stretch = np.exp(r.normal(0, 0.07))
    around = np.stack([np.cos(angle) * stretch, np.sin(angle) / stretch], 1)
    return center + radius * (1 + wave)[:, None] * around


def _round(scene: Scene, lesion: Lesion, center: np.ndarray, diameter: float, lobes: float) -> Mask:
    """A ball of soft tissue: as thick as it is wide where the lung leaves room for it."""
    raster, r = scene.raster, lesion.random
    layer = raster.polygon(scene.chest.exam.place(_outline(r, center, diameter / 2, lobes)))
    ball = raster.blur(raster.bulge(layer, diameter / 2), 0.02 * diameter + 0.5)
    thick = np.minimum(ball * np.float32(diameter * lesion.strength), scene.air * np.float32(0.85))
    scene.extra += thick * (1 - scene.filled)
    return (ball > 0.2) & (scene.air > 4)


def nodule(scene: Scene, lesion: Lesion) -> list[Mask]:
    """6 to 30 mm and round; one image in eight shows more than one."""
    r = lesion.random
    count = 1 + int(r.random() < 0.13) * int(r.integers(1, 4))
    masks = []
    for k in range(count):
        side = lesion.side if k == 0 else int(r.choice([-1, 1]))
        center = place_in_lung(scene, r, side, (0.3, 0.92), (0.12, 0.86))
        diameter = np.clip(np.exp(r.normal(np.log(23 if k == 0 else 16), 0.27)) * lesion.growth, 8, 36)
        masks.append(_round(scene, lesion, center, float(diameter), 0.05))
    return masks


def mass(scene: Scene, lesion: Lesion) -> list[Mask]:
    """More than 3 cm, slightly lobulated, at times with spicules."""
    r = lesion.random
    center = place_in_lung(scene, r, lesion.side, (0.25, 0.85), (0.15, 0.8))
    diameter = float(np.clip(np.exp(r.normal(np.log(44), 0.45)) * lesion.growth, 34, 140))
    spiky = r.random() < 0.4
    mask = _round(scene, lesion, center, diameter, 0.09)
    if spiky:
        layer = scene.raster.layer()
        angle = r.uniform(0, 2 * np.pi, 22)
        way = np.stack([np.cos(angle), np.sin(angle)], 1)
        reach = diameter * r.uniform(0.6, 0.75, 22)
        paths = center + way[:, None] * np.stack([0.4 * diameter + 0 * reach, reach], 1)[:, :, None]
        scene.raster.lines(layer, scene.chest.exam.place(paths), r.uniform(0.8, 2, 22), np.full(22, 255.0))
        scene.extra += scene.raster.blur(layer, 0.6) * scene.lung * np.float32(3.5 * lesion.strength / 255)
    return [mask]


def atelectasis(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Plates at the bases, a basal wedge, or the left lower lobe behind the heart.

    Lost volume shows too: the diaphragm of that side is higher and the mediastinum nearer (`findings.change_of`).
    """
    r, chest = lesion.random, scene.chest
    kind = r.choice(3, p=[0.5, 0.35, 0.15])
    if kind == 0:
        return [_plates(scene, lesion)]
    side = 1 if kind == 2 else lesion.side
    if kind == 1:
        center = chest.point(side, r.uniform(0.3, 0.6), r.uniform(0.74, 0.86))
        size = np.array([r.uniform(24, 42), r.uniform(16, 28)]) * lesion.growth
    else:
        center = chest.point(side, r.uniform(0.26, 0.42), r.uniform(0.74, 0.82))
        size = np.array([r.uniform(20, 30), r.uniform(28, 40)]) * lesion.growth
    a, b = size
    wedge = spline([(-a * 0.9, -b), (a * 0.2, -b * 0.8), (a, b * 0.5), (a * 0.8, b), (-a, b)], 40, closed=True) * [side, 1]
    raster = scene.raster
    soft = raster.blur(raster.polygon(chest.exam.place(center + wedge)), 4.0) * np.float32(1 / 255)
    share = soft * (1 + 0.25 * raster.noise(r, 9)) * np.float32(min((0.9 if kind == 2 else 0.65) * lesion.strength, 0.97))
    before = scene.air * (1 - scene.filled)
    scene.fill(share)
    return [(soft > 0.3) & (before > 8)]


def _plates(scene: Scene, lesion: Lesion) -> Mask:
    """One to four bands of collapsed lung at a base, slightly bowed and tilted, in a little haze."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    center = place_in_lung(scene, r, lesion.side, (0.35, 0.75), (0.68, 0.92), 30)
    layer = raster.layer()
    length = float(np.clip(np.exp(r.normal(np.log(58), 0.3)) * lesion.growth, 25, 130))
    tilt = np.radians(r.normal(8, 14)) * lesion.side
    along, off = np.array([np.cos(tilt), np.sin(tilt)]), np.zeros(2)
    for _ in range(1 + int(r.poisson(1.1))):
        t = np.linspace(-0.5, 0.5, 12)[:, None]
        bow = r.normal(0, 0.05) * length * (1 - 4 * t**2) * np.array([-along[1], along[0]])
        width = r.uniform(1.6, 4.2) * np.sqrt(np.clip(1 - 4 * t[:, 0] ** 2, 0.02, 1))
        raster.fill(
            layer,
            chest.exam.place(ribbon(center + off + t * along * length * r.uniform(0.6, 1.0) + bow, width)),
            r.uniform(150, 255),
        )
        off = off + np.array([r.normal(0, 9), r.choice([-1, 1]) * r.uniform(8, 17)])
    plate = raster.blur(layer, 1.1) * np.float32(1 / 255)
    haze = raster.blur(layer, 8.0) * np.float32(1 / 255)
    before = scene.air * (1 - scene.filled)
    scene.fill((0.32 * plate + 0.35 * haze) * lesion.strength)
    near = raster.blur(layer, 3.0) > 38
    return near & (before > 8)


def hernia(scene: Scene, lesion: Lesion) -> list[Mask]:
    """Stomach behind the heart: a round shadow, in most with air over a fluid level, which is sharp when upright."""
    r, raster, chest = lesion.random, scene.raster, scene.chest
    a, b = r.uniform(28, 48) * lesion.growth, r.uniform(26, 42) * lesion.growth
    center = np.array([r.normal(12, 14), float(chest.dome(np.array([30.0]), 1)[0]) - 0.45 * b])
    layer = raster.polygon(chest.exam.place(ellipse((center[0], center[1]), (a, b), r.normal(0, 10)), -35.0))
    ball = raster.blur(raster.bulge(layer, 0.7 * min(a, b)), 0.7)
    scene.extra += ball * np.minimum(scene.air * 0.85 + 22, 60) * np.float32(min(lesion.strength, 1.3))
    if r.random() < 0.8:
        _, y = raster.grid
        level = center[1] + r.uniform(-0.3, 0.35) * b
        inner = raster.blur(raster.bulge(layer, 0.7 * min(a, b)) > 0.45, 0.8)
        edge = 0.8 if chest.exam.upright else 14.0
        scene.gas += inner * ball * (1 - smooth_step(y, level - edge, level + edge)) * np.float32(r.uniform(40, 75))
    return [ball > 0.15]


def cardiomegaly(scene: Scene, _: Lesion) -> list[Mask]:
    """The heart is already drawn large; this gives its place."""
    layer = scene.raster.polygon(scene.chest.heart())
    return [(layer > 127) & (scene.below < 8)]
