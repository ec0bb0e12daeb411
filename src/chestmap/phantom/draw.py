"""One phantom radiograph: a pure function of its case and the side asked for.

`phantom.write` calls `draw` for each case. Boxes and masks are those of the drawn finding itself, so they are true by
construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from chestmap.phantom.body import Sex, make_body
from chestmap.phantom.chest import Chest
from chestmap.phantom.devices import add_devices
from chestmap.phantom.exam import View, make_exam, make_raster
from chestmap.phantom.exposure import expose, make_exposure
from chestmap.phantom.findings.catalog import add_findings, box_of, change_of
from chestmap.phantom.findings.lesions import Mask
from chestmap.phantom.markers import add_lead_letter, add_overlays
from chestmap.phantom.scene import make_scene
from chestmap.types import Box

_SMALL = 192
"""Smaller pictures are drawn at twice the size, so that ribs, lines and boxes stay exact."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What there is to draw. `patient` keeps the anatomy and the place of findings; `follow_up` changes breath,
    position, exposure.
    """

    seed: int
    patient: int
    follow_up: int
    sex: Sex
    age: int  # years at the patient's first image
    view: View
    findings: tuple[str, ...]
    confounders: bool = True
    misalignment: float = 1.0


@dataclass(frozen=True, eq=False)
class Drawing:
    """Boxes are in the 1024 frame, one for each lesion, the largest of a finding first; masks hold all lesions of a
    finding.
    """

    pixels: UInt8[np.ndarray, "h w"]
    findings: tuple[str, ...]
    boxes: tuple[Box, ...]
    masks: Mapping[str, Mask]


def draw(case: Case, side: int) -> Drawing:
    """The picture of one case, with its boxes and true masks.

    The order matters: anatomy with the findings' changes of shape, then the findings, then devices over them, then the
    exposure of it all, and last what is burned into the finished picture.
    """
    inner = side if side >= _SMALL else 2 * side
    body = make_body(case.seed, case.patient, case.sex, case.age)
    exam = make_exam(body, case.view, case.follow_up, case.misalignment)
    chest = Chest(body, exam, change_of(body, exam, case.findings))
    raster = make_raster(exam, body, chest.bottom, inner)
    scene = make_scene(raster, chest)
    areas = add_findings(scene, body, exam, case.findings)
    if case.confounders:
        add_devices(scene, frozenset(case.findings))
    attenuation = scene.attenuation()
    if case.confounders:
        attenuation = add_lead_letter(raster, exam, attenuation)
    grey = expose(raster, exam, make_exposure(exam), attenuation)
    pixels = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    if case.confounders:
        pixels = add_overlays(raster, exam, pixels)
    boxes = tuple(box_of(finding, area) for finding, found in areas.items() for area in found)
    masks = {finding: _shrunk(np.logical_or.reduce(found), side) for finding, found in areas.items() if found}
    if inner != side:
        pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    return Drawing(pixels, case.findings, boxes, masks)


def _shrunk(mask: Mask, side: int) -> Bool[np.ndarray, "side side"]:
    """A pixel belongs to the smaller mask where any of its parts does, so that the box still fits."""
    if len(mask) == side:
        return mask
    return np.asarray(mask.reshape(side, 2, side, 2).any((1, 3)))
