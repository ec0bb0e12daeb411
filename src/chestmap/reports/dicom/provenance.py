"""Describes the origin of result objects: the model, identifiers and series.

Every result object names the model by hash, and has UIDs that depend on image and model alone. So a result that is sent
twice is one object.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydicom import uid
from pydicom.dataset import Dataset

from chestmap.errors import BadInput, did_you_mean
from chestmap.predictions.folder import OwnRule
from chestmap.version import __version__

Kind = Literal["sr", "gsps", "sc", "scores", "seg", "pmap"]
"""`sr` boxes as a structured report, `gsps` boxes as a presentation state, `sc` a picture, `scores` all scores as text,
`seg` the region of each finding, `pmap` the map of each finding."""

KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_KINDS: tuple[Kind, ...] = ("sr", "gsps", "sc")
"""No single object is shown by every viewer; these three together reach all of them (docs/dicom.md)."""


def kinds_of(names: Sequence[str]) -> tuple[Kind, ...]:
    """Each once, in the order given; an unknown one is an error that offers the nearest."""
    for name in names:
        if name not in KINDS:
            raise BadInput(f'result kind "{name}" is not one of {", ".join(KINDS)}{did_you_mean(name, KINDS)}')
    return tuple(kind for name in dict.fromkeys(names) for kind in KINDS if kind == name)


PRODUCT = "chestmap"
CERTAIN_ENOUGH = 0.5
"""Where a model has no operating point for a finding, its box is given from this score on."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The model behind a prediction. A finding is shown from its operating point on; without one from a score of 0.5.

    `levels` cut the maps of findings that have a threshold of their own, `rule` those of the others. `calibrated` names the
    findings with a score that is a probability, not only an order; `measured` holds sensitivity and precision of operating points
    on validation images. `revision` counts corrections of the image under the same identifier: results
    of a corrected image are new objects.
    """

    name: str
    sha256: str
    version: str = __version__
    operating_points: Mapping[str, float] = field(default_factory=dict, hash=False)
    levels: Mapping[str, float] = field(default_factory=dict, hash=False)
    rule: OwnRule = field(default_factory=lambda: OwnRule(0.5))
    calibrated: Collection[str] = ()
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    revision: int = 0

    @property
    def identity(self) -> str:
        """Everything that changes a result: the same image and identity give the same identifiers."""
        settings = [
            dict(self.operating_points),
            dict(self.levels),
            self.rule.threshold,
            self.rule.normalize,
            sorted(self.calibrated) or False,
        ]
        parts = [self.name, self.sha256, self.version, settings, *([self.revision] if self.revision else [])]
        return json.dumps(parts, sort_keys=True)

    @property
    def device_uid(self) -> uid.UID:
        """New with every retrained model, as IHE's AI Results profile asks."""
        return made_uid("device", self.sha256, self.version)

    def scale(self, findings: Sequence[str]) -> str:
        """What the scores of these findings are, in a sentence."""
        raw = [name for name in findings if name not in set(self.calibrated)]
        if not raw:
            return "Scores are calibrated probabilities."
        if len(raw) == len(findings):
            return "Scores are not calibrated: an order, no probabilities."
        return f"Scores are calibrated probabilities, but not those of {', '.join(raw)}: these are an order only."

    def shown_from(self, finding: str) -> float:
        """The least score from which a finding is reported: its operating point, or one half."""
        return self.operating_points.get(finding, CERTAIN_ENOUGH)


def made_uid(*parts: str) -> uid.UID:
    """The same parts give the same identifier, so that a result sent twice is one object in the archive (2.25: PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join((PRODUCT, *parts)).encode()).digest()
    return uid.UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def printable(text: str, longest: int) -> str:
    """Names of findings come from a user's table; backslashes separate values in DICOM. Cut to so many bytes of UTF-8."""
    kept = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text)
    return kept.encode()[:longest].decode(errors="ignore").strip() or "finding"


def series_of(kind: Kind, title: str, about: Provenance, source_uid: str, part: str = "", own: int = 0) -> dict[str, Any]:
    """Arguments of every highdicom object: each kind of each image is a series of its own, never part of the source's.

    `part` tells apart the objects of a kind, such as one for each finding. Objects that are no versions of each other need a
    series each, since viewers show one of a series: `own` numbers them from 1.
    """
    names, number = (source_uid, about.identity, kind), 1 + KINDS.index(kind)
    return {
        "series_instance_uid": made_uid("series", *names, *([part] if own else [])),
        "series_number": 9000 + (100 * number + own if own else number),
        "sop_instance_uid": made_uid("instance", *names, part),
        "instance_number": 1,
        "series_description": f"{PRODUCT} AI {title}" + (f": {printable(part, 40)}" if own else ""),
        "manufacturer": PRODUCT,
        "manufacturer_model_name": PRODUCT,
        "software_versions": about.version,
        "device_serial_number": about.sha256[:16],
    }


def is_result(dataset: Dataset) -> bool:
    """Whether an object was written here: a node that took it for a radiograph would go in circles."""
    return dataset.get("Manufacturer") == PRODUCT and dataset.get("ManufacturerModelName") == PRODUCT
