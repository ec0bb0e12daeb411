"""One patient's anatomy in numbers, and the curves that follow from it.

Sizes are those of textbooks of chest anatomy and of what films show; spreads were set by eye against real films. A number
that a follow-up image may change (breath, position, illness) is not here but in `exam` and `chest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from chestmap.phantom.raster import stream

Sex = Literal["F", "M"]

# Inner chest wall: share of the half-width against the share of the way from the apex to the costophrenic angle.
_WALL_AT = np.array([-0.02, 0.0, 0.03, 0.10, 0.20, 0.35, 0.50, 0.65, 0.80, 0.95, 1.10, 1.5])
_WALL = np.array([0.30, 0.38, 0.51, 0.655, 0.765, 0.86, 0.918, 0.957, 0.985, 1.0, 0.995, 0.97])

VERTEBRAE = 17
"""C6 to L3 as far as a film shows them; number 2 is the first thoracic one."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """Millimeters unless noted otherwise; a patient keeps it over all images."""

    seed: int
    sex: Sex
    age: int  # years
    size: float  # 1 is an adult of 175 cm
    length: float  # 1 ordinary, more is a long chest
    half_width: float  # of the inside of the chest at its widest
    depth: float  # of the lungs from front to back at their fullest
    fat: float  # under the skin at the side of the chest
    breast: float  # 0 none; 1 ordinary
    heart: float  # width of the heart as a share of the inner chest, on a deep breath, PA
    heart_axis: float  # 0 upright and narrow, 1 lying
    knob: float  # radius of the aortic arch as it bulges to the left
    bone: float  # 1 ordinary mineral
    rib_drop: float  # 1 ordinary slope
    rib_half_width: float
    scoliosis: float  # sideways swing of the spine
    dome: float  # height of the right dome over the angle
    dome_step: float  # how much lower the left dome is
    vessels: float  # 1 ordinary marking
    texture: float  # 1 ordinary lung grain
    shoulders: float  # half-width
    neck: float  # half-width

    @property
    def pitch(self) -> float:
        """From one vertebra to the next at the middle of the chest."""
        return 23.0 * self.size * self.length

    def vertebra(self, number: float | np.ndarray) -> np.ndarray:
        """Height of a thoracic vertebra's middle: they grow downwards."""
        k = np.asarray(number, dtype=np.float64) - 1.0
        return np.asarray(self.pitch * (0.82 * k + 0.016 * k * k))

    def spine(self, y: np.ndarray | float) -> np.ndarray:
        """Sideways place of the spine."""
        y = np.asarray(y, dtype=np.float64) / self.size
        return np.asarray(self.scoliosis * (np.sin((y + 20.0) * np.pi / 150.0) - 0.25))

    def wall(self, y: np.ndarray | float, bottom: float) -> np.ndarray:
        """Half-width of the inner chest at height y when the costophrenic angle lies at `bottom`."""
        at = (np.asarray(y, dtype=np.float64) - self.apex) / (bottom - self.apex)
        return np.asarray(self.half_width * np.interp(at, _WALL_AT, _WALL))

    @property
    def apex(self) -> float:
        """Height of the lungs' tips."""
        return float(self.vertebra(1.5))


def make_body(seed: int, patient: int, sex: Sex, age: int) -> Body:
    """`age` is the patient's age at the first image.

    Age widens the heart and the aortic arch and thins the bones; weight widens the neck, shortens the chest and lays the
    heart down.
    """
    r = stream(seed, "body", patient)
    male = sex == "M"
    grown = min(1.0, 0.62 + 0.38 * min(age, 17) / 17)
    size = grown * (1.0 if male else 0.93) * r.normal(1.0, 0.045)
    heavy = float(np.clip(r.normal(0.0 if male else 0.1, 1.0), -1.8, 2.6))
    old = min(max(age - 40, 0) / 40, 1.2)
    return Body(
        seed=int(r.integers(1 << 31)),
        sex=sex,
        age=age,
        size=size,
        length=float(np.clip(r.normal(1.07, 0.07) - 0.03 * heavy, 0.9, 1.28)),
        half_width=(141 if male else 130) * size / (1 if male else 0.93) * r.normal(1, 0.05) + 1.5 * heavy,
        depth=(150 if male else 135) * size * r.normal(1, 0.08),
        fat=float(np.clip((14 if male else 17) + 8 * heavy, 4, 48)),
        breast=0.0 if male or age < 13 else float(np.clip(r.normal(0.8, 0.35) + 0.22 * heavy, 0.15, 1.8)),
        heart=float(np.clip(r.normal(0.455, 0.03) + 0.012 * heavy + 0.02 * old, 0.36, 0.515)),
        heart_axis=float(np.clip(0.5 + 0.18 * heavy + r.normal(0, 0.2), 0, 1)),
        knob=float((13 + 5 * old) * size * r.normal(1, 0.12)),
        bone=float(np.clip(r.normal(1.2, 0.15) - 0.2 * old, 0.75, 1.6)),
        rib_drop=float(np.clip(r.normal(1.0, 0.12) - 0.03 * heavy, 0.65, 1.35)),
        rib_half_width=float(5.5 * size * r.normal(1, 0.08)),
        scoliosis=float(r.normal(0, 2.0) + (r.random() < 0.06) * r.normal(0, 9)),
        dome=float(r.normal(45, 7) * size),
        dome_step=float(r.normal(11, 6) * size),
        vessels=float(np.clip(r.normal(1.0, 0.18), 0.5, 1.6)),
        texture=float(np.clip(r.normal(1.0, 0.25), 0.4, 1.8)),
        shoulders=float((212 if male else 197) * size * r.normal(1, 0.05) + 3 * heavy),
        neck=float((56 if male else 50) * size * r.normal(1, 0.08) + 3.5 * heavy),
    )
