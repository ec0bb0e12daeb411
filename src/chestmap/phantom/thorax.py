"""Soft tissue and air: the body's outline, breasts, lungs, heart, diaphragm, airways and gas below it, as thickness in
millimeters.

The lungs' air is the chest's depth within its outline, times what heart, great vessels, aorta and abdomen leave of it. A
round body's chord rises like a quarter circle from its border, which is why hearts and domes have sharp edges and soft
middles.
"""

from __future__ import annotations

import numpy as np

from chestmap.phantom.chest import Chest
from chestmap.phantom.raster import Field, Points, Raster, ellipse, ribbon, smooth_step, spline, stream

MIRROR = np.array([-1.0, 1.0])


def _trunk(chest: Chest) -> Points:
    """Neck, shoulders and sides down to the belly, each side a little different from image to image."""
    body = chest.body
    s, n, w, fat = body.shoulders, body.neck, body.half_width, body.fat
    tall = body.size
    half = [
        (n * 0.94, -130 * tall), (n, -58 * tall), (n * 1.28, -36 * tall), (n * 1.9, -20 * tall), (s * 0.78, -8 * tall),
        (s * 0.97, 6 * tall), (s * 1.1, 34 * tall), (s * 1.08, 70 * tall),
        (max(s * (0.96 - 0.1 * chest.exam.arms), w + fat + 38), 104 * tall),
        (w + fat + 37, 140 * tall), (w + fat + 28, 200 * tall), (w + fat + 18, chest.bottom + 10),
        (w + fat + 9, chest.bottom + 80),
        (w + fat + 10, chest.bottom + 190),
    ]  # fmt: skip
    r = stream(chest.exam.seed, "trunk")
    sides = []
    for _ in range(2):  # no one is quite straight, and skin folds differ
        swing = np.cumsum(r.normal(0, 2.2, len(half))) + r.normal(0, 2.0, len(half))
        sides.append(spline(np.array(half) + np.stack([swing * np.linspace(0.2, 1, len(half)), 0.5 * swing], 1), 90))
    return np.concatenate([sides[0], (sides[1] * MIRROR)[::-1]])


def arm(chest: Chest, side: int) -> Points:
    """The middle line of an upper arm, from the head of the humerus to the elbow."""
    body, raised = chest.body, chest.exam.arms
    head = np.array([body.shoulders * (0.9 + 0.04 * raised), (34 - 4 * raised) * body.size])
    lean = np.radians(4 + 24 * raised)
    elbow = head + 460 * body.size * np.array([np.sin(lean), np.cos(lean)])
    return np.linspace(head, elbow, 18) * np.array([side, 1.0])


def _breasts(raster: Raster, chest: Chest) -> Field:
    """Thickest below, where their lower border shows; they fade upwards and towards the breastbone."""
    body, exam = chest.body, chest.exam
    field = np.zeros((raster.side, raster.side), np.float32)
    amount = body.breast
    if amount <= 0:
        return field
    r = stream(body.seed, "breast")
    x, y = raster.grid
    hang = 24 * amount if exam.upright else 4 * amount
    a, b = (46 + 17 * amount) * body.size, (42 + 20 * amount) * body.size
    for side in (-1, 1):
        cx = side * (body.half_width * 0.66 + 9 * amount + (0 if exam.upright else 10)) + r.normal(0, 4)
        cy = float(body.vertebra(7.6)) + hang + r.normal(0, 5)
        corners = [
            (-1, -0.3),
            (-0.88, 0.3),
            (-0.45, 0.83),
            (0.1, 1),
            (0.62, 0.84),
            (1, 0.3),
            (1.02, -0.4),
            (0.5, -1.6),
            (-0.6, -1.5),
        ]
        outline = spline(np.array(corners) * [side * a, b] + [cx, cy], 48, closed=True)
        mask = raster.polygon(exam.place(outline, 95.0))
        full = smooth_step(y, cy - 1.7 * b, cy + 0.8 * b) * smooth_step((x - cx) * side, -1.1 * a, 0.2 * a)
        field += raster.blur(raster.bulge(mask, 0.7 * a) * full, 0.8) * np.float32((38 if exam.upright else 20) * amount)
    return field


def make_tissue(raster: Raster, chest: Chest) -> Field:
    """The body as if the lungs were solid: trunk, arms, chin and breasts.

    Thickest in the belly, thinner towards the sides and the neck, uneven by a few percent as muscle and fat are.
    """
    body, exam = chest.body, chest.exam
    x, y = raster.grid
    outline = raster.polygon(exam.place(_trunk(chest)))
    girth = body.depth + 52 + body.fat
    up = smooth_step(y, -30 * body.size, 100 * body.size)
    girth = girth + 48 * smooth_step(y, chest.bottom - 90, chest.bottom + 20)  # the belly
    thick = (168 * body.size + body.fat) * (1 - up) + girth * up
    thick = thick * (
        1 - 0.1 * smooth_step(np.abs(x), 0.75 * body.half_width, 1.25 * body.half_width) * (1 - smooth_step(y, 40, 115))
    )
    thick = thick * (1 - 0.25 * np.minimum(np.abs(x) / (body.half_width + body.fat + 40), 1) ** 3)
    tissue = raster.bulge(outline, 38 * body.size) * thick.astype(np.float32)
    for side in (-1, 1):
        middle = arm(chest, side)
        thick = (43 if body.sex == "M" else 38) * body.size + 0.5 * body.fat
        limb = raster.polygon(exam.place(ribbon(middle, thick)))
        raster.fill(limb, exam.place(ellipse((middle[0, 0], middle[0, 1] + 4), (thick, thick))))
        tissue = np.maximum(tissue, raster.bulge(limb, 40) * np.float32(84 * body.size + body.fat))
    if exam.view == "AP":
        tissue = np.maximum(tissue, _chin(raster, chest))
    tissue = raster.blur(tissue, 2.5) * raster.blur(tissue > 0, 0.6)
    muscle = raster.noise(stream(body.seed, "muscle"), 34.0) + 0.6 * raster.noise(stream(exam.seed, "muscle"), 15.0)
    return tissue * (1 + np.float32(0.016) * muscle) + _breasts(raster, chest)


def _chin(raster: Raster, chest: Chest) -> Field:
    """The jaw hangs into many portable films; it never covers the lungs."""
    body, exam = chest.body, chest.exam
    r = stream(exam.seed, "chin")
    x, y = r.normal(0, 14), -r.uniform(52, 150) * body.size
    corners = [(-52, -70), (-50, -20), (-34, 14), (0, 27), (34, 14), (50, -20), (52, -70), (0, -150)]
    jaw = spline(np.array(corners) * body.size + [x, y], 48, closed=True)
    return raster.bulge(raster.polygon(exam.place(jaw, 40.0)), 22) * np.float32(205 * body.size)


def make_air(raster: Raster, chest: Chest, below: Field) -> Field:
    """Lung in the beam once heart, vessels and diaphragm have taken their part."""
    body, exam = chest.body, chest.exam
    x, y = raster.grid
    cage = raster.polygon(exam.place(chest.lungs()))
    height = smooth_step(y, body.apex - 20, float(body.vertebra(6)))
    air = raster.bulge(cage, 40 * body.size) * (0.5 + 0.5 * height) * np.float32(chest.depth)
    air *= 1.05 - 0.1 * smooth_step(y, body.apex, chest.bottom)  # the lungs' lower parts hold more blood
    air *= 1 - 0.22 * np.minimum(np.abs(x) / body.half_width, 1.0) ** 2
    heart = np.float32(0.9) * raster.bulge(raster.polygon(chest.heart()), 48) * np.clip(1 - below / 65, 0, 1)
    air *= (1 - heart) * (1 - np.sqrt(np.clip(below * np.float32(1 / 27.0), 0, 1)))
    vessels = raster.polygon(chest.mediastinum())
    air *= 1 - np.float32(0.9) * raster.bulge(vessels, 23)
    aorta = spline(
        [(body.knob + 6, body.vertebra(4.2)), (27, body.vertebra(6)), (25, body.vertebra(8)), (17, body.vertebra(11))], 24
    )
    aorta = aorta + np.array([chest.change.shift, 0])
    air *= 1 - np.float32(0.35) * raster.bulge(raster.polygon(exam.place(ribbon(aorta, 12.0), -45.0)), 8)
    return air


def below_dome(raster: Raster, chest: Chest) -> Field:
    """Millimeters below the contour of the diaphragm."""
    x, y = raster.grid
    place = np.linspace(-250, 250, 251)
    line = np.where(place < 0, chest.dome(place, -1), chest.dome(place, 1))
    soft = np.convolve(np.pad(line, 4, mode="edge"), np.ones(9) / 9, "valid")
    return y - np.interp(x, place, soft).astype(np.float32)


def make_gas(raster: Raster, chest: Chest) -> Field:
    """Millimeters of air in trachea, main bronchi, stomach and bowel."""
    body, exam = chest.body, chest.exam
    v = body.vertebra
    r = stream(exam.seed, "gas")
    layer = raster.layer()
    carina = float(v(5.2))
    lean = r.normal(3, 3) + chest.change.shift
    trachea = spline([(0, v(-4)), (0, v(0)), (-lean, v(3)), (-lean * 1.1, carina)], 24)
    raster.fill(layer, exam.place(ribbon(trachea, 8.5 * body.size), 10.0), 170)
    for side, drop in ((-1, 34), (1, 26)):
        end = np.array([-lean + side * 36.0, carina + drop])
        branch = np.linspace(np.array([-lean * 1.1, carina - 6]), end, 6)
        raster.fill(layer, exam.place(ribbon(branch, np.linspace(7.0, 4.0, 6) * body.size), 0.0), 90)
    gas = raster.blur(layer, 1.2) * np.float32(0.1)
    return gas + _bowel(raster, chest, r)


def _bowel(raster: Raster, chest: Chest, r: np.random.Generator) -> Field:
    """Gas under the left dome, in upright patients often over a fluid level, and in a few coils lower down."""
    body, exam = chest.body, chest.exam
    gas = np.zeros((raster.side, raster.side), np.float32)
    _, y = raster.grid
    if r.random() < 0.75:
        cx, cy = 0.5 * body.half_width + r.normal(0, 10), float(chest.dome(np.array([0.5 * body.half_width]), 1)[0])
        a, b = r.uniform(14, 34), r.uniform(9, 20)
        bubble = raster.polygon(exam.place(ellipse((cx, cy + b + 9), (a, b), r.normal(0, 8))))
        amount = raster.bulge(bubble, 0.8 * b) * np.float32(r.uniform(12, 36))
        if exam.upright and r.random() < 0.6:
            level = cy + 9 + b * r.uniform(1.0, 1.7)
            amount *= 1 - smooth_step(y, level - 1, level + 1)
        gas += amount
    coils = raster.layer()
    for _ in range(r.poisson(2.0)):
        cx, cy = r.uniform(-0.75, 0.75) * body.half_width, chest.bottom + r.uniform(25, 110)
        filled = r.uniform(90, 255)
        for _ in range(int(r.integers(2, 6))):
            a, b = r.uniform(6, 15, 2)
            raster.fill(coils, exam.place(ellipse((cx, cy), (a, b), r.uniform(0, 90), 20)), filled)
            cx, cy = cx + r.normal(0, 14), cy + r.normal(0, 7)
    return raster.blur(gas + raster.bulge(coils, 12) * np.float32(26), 1.4)
