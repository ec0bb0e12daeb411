"""Chooses what is drawn and reported of a prediction: findings, codes, places in the stored pixels.

Every writer of result objects takes a `MarkedResult`, so that report, state and picture never disagree. Places are in
stored pixels of the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from highdicom.sr import CodedConcept
from jaxtyping import Bool, Float32
from pydicom import uid
from pydicom.dataset import Dataset

from chestmap.errors import BadInput
from chestmap.reports.dicom.earlier import Earlier
from chestmap.reports.dicom.provenance import Provenance, made_uid, printable
from chestmap.reports.map_layers import map_on_picture
from chestmap.types import Box, Code, Findings, Prediction
from chestmap.vocabulary import CODES, NO_FINDING, RADLEX, SITES

LOCAL = "99CHESTMAP"
ANYWHERE = Code("SCT", "816094009", "Chest")
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")


def concept(code: Code, equivalent: Code | None = None) -> CodedConcept:
    """A coded concept; an equivalent code of another scheme follows it (PS3.3 table 8.8-1)."""
    made = CodedConcept(code.value, code.scheme, code.meaning)
    if equivalent:
        made.EquivalentCodeSequence = [CodedConcept(equivalent.value, equivalent.scheme, equivalent.meaning)]
    return made


def code_of(finding: str, findings: Findings) -> CodedConcept:
    """A finding that no vocabulary knows gets a local code: a wrong SNOMED code is worse than an honest local one."""
    code = findings.codes.get(finding) or CODES.get(finding)
    if code is None:
        code = Code(LOCAL, "f-" + hashlib.sha256(finding.encode()).hexdigest()[:12], printable(finding, 64))
    return concept(code, RADLEX.get(finding))


def site_of(finding: str) -> CodedConcept:
    """The coded place of a finding, such as the lung; "chest" for one that is in no list."""
    return concept(SITES.get(finding, ANYWHERE))


def mark_on(box: Box, image: tuple[float, float], stored: tuple[int, int]) -> Box | None:
    """A box in stored pixels: an image space of another size is ChestX-ray14's, or has square pixels where the file has not."""
    x, y = stored[0] / image[0], stored[1] / image[1]
    return replace(box, x0=box.x0 * x, y0=box.y0 * y, x1=box.x1 * x, y1=box.y1 * y).clipped(*stored)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mark:
    """One box that is shown, in stored pixels: columns and rows from the outer corner of the first pixel, as in SCOORD.

    `present` only where a chosen operating point is reached. Nothing is ever called absent.
    """

    finding: str
    box: Box
    score: float
    code: CodedConcept
    site: CodedConcept
    uid: uid.UID
    present: bool

    @property
    def label(self) -> str:
        """The text next to a box: finding and score, in characters that DICOM allows."""
        return f"{printable(self.finding, 48)} {self.score:.2f}"

    @property
    def outline(self) -> np.ndarray:
        """A closed polyline of (column, row)."""
        x0, y0, x1, y1 = self.box.corners
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


@dataclass(frozen=True, eq=False, kw_only=True)
class MarkedResult:
    """The input of every kind of object: the checked header of the source, the source itself, the prediction."""

    reference: Dataset
    source: Dataset
    prediction: Prediction
    about: Provenance
    replaces: tuple[Earlier, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the stored pixels."""
        return int(self.reference.Columns), int(self.reference.Rows)

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """Boxes of findings that reach their operating point, best first."""
        scores = dict(zip(self.prediction.findings, map(float, self.prediction.scores), strict=True))
        found = [
            mark
            for place, box in enumerate(self.prediction.boxes)
            if box.finding != NO_FINDING and scores[box.finding] >= self.about.shown_from(box.finding)
            if (mark := self._mark(place, box, scores[box.finding]))
        ]
        return tuple(sorted(found, key=lambda mark: -mark.score))

    def _mark(self, place: int, box: Box, of_finding: float) -> Mark | None:
        stored = mark_on(box, self.prediction.frame.image, self.size)
        if stored is None:
            return None
        score = of_finding if box.score is None else box.score
        return Mark(
            finding=box.finding,
            box=stored,
            score=min(max(score, 0.0), 1.0),
            code=code_of(box.finding, self.prediction.findings),
            site=site_of(box.finding),
            uid=made_uid("mark", self.reference.SOPInstanceUID, self.about.identity, box.finding, str(place)),
            present=box.finding in self.about.operating_points,
        )

    @property
    def boxed(self) -> Sequence[str]:
        """Findings with a box, each once."""
        return tuple(dict.fromkeys(mark.finding for mark in self.marks))

    @property
    def unboxed(self) -> Sequence[str]:
        """Findings that reach their operating point, but without a place in their map."""
        reached = zip(self.prediction.findings, map(float, self.prediction.scores), strict=True)
        boxed = set(self.boxed)
        return [name for name, score in reached if name not in {NO_FINDING, *boxed} and score >= self.about.shown_from(name)]

    def map_of(self, finding: str, size: tuple[int, int]) -> Float32[np.ndarray, "h w"] | None:
        """On the image at `size` = (width, height), in [0, 1]."""
        normalize = self.about.rule.normalize or finding in self.about.levels
        values = self.prediction.maps[self.prediction.findings.index(finding)]
        return map_on_picture(values, self.prediction.frame, size, normalize=normalize)

    def region_of(self, finding: str) -> Bool[np.ndarray, "h w"]:
        """The regions of the mask that the finding's boxes go around, on the stored pixels."""
        values = self.map_of(finding, self.size)
        if values is None:
            raise BadInput(f"{finding}: a box, but a map that says nothing; predict again")
        mask = values >= self.about.levels.get(finding, self.about.rule.threshold)
        _, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        kept = np.zeros_like(mask)
        for mark in self.marks:
            if mark.finding == finding:
                x0, y0, x1, y1 = (round(value) for value in mark.box.corners)
                inside = np.bincount(numbers[y0:y1, x0:x1].ravel(), minlength=2)
                if inside[1:].any():
                    kept |= numbers == 1 + int(np.argmax(inside[1:]))
        return kept
