"""The fourteen findings: what each does to the anatomy, how it is drawn, and the boxes that result.

A finding is drawn in the attenuation domain. It fills the lung with a share of tissue or adds millimeters of it, so ribs
and vessels stay visible through it, and where the lung has no air left to lose, as behind the heart, it is as hard to see
as on a film.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from chestmap.phantom.body import Body
from chestmap.phantom.chest import Change
from chestmap.phantom.exam import Exam
from chestmap.phantom.findings import lesions, opacities, pleura
from chestmap.phantom.findings.lesions import Mask
from chestmap.phantom.raster import stream
from chestmap.phantom.scene import Lesion, Scene
from chestmap.types import Box

Draw = Callable[[Scene, Lesion], list[Mask]]

FINDINGS: dict[str, Draw] = {
    # In the order of drawing: what fills the lung comes before what lies over it.
    "Cardiomegaly": lesions.cardiomegaly,
    "Emphysema": opacities.emphysema,
    "Edema": opacities.edema,
    "Fibrosis": opacities.fibrosis,
    "Infiltration": opacities.infiltration,
    "Pneumonia": opacities.pneumonia,
    "Consolidation": opacities.consolidation,
    "Atelectasis": lesions.atelectasis,
    "Nodule": lesions.nodule,
    "Mass": lesions.mass,
    "Hernia": lesions.hernia,
    "Pleural Thickening": pleura.pleural_thickening,
    "Effusion": pleura.effusion,
    "Pneumothorax": pleura.pneumothorax,
}

_LEAST = 0.0002
"""Share of the image that can be seen at all: 14 x 14 pixels of 1024."""


def make_lesion(body: Body, exam: Exam, finding: str, attempt: int = 0) -> Lesion:
    """Place and kind belong to the patient, size and contrast change from image to image."""
    patient = stream(body.seed, "finding", finding, attempt)
    now = stream(exam.seed, "finding", finding)
    side = 1 if patient.random() < 0.49 else -1
    lasting = patient.normal(0, 0.28)
    return Lesion(
        random=patient,
        side=side,
        growth=float(np.exp(now.normal(0, 0.12))),
        strength=float(np.clip(np.exp(lasting + now.normal(0, 0.18)), 0.45, 1.7)),
    )


def change_of(body: Body, exam: Exam, findings: Iterable[str]) -> Change:
    """What the findings do to heart, diaphragm and mediastinum before anything is drawn.

    A cardiothoracic ratio over 0.53 is an enlarged heart; healthy ones of this phantom end at 0.515, and AP magnifies both,
    so they overlap.
    """
    change = Change()
    for finding in findings:
        now = make_lesion(body, exam, finding)
        if finding == "Cardiomegaly":
            share = np.clip(0.57 + 0.055 * (now.strength - 1) / 0.3 + 0.02 * (body.heart - 0.455) / 0.03, 0.53, 0.74)
            change = replace(change, heart=float(share / body.heart))
        elif finding == "Emphysema":
            change = replace(change, volume=float(np.clip(0.45 * now.strength, 0.15, 0.9)))
        elif finding == "Edema":
            change = replace(change, hila=1.2, heart=max(change.heart, 1.04))
        elif finding in {"Atelectasis", "Fibrosis"}:
            lift = 9.0 * now.strength
            right, left = change.raised
            raised = (right + lift * (now.side < 0), left + lift * (now.side > 0))
            change = replace(change, raised=raised, shift=change.shift + 3.0 * now.side * now.strength)
        elif finding in {"Effusion", "Pneumothorax"}:
            change = replace(change, shift=change.shift - 2.5 * now.side * now.strength)
    return change


def add_findings(scene: Scene, body: Body, exam: Exam, findings: Iterable[str]) -> dict[str, list[Mask]]:
    """Draws them into the scene; each finding's visible areas, the largest first.

    One that fell where nothing can be seen, behind the heart or under the diaphragm, is drawn again elsewhere.
    """
    wanted = set(findings)
    masks = {}
    for finding, draw in FINDINGS.items():
        for attempt in range(4 if finding in wanted else 0):
            areas = draw(scene, make_lesion(body, exam, finding, attempt))
            masks[finding] = sorted((area for area in areas if area.mean() > _LEAST), key=lambda area: -int(area.sum()))
            if masks[finding]:
                break  # else it fell where nothing can be seen, behind the heart or the diaphragm
    return masks


def box_of(finding: str, mask: Mask) -> Box:
    """The mask's extent in the 1024 frame."""
    side = mask.shape[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    k = 1024.0 / side
    return Box(finding, columns[0] * k, rows[0] * k, (columns[-1] + 1) * k, (rows[-1] + 1) * k)
