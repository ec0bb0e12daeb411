"""The shape of lungs, diaphragm, heart and great vessels in one image: the patient's anatomy, the breath, and what
illness changed.

Nothing is drawn here. Curves are outlines in millimeters, already moved by the projection where their depth matters (the
heart lies 32 mm in front of the middle, so it grows in AP and shifts when the patient is turned).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chestmap.phantom.body import Body
from chestmap.phantom.exam import Exam
from chestmap.phantom.raster import Points, spline


@dataclass(frozen=True, kw_only=True)
class Change:
    """What findings do to the geometry; lengths in millimeters."""

    heart: float = 1.0  # factor of the heart's width
    raised: tuple[float, float] = (0.0, 0.0)  # diaphragm, right and left of the patient
    shift: float = 0.0  # mediastinum, to the image's right
    volume: float = 0.0  # 1 is severe emphysema
    hila: float = 1.0


@dataclass(frozen=True)
class Chest:
    """Sides are -1 (the patient's right, left in the image) and 1."""

    body: Body
    exam: Exam
    change: Change

    @property
    def bottom(self) -> float:
        """Height of the costophrenic angles."""
        return float(self.body.vertebra(10.1 + 1.9 * self.exam.breath + 0.7 * self.change.volume))

    @property
    def depth(self) -> float:
        """Front to back of the lungs where they are fullest."""
        return self.body.depth * (0.92 + 0.1 * self.exam.breath) * (1 + 0.2 * self.change.volume)

    def point(self, side: int, across: float, down: float) -> np.ndarray:
        """A place in the lung: `across` from the midline (0) to the wall (1), `down` from the apex (0) to the angle (1)."""
        y = self.body.apex + down * (self.bottom - self.body.apex)
        return np.array([side * across * float(self.body.wall(y, self.bottom)), y])

    def dome_height(self, side: int) -> float:
        """From the costophrenic angle up to the dome: less on a deep breath, almost nothing in emphysema."""
        raised = self.change.raised[0 if side < 0 else 1]
        step = 0.0 if side < 0 else self.body.dome_step
        relaxed = 1.25 - 0.25 * self.exam.breath
        return max(6.0, (self.body.dome - step) * relaxed * (1 - 0.75 * self.change.volume) + 4) + raised

    def dome(self, x: np.ndarray, side: int) -> np.ndarray:
        """Height of the diaphragm at sideways place x of that side.

        Steep at the wall, gentle towards the spine, where the heart rests on it.
        """
        wall = self.body.wall(self.bottom - 8, self.bottom)
        peak = 0.5 * wall
        out = np.clip((np.abs(x) - peak) / (wall - peak), 0, 1.2)
        inward = np.clip((peak - np.abs(x)) / peak, 0, 1.2)
        height = self.dome_height(side)
        return self.bottom - height * (1 - out**2.1) + height * 0.42 * inward**2

    def lungs(self) -> Points:
        """Outline of both lungs with the space between them, before heart and diaphragm take their part."""
        body = self.body
        y = np.concatenate([[self.bottom + 26], np.linspace(self.bottom + 8, body.apex + 2, 18)])
        x = body.wall(y, self.bottom)
        tip = body.half_width * 0.33
        top = [(tip + 9, body.apex - 2), (tip - 4, body.apex - 3), (tip - 16, body.apex + 3), (tip - 24, body.apex + 17)]
        half = [*zip(x, y, strict=True), *top]
        left = spline(half, 70)
        right = (left * np.array([-1.0, 1.0]))[::-1]
        return np.concatenate([left, right])

    def heart_width(self) -> float:
        """The cardiothoracic ratio times the inner chest; a shallow breath widens the heart by an eighth at most."""
        relaxed = 1.0 + 0.13 * (0.85 - self.exam.breath)
        inner = 2 * self.body.half_width
        return self.body.heart * inner * self.change.heart * relaxed * (1 - 0.16 * self.change.volume)

    def heart(self) -> Points:
        """Outline of the heart, from the pulmonary trunk and the right atrium down to the diaphragm."""
        width = self.heart_width()
        big = self.change.heart
        right = width * (0.335 + 0.02 * (big - 1))
        left = width - right
        base = min(self.dome(np.array([left * 0.8]), 1)[0] + 8, self.bottom - 2)
        top = float(self.body.vertebra(5.0)) - (big - 1) * 26
        tall = base - top
        lying = self.body.heart_axis

        def at(side: float, across: float, down: float) -> tuple[float, float]:
            return side * across, top + down * tall

        outline = [
            at(1, 22, -0.02), at(1, 29 + 0.06 * left, 0.14), at(1, 0.47 * left + 3, 0.30),
            at(1, (0.67 + 0.05 * lying) * left, 0.47), at(1, (0.87 + 0.05 * lying) * left, 0.64),
            at(1, left, 0.83 - 0.03 * lying), at(1, 0.97 * left, 0.98), at(1, 0.80 * left, 1.14),
            at(1, 0.45 * left, 1.3), at(1, 0, 1.4),
            at(-1, 0.70 * right, 1.14), at(-1, 0.95 * right, 0.93), at(-1, right, 0.72), at(-1, 0.91 * right, 0.52),
            at(-1, 0.71 * right, 0.36), at(-1, 24, 0.2), at(-1, 20, 0.02),
        ]  # fmt: skip
        return self.exam.place(spline(outline, 80, closed=True), 32.0) + np.array([self.change.shift, 0.0])

    def mediastinum(self) -> Points:
        """Great vessels above the heart, with the aortic arch standing out to the left."""
        body, v = self.body, self.body.vertebra
        knob = body.knob
        arch = float(v(4.1))
        old = max(0, body.age - 45) * 0.12
        left = [
            (17, v(-3.5)), (16, v(0.5)), (17, v(2.4)), (22 + 0.35 * knob, arch - knob * 0.95),
            (20 + knob, arch - knob * 0.2), (19 + knob * 0.9, arch + knob * 0.55), (23, arch + knob * 1.5),
            (26, v(5.6)), (29, v(6.6)), (22, v(8.5)), (14, v(12)),
        ]  # fmt: skip
        right = [
            (-12, v(12)), (-17, v(8.5)), (-25, v(6.4)), (-24 - old, v(5.4)), (-22 - 0.7 * old, v(4.0)),
            (-18, v(2.6)), (-17, v(0.8)),
            (-17, v(-3.5)),
        ]  # fmt: skip
        wide = 1.0 if self.exam.view == "PA" else 1.1
        outline = spline([*left, *right], 80, closed=True) * np.array([wide * body.size, 1.0])
        return self.exam.place(outline, 15.0) + np.array([self.change.shift, 0.0])
