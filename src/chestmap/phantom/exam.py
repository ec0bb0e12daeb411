"""How one image was taken: view, breath, position of the patient, and the film that everything is projected on.

The patient is upright or lies with x to the left, y down and z forward. The beam goes through the middle of the chest; what
lies nearer to the source is larger on the film. PA puts the front of the chest at the detector, AP the back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from chestmap.phantom.body import Body
from chestmap.phantom.nih_figures import FILMS
from chestmap.phantom.raster import Points, Raster, stream

View = Literal["PA", "AP"]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Lengths in millimeters at the middle of the patient, angles in degrees."""

    seed: int
    view: View
    upright: bool
    film: tuple[int, int, float]  # width and height in pixels of the original, millimeters per pixel
    breath: float  # 1 is a deep breath; 0 none
    turn: float  # about the long axis: front structures move to the right of the image
    tilt: float  # lordotic: front structures move up
    roll: float  # in the plane of the film
    zoom: float
    shift: tuple[float, float]
    arms: float  # 0 hanging, 1 raised off the chest as for PA

    @property
    def focus(self) -> float:
        """From the source to the middle of the patient."""
        return 1680.0 if self.view == "PA" else 930.0

    def magnify(self, z: np.ndarray | float) -> np.ndarray | float:
        """Size on the film of what lies z in front of the middle: the front is near the detector in PA, far in AP."""
        return self.focus / (self.focus + (z if self.view == "PA" else -z))

    def place(self, points: Points, z: np.ndarray | float = 0.0) -> Points:
        """Points of the upright patient at depth z as the beam projects them, still in millimeters."""
        points = np.asarray(points, dtype=np.float64)
        turn, tilt = np.radians(self.turn), np.tan(np.radians(self.tilt))
        m = self.magnify(z)
        x = (points[..., 0] * np.cos(turn) + z * np.sin(turn)) * m
        y = (points[..., 1] - 110.0) * m + 110.0 - z * tilt
        return np.stack([x, y], -1)


def make_exam(body: Body, view: View, follow_up: int, misalignment: float) -> Exam:
    """`misalignment` scales shift, roll and zoom; 1 is what real films show.

    Portable AP films are taken lying or half sitting, on a shallow breath, from nearer, more turned and tilted, with the
    arms hanging.
    """
    r = stream(body.seed, "exam", follow_up)
    pa = view == "PA"
    shares = np.array([film[0] for film in FILMS[view]])
    _, width, height, spacing = FILMS[view][r.choice(len(shares), p=shares / shares.sum())]
    upright = pa or r.random() < 0.35
    loose = 1.0 if pa else 1.7
    return Exam(
        seed=int(r.integers(1 << 31)),
        view=view,
        upright=bool(upright),
        film=(int(width), int(height), spacing),
        breath=float(np.clip(r.normal(0.85 if pa else 0.12, 0.17 if pa else 0.28), -0.4, 1.15)),
        turn=float(r.normal(0, 1.6 * loose)),
        tilt=float(r.normal(0, 2.5) if pa else r.normal(4, 5)),
        roll=float(r.normal(0, 1.1 * loose) * misalignment),
        zoom=float(np.exp(r.normal(0, 0.028) * misalignment) * (1.0 if pa else 0.99)),
        shift=(float(r.normal(0, 6 * loose) * misalignment), float(r.normal(0, 9 * loose) * misalignment)),
        arms=float(np.clip(r.normal(0.8 if pa else 0.12, 0.2), 0, 1)),
    )


def make_raster(exam: Exam, body: Body, bottom: float, side: int) -> Raster:
    """The film squeezed to a square, as NIH did; the technician aims at the chest, more or less."""
    width, height, spacing = exam.film
    wide, high = width * spacing, height * spacing
    center = (0.5 * body.apex + 0.5 * bottom) * 0.93 + (24.0 if exam.view == "PA" else 30.0)
    # Large patients are not cut off at the sides, small ones are not lost on the film.
    need = 2.0 * (body.half_width + 26.0) / wide
    zoom = exam.zoom * min(1.12, 0.93 / need) if need > 0.83 else exam.zoom * max(1.0, 0.79 / need)
    c, s = np.cos(np.radians(exam.roll)) * zoom, np.sin(np.radians(exam.roll)) * zoom
    turn = np.array([[c, -s], [s, c]])
    squeeze = np.diag([side / wide, side / high])
    linear = squeeze @ turn
    aim = np.array([exam.shift[0] / wide + 0.5, exam.shift[1] / high + 0.5]) * side
    return Raster(side, np.column_stack([linear, aim - linear @ np.array([0.0, center])]))
