"""What lies in and on the patient besides anatomy: leads, tubes, lines, ports, pacemakers, wires, clips.

None of it is a finding, and all of it goes with being ill: portable AP films carry more, a pneumothorax often has its
drain, a large heart its pacemaker. A classifier that learns these shortcuts scores well on labels and fails on boxes, as it
does on real films.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chestmap.phantom.raster import Layer, ellipse, spline, stream
from chestmap.phantom.scene import Scene

Random = np.random.Generator


def add_devices(scene: Scene, findings: frozenset[str]) -> None:
    """Draws into `scene.metal`; permanent things belong to the patient, the rest to the image.

    Chances are rough shares of what an archive of a referral hospital shows, not counts.
    """
    body, exam = scene.chest.body, scene.chest.exam
    ap = exam.view == "AP"
    ill = min(len(findings), 3)
    once, now = stream(body.seed, "devices"), stream(exam.seed, "devices")
    lasting: dict[Callable[[Scene, Layer, Random], None], float] = {
        _port: 0.05 + 0.03 * ill,
        _pacemaker: 0.012 + 0.06 * ("Cardiomegaly" in findings) + 0.03 * ("Edema" in findings),
        _sternal_wires: 0.02 + 0.05 * ("Cardiomegaly" in findings) + 0.03 * ("Effusion" in findings),
        _clips: 0.04 + 0.02 * ill,
    }
    passing: dict[Callable[[Scene, Layer, Random], None], float] = {
        _leads: 0.62 if ap else 0.03,
        _central_line: (0.16 + 0.08 * ill) if ap else 0.03 + 0.02 * ill,
        _breathing_tube: (0.03 + 0.06 * ill) * ap,
        _stomach_tube: (0.04 + 0.06 * ill) * ap,
        _drain: 0.012 * ill + (0.45 if ap else 0.25) * ("Pneumothorax" in findings) + 0.06 * ("Effusion" in findings),
        _snaps: 0.25 if ap else 0.05,
    }
    for chances, r in ((lasting, once), (passing, now)):
        for put, chance in chances.items():
            own = r.spawn(1)[0]
            if own.random() < chance:
                _add(scene, put, own)


def _add(scene: Scene, put: Callable[[Scene, Layer, Random], None], r: Random) -> None:
    """An 8-bit layer's full brightness means an attenuation of 1.2, about 2 mm of steel wire."""
    layer = scene.raster.layer()
    put(scene, layer, r)
    scene.metal += scene.raster.blur(layer, 0.35) * np.float32(1.2 / 255)


def _curve(scene: Scene, layer: Layer, points: object, width: float, value: float, z: float = 0.0) -> None:
    """A line of `width` millimeters through the points."""
    scene.raster.line(layer, scene.chest.exam.place(spline(points, 60), z), width, value)


def _disc(scene: Scene, layer: Layer, center: tuple[float, float], radius: float, value: float) -> None:
    """A round thing on the skin of the chest, 90 mm in front of the middle."""
    scene.raster.fill(layer, scene.chest.exam.place(ellipse(center, (radius, radius)), 90.0), value)


def _leads(scene: Scene, layer: Layer, r: Random) -> None:
    """Two to five electrodes, each a ring around a snap, their wires leaving the picture together."""
    body, bottom = scene.chest.body, scene.chest.bottom
    away = np.array([r.choice([-1, 1]) * (body.half_width + 90), r.uniform(bottom - 40, bottom + 130)])
    spots = [(-0.75, 0.1), (0.75, 0.1), (-0.7, 0.85), (0.75, 0.85), (0.2, 0.6)]
    for u, v in [spots[k] for k in r.permutation(5)[: r.integers(2, 6)]]:
        x, y = u * body.half_width + r.normal(0, 14), body.apex + v * (bottom - body.apex) + r.normal(0, 14)
        _disc(scene, layer, (x, y), 8, 26)
        _disc(scene, layer, (x, y), 4.6, 150)
        _disc(scene, layer, (x, y), 2.4, 70)
        middle = 0.5 * (np.array([x, y]) + away) + r.normal(0, 45, 2)
        _curve(
            scene,
            layer,
            [(x, y), (x + r.normal(0, 12), y + r.uniform(10, 30)), middle, away + r.normal(0, 14, 2)],
            1.1,
            90,
            90,
        )


def _central_line(scene: Scene, layer: Layer, r: Random) -> None:
    """Jugular, subclavian or from the arm, to the lower superior vena cava."""
    v, s = scene.chest.body.vertebra, scene.chest.body.shoulders
    tip = [(-20, v(4)), (-22, float(v(6.2)) + r.normal(0, 14))]
    way = int(r.integers(0, 3))
    side = -1 if r.random() < 0.7 else 1
    if way == 0:
        path = [(side * 48, v(-4)), (side * 30, v(0.5)), (side * 18 - 4, v(2)), *tip]
    elif way == 1:
        path = [(side * 0.45 * s, v(2.6)), (side * 0.3 * s, v(1.9)), (side * 26, v(2.0)), *tip]
    else:
        path = [(side * 1.25 * s, v(7)), (side * 0.92 * s, v(4.2)), (side * 0.5 * s, v(2.4)), (side * 26, v(2.1)), *tip]
    _curve(scene, layer, np.array(path, dtype=float) + r.normal(0, 2, (len(path), 2)), 2.0, 60, 10)


def _breathing_tube(scene: Scene, layer: Layer, r: Random) -> None:
    """Two walls and the marker line, the tip two to five centimeters above the carina."""
    v = scene.chest.body.vertebra
    end = float(v(5.2)) - r.uniform(20, 55)
    for side in (-1, 1):
        _curve(scene, layer, [(side * 4.5, v(-6)), (side * 4.5, v(-1)), (side * 4.5 - 2, end)], 1.0, 50)
    _curve(scene, layer, [(4.5, v(-6)), (4.0, v(-1)), (2.0, end)], 0.8, 140)


def _stomach_tube(scene: Scene, layer: Layer, r: Random) -> None:
    """Down behind the heart and to the left below the diaphragm."""
    v, chest = scene.chest.body.vertebra, scene.chest
    x = chest.body.half_width * r.uniform(0.3, 0.6)
    path = [(3, v(-6)), (2, v(1)), (-2, v(5)), (3, v(8)), (12, float(v(11))), (x, chest.bottom + r.uniform(8, 50))]
    _curve(scene, layer, path, 2.6, 55, -30)


def _drain(scene: Scene, layer: Layer, r: Random) -> None:
    """A chest tube from the side up along the wall; on the side of the air where there is some."""
    chest = scene.chest
    side = 1 if stream(chest.body.seed, "finding", "Pneumothorax", 0).random() < 0.49 else -1
    low, high = r.uniform(0.55, 0.9), r.uniform(0.1, 0.5)
    entry = chest.point(side, 1.0, low) + np.array([side * 75, r.uniform(5, 50)])
    path = [
        entry,
        chest.point(side, 1.0, low),
        chest.point(side, 0.82, 0.5 * (low + high)),
        chest.point(side, r.uniform(0.4, 0.7), high),
    ]
    _curve(scene, layer, path, 5.5, 28, -20)
    _curve(scene, layer, np.add(path, (1.6, 0)), 0.9, 120, -20)


def _port(scene: Scene, layer: Layer, r: Random) -> None:
    """A ring under the collar bone and its catheter; common here, as at the NIH."""
    v, body = scene.chest.body.vertebra, scene.chest.body
    side = -1 if r.random() < 0.75 else 1
    x, y = side * body.half_width * r.uniform(0.45, 0.65), float(v(4.4)) + r.normal(0, 9)
    for radius, value in ((12.5, 70), (9.5, 150), (6.0, 60)):
        _disc(scene, layer, (x, y), radius, value)
    path = [(x, y - 9), (x * 0.8, v(1.6)), (side * 30, v(0.7)), (side * 18 - 4, v(2.4)), (-20, v(4)), (-22, float(v(6.3)))]
    _curve(scene, layer, path, 2.2, 60, 10)


def _pacemaker(scene: Scene, layer: Layer, r: Random) -> None:
    """A can at the left shoulder with a lead to the right ventricle, in most also one to the atrium."""
    v, chest = scene.chest.body.vertebra, scene.chest
    x, y = chest.body.half_width * 0.62 + r.normal(0, 6), float(v(3.4)) + r.normal(0, 6)
    scene.raster.fill(layer, chest.exam.place(ellipse((x, y), (24, 19), r.uniform(-30, 30)), 90.0), 225)
    tip = (0.30 * chest.heart_width(), chest.bottom - chest.dome_height(1) + 2)
    _curve(
        scene,
        layer,
        [(x - 14, y - 12), (44, v(1.8)), (6, v(2.4)), (-20, v(4.5)), (-26, v(8)), (0, float(v(10))), tip],
        1.8,
        130,
        30,
    )
    if r.random() < 0.6:
        _curve(
            scene,
            layer,
            [(x - 12, y - 10), (42, v(1.9)), (4, v(2.6)), (-21, v(5)), (-30, v(8.4)), (-22, v(7.4))],
            1.8,
            130,
            30,
        )


def _sternal_wires(scene: Scene, layer: Layer, r: Random) -> None:
    """Four to seven twisted loops in the midline, after heart surgery."""
    v, size = scene.chest.body.vertebra, scene.chest.body.size
    for k in range(int(r.integers(4, 8))):
        y = float(v(3.6 + k * 1.05)) + r.normal(0, 1.5)
        loop = ellipse((r.normal(0, 1.0), y), (8 * size, 4 * size), r.normal(0, 12), 16)
        scene.raster.line(layer, scene.chest.exam.place(np.concatenate([loop, loop[:1]]), 85.0), 0.9, 230)
        _disc(scene, layer, (r.normal(1, 2), y + 4), 1.8, 230)


def _clips(scene: Scene, layer: Layer, r: Random) -> None:
    """A handful of surgical clips near one place."""
    side = int(r.choice([-1, 1]))
    center = scene.chest.point(side, r.uniform(0.15, 0.95), r.uniform(0.1, 0.7))
    for _ in range(int(r.integers(2, 9))):
        at, turn = center + r.normal(0, 13, 2), r.uniform(0, np.pi)
        way = np.array([np.cos(turn), np.sin(turn)]) * r.uniform(2, 4)
        scene.raster.line(layer, scene.chest.exam.place(np.array([at - way, at + way])), 1.0, 240)


def _snaps(scene: Scene, layer: Layer, r: Random) -> None:
    """Metal buttons of a gown."""
    for _ in range(int(r.integers(1, 5))):
        x = r.choice([-1, 1]) * scene.chest.body.shoulders * r.uniform(0.45, 1.0)
        y = r.uniform(-25, 60)
        _disc(scene, layer, (x, y), 4.0, 120)
        _disc(scene, layer, (x, y), 2.0, 60)
