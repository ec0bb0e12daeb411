"""What the technician and the machine leave on the picture: side letters, texts, shutters, unexposed borders, blanked
names.
"""

from __future__ import annotations

import cv2
import numpy as np

from chestmap.phantom.exam import Exam
from chestmap.phantom.raster import Field, Layer, Raster, smooth_step, stream

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def add_lead_letter(raster: Raster, exam: Exam, attenuation: Field) -> Field:
    """A lead letter in the beam near an upper corner, often with the technician's initials, at times askew or mirrored."""
    r = stream(exam.seed, "letter")
    if r.random() > 0.8:
        return attenuation
    patch = np.zeros((96, 96), np.uint8)
    left = r.random() < 0.85
    cv2.putText(patch, "L" if left else "R", (28, 48), _FONT, 1.8, 255, int(r.integers(5, 10)), cv2.LINE_AA)
    if r.random() < 0.55:
        initials = "".join(r.choice(list("ABCDEGHJKMSTVW"), int(r.integers(2, 4))))
        cv2.putText(patch, initials, (22, 84), _FONT, 0.95, 255, 3, cv2.LINE_AA)
    if exam.view == "PA" and r.random() < 0.3:
        patch = patch[:, ::-1].copy()
    size = r.uniform(0.055, 0.085) * raster.side
    turn = r.normal(0, 8) + r.choice([0, 0, 0, 25, -90, 90])
    x = (r.uniform(0.86, 0.95) if left else r.uniform(0.06, 0.14)) * raster.side
    y = r.uniform(0.05, 0.22) * raster.side
    return attenuation + _pasted(raster.side, patch, (x, y), size / 96, turn) * np.float32(r.uniform(2.2, 4.5) / 255)


def _pasted(side: int, patch: np.ndarray, at: tuple[float, float], scale: float, degrees: float) -> Field:
    """The patch, turned and scaled, on an empty picture."""
    matrix = cv2.getRotationMatrix2D((48, 48), degrees, scale)
    matrix[:, 2] += np.array(at) - 48
    return cv2.warpAffine(patch, matrix, (side, side), flags=cv2.INTER_AREA).astype(np.float32)


def add_overlays(raster: Raster, exam: Exam, pixels: Layer) -> Layer:
    """Shutters, borders and burned-in texts, on the finished picture."""
    r = stream(exam.seed, "overlays")
    ap = exam.view == "AP"
    if r.random() < 0.13 and not ap:
        pixels = _unexposed(raster, r, pixels)
    if r.random() < (0.3 if ap else 0.2):
        pixels = _shutters(raster, r, pixels)
    if ap and r.random() < 0.45:
        _texts(raster.side, r, pixels)
    if r.random() < 0.12:
        wide, high = int(r.uniform(0.1, 0.25) * raster.side), max(1, int(r.uniform(0.008, 0.016) * raster.side))
        x = 0 if r.random() < 0.3 else int(r.uniform(0.3, 0.75) * raster.side)
        pixels[:high, x : x + wide] = 0
    return 255 - pixels if r.random() < 0.003 else pixels


def _edges(raster: Raster, r: np.random.Generator, chance: float, reach: float) -> Field:
    """Signed share of the side by which each pixel lies outside a slightly turned rectangle."""
    at = (np.arange(raster.side, dtype=np.float32) + 0.5) / raster.side
    x, y = at[None, :], at[:, None]
    outside = np.full((raster.side, raster.side), -1.0, np.float32)
    tilt = r.normal(0, 0.02)
    for along, across in ((x, y), (1 - x, y), (y, x), (1 - y, x)):
        if r.random() < chance:
            outside = np.maximum(outside, r.uniform(0.004, reach) - along + tilt * (across - 0.5))
    return outside


def _shutters(raster: Raster, r: np.random.Generator, pixels: Layer) -> Layer:
    """Black beyond the collimated field, as digital readers show it."""
    return (pixels * (1 - smooth_step(_edges(raster, r, 0.4, 0.11), -0.001, 0.001))).astype(np.uint8)


def _unexposed(raster: Raster, r: np.random.Generator, pixels: Layer) -> Layer:
    """Outside the collimated field no dose: white, with a soft edge."""
    soft, white = r.uniform(0.003, 0.012), np.float32(r.uniform(217, 250))
    share = smooth_step(_edges(raster, r, 0.6, 0.06), -soft, soft) * np.float32(r.uniform(0.9, 1.0))
    return (pixels + (white - pixels) * share).astype(np.uint8)


def _texts(side: int, r: np.random.Generator, pixels: Layer) -> None:
    """Burned-in words, and at times a side letter in a disc and an arrow that shows which way was up."""
    scale = side / 1024
    thick = max(1, round(3 * scale))
    for word in ("PORTABLE", "AP")[: 1 + int(r.random() < 0.7)]:
        x, y = r.choice([r.uniform(0.03, 0.2), r.uniform(0.7, 0.85)]) * side, r.uniform(0.06, 0.95) * side
        for value, width in ((0, 2 * thick + 1), (255, thick)):
            cv2.putText(pixels, word, (int(x), int(y)), _FONT, 0.85 * scale, value, width, cv2.LINE_AA)
    x, y = r.uniform(0.86, 0.95) * side, r.uniform(0.08, 0.7) * side
    if r.random() < 0.5:
        at, radius = (int(x), int(y)), round(24 * scale)
        cv2.circle(pixels, at, radius, 255, -1, cv2.LINE_AA)
        cv2.circle(pixels, at, max(radius - thick, 1), 0, -1, cv2.LINE_AA)
        cv2.putText(pixels, "L", (int(x - 9 * scale), int(y + 10 * scale)), _FONT, 0.9 * scale, 255, thick, cv2.LINE_AA)
    if r.random() < 0.3:
        tail, head = (int(x), int(y + 120 * scale)), (int(x), int(y + 60 * scale))
        cv2.arrowedLine(pixels, tail, head, 255, max(1, round(7 * scale)), cv2.LINE_AA, 0, 0.45)
