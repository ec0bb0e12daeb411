"""What an evaluation gives back: rows of numbers with their intervals and supports, and curves to draw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from chestmap.types import Findings

MEAN = "mean"
"""The finding of a row that averages findings; "mean without Cardiomegaly" and the like start with it too."""


@dataclass(frozen=True)
class Score:
    """One number. `support` counts what it is a mean over (`unit`), `negatives` the images without the finding.

    `measure` with `at`: "T(IoU)" at 0.3 is the share of boxes met with IoU >= 0.3. `rule` says where the threshold on the map
    comes from (own, validation, oracle), or names a preset ("preset ham") or a floor ("floor medoid"). None is "n/a".
    """

    measure: str
    finding: str
    value: float | None
    low: float | None = None
    high: float | None = None
    support: int = 0
    unit: str = "pairs"
    patients: int = 0
    negatives: int = 0
    at: float | None = None
    geometry: str = ""
    rule: str = ""
    threshold: float | None = None
    ties: int = 0

    @property
    def is_mean(self) -> bool:
        return self.finding.startswith(MEAN)

    def as_dict(self) -> dict[str, Any]:
        """Without the fields that hold their default, so that metrics.json stays readable."""
        return {
            one.name: value
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default or one.name in ("value", "support")
        }


@dataclass(frozen=True, eq=False)
class Curve:
    """Points to draw: roc, precision-recall, reliability, accuracy (against IoU), threshold, froc."""

    kind: str
    finding: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    rule: str = ""
    geometry: str = ""
    weight: tuple[float, ...] = ()  # images in each bin of a reliability curve

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in ("", ())}


def number(value: float | np.floating | None) -> float | None:
    """A plain float, or None where there is none."""
    return None if value is None or math.isnan(value) else float(value)


def thinned(x: np.ndarray, y: np.ndarray, points: int = 200) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `points` of a long curve, both ends kept."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(np.int64)) if len(x) else slice(0)
    return tuple(np.asarray(x, dtype=float)[kept].tolist()), tuple(np.asarray(y, dtype=float)[kept].tolist())


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured of one predictions folder. `about` says of what, with which settings; `notes` are warnings."""

    title: str
    findings: Findings
    rows: tuple[Score, ...]
    curves: tuple[Curve, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cases: Any = None  # comparison.Cases, for paired tests; not written to metrics.json

    def select(self, measure: str, **wanted: Any) -> list[Score]:
        """Rows of a measure whose fields equal those given."""
        return [
            row
            for row in self.rows
            if row.measure == measure and all(getattr(row, key) == value for key, value in wanted.items())
        ]

    def one(self, measure: str, **wanted: Any) -> Score:
        """The only such row; KeyError where there is none or more."""
        found = self.select(measure, **wanted)
        if len(found) != 1:
            raise KeyError(f"{measure} {wanted}: {len(found)} rows")
        return found[0]

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "findings": list(self.findings.names),
            "about": self.about,
            "notes": list(self.notes),
            "scores": [row.as_dict() for row in self.rows],
            "curves": [curve.as_dict() for curve in self.curves],
        }

    def write(self, path: Path) -> Path:
        """metrics.json, written beside and renamed."""
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False), encoding="utf-8")
        beside.replace(path)
        return path


def read_evaluation(path: Path) -> Evaluation:
    """An evaluation from its metrics.json."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    listed = ("x", "y", "weight")
    curves = (Curve(**(curve | {key: tuple(curve[key]) for key in listed if key in curve})) for curve in stored["curves"])
    return Evaluation(
        stored["title"],
        Findings(tuple(stored["findings"])),
        tuple(Score(**row) for row in stored["scores"]),
        tuple(curves),
        stored["about"],
        tuple(stored["notes"]),
    )


def finding_groups(findings: Sequence[str], without: Iterable[str]) -> dict[str, list[int]]:
    """Which findings each mean averages: all, and all but each one of `without` that is there."""
    groups = {MEAN: list(range(len(findings)))}
    for left_out in without:
        kept = [index for index, name in enumerate(findings) if name != left_out]
        if 0 < len(kept) < len(findings):
            groups[f"{MEAN} without {left_out}"] = kept
    return groups
