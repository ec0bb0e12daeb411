"""Holds the outcome of an evaluation: rows of numbers with their intervals and supports, and curves to draw.

`Evaluation` is what `chestmap.evaluate` returns and metrics.json holds. Its rows name measure, finding, geometry, rule and
limit; `find` and `met` look them up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chestmap.errors import BadInput
from chestmap.evaluation.measure import Measure
from chestmap.predictions.image_set import ImageSet
from chestmap.storage.atomic import write_text
from chestmap.storage.json_file import read_json
from chestmap.types import Findings

HEADLINE = "mask"
"""Geometry of the headline numbers: pixels of the mask against the union of boxes."""

MEAN = "mean"
"""The finding of a row that averages findings; "mean without Cardiomegaly" and the like start with it too."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number. `support` counts what it is a mean over (`unit`), `negatives` the images without the finding.

    `measure` with `at`: "T(IoU)" at 0.3 is the share of boxes met with IoU >= 0.3. `rule` names where the threshold on the map
    comes from (own, validation, oracle), or names a preset ("preset ham") or a floor ("floor medoid"). None is "n/a".
    """

    measure: str  # one of Measure, or the text of a metrics.json of another version
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
        """Whether the row is a mean over findings."""
        return self.finding.startswith(MEAN)

    def as_dict(self) -> dict[str, Any]:
        """Without the fields that hold their default, so that metrics.json stays readable."""
        return {
            one.name: value
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default or one.name in ("value", "support")
        }


@dataclass(frozen=True, eq=False, kw_only=True)
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
        """Plain values for JSON, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value not in ("", ())}


def number(value: float | np.floating | None) -> float | None:
    """A plain float, or None where there is none."""
    return None if value is None or math.isnan(value) else float(value)


def thinned(x: np.ndarray, y: np.ndarray, points: int = 200) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `points` of a long curve, both ends kept."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(np.int64)) if len(x) else slice(0)
    return tuple(np.asarray(x, dtype=float)[kept].tolist()), tuple(np.asarray(y, dtype=float)[kept].tolist())


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Everything that was measured of one predictions folder. `about` describes the input and settings; `notes` are warnings."""

    title: str
    findings: Findings
    rows: tuple[Score, ...]
    curves: tuple[Curve, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cases: Any = None  # comparison.Cases, for paired tests; not written to metrics.json

    def select(self, measure: str, **wanted: Any) -> list[Score]:
        """Rows of a measure with the given fields."""
        return [
            row
            for row in self.rows
            if row.measure == measure and all(getattr(row, key) == value for key, value in wanted.items())
        ]

    def only_score(self, measure: str, **wanted: Any) -> Score:
        """The only such row; KeyError where there is none or more."""
        found = self.select(measure, **wanted)
        if len(found) != 1:
            raise KeyError(f"{measure} {wanted}: {len(found)} rows")
        return found[0]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, float | None, str, str], Score]:
        return {(row.measure, row.finding, row.at, row.geometry, row.rule): row for row in self.rows}

    def find(self, measure: str, finding: str = MEAN, at: float | None = None, geometry: str = "", rule: str = "") -> Score:
        """The row that these five name; where there is none, one without a value."""
        missing = Score(measure=measure, finding=finding, value=None, at=at, geometry=geometry, rule=rule)
        return self._by_key.get((measure, finding, at, geometry, rule), missing)

    def met(self, finding: str, at: float, rule: str) -> Score:
        """T(IoU) of a threshold rule, a floor or a ceiling, under the first geometry."""
        return self.find(Measure.IOU_MET, finding, at, "" if rule.startswith("floor") else HEADLINE, rule)

    @cached_property
    def _met(self) -> list[Score]:
        return [row for row in self.rows if row.measure == Measure.IOU_MET]

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Of the threshold rules validation, own and oracle those that were scored, the first is the headline."""
        known = {row.rule for row in self._met}
        return tuple(rule for rule in ("validation", "own", "oracle") if rule in known)

    @cached_property
    def floors(self) -> tuple[str, ...]:
        """Floors that were scored, such as "floor medoid", in their order."""
        return tuple(dict.fromkeys(row.rule for row in self._met if row.rule.startswith("floor ")))

    @cached_property
    def ceilings(self) -> tuple[str, ...]:
        """Grids with a computed ceiling, such as "ceiling 16x16", coarse first."""
        return tuple(dict.fromkeys(row.rule for row in self._met if row.rule.startswith("ceiling ")))

    @cached_property
    def limits(self) -> tuple[float, ...]:
        """The T of T(IoU)."""
        return tuple(sorted({row.at for row in self._met if row.geometry == HEADLINE and row.at is not None}))

    @cached_property
    def boxed(self) -> tuple[str, ...]:
        """Findings with scored boxes."""
        found = {row.finding for row in self._met}
        return tuple(name for name in self.findings if name in found)

    def curves_of(self, kind: str, rule: str = "", geometry: str = "") -> dict[str, Curve]:
        """Curves by finding; an empty rule or geometry means the first that is there."""
        found: dict[str, Curve] = {}
        for curve in self.curves:
            if curve.kind == kind and rule in ("", curve.rule) and geometry in ("", curve.geometry):
                found.setdefault(curve.finding, curve)
        return found

    def thresholds(self, rule: str) -> dict[str, float]:
        """Where each finding's map is cut for the headline masks."""
        rows = [self.met(name, self.limits[0], rule) for name in self.boxed] if self.limits else []
        return {row.finding: row.threshold for row in rows if row.threshold is not None}

    @cached_property
    def evaluated(self) -> ImageSet | None:
        """Which images were scored; None in a metrics.json of before the set was recorded."""
        return ImageSet.from_dict(self.about["set"], self.title) if "set" in self.about else None

    def as_dict(self) -> dict[str, Any]:
        """Give the content of metrics.json."""
        return {
            "title": self.title,
            "findings": list(self.findings.names),
            "about": self.about,
            "notes": list(self.notes),
            "scores": [row.as_dict() for row in self.rows],
            "curves": [curve.as_dict() for curve in self.curves],
        }

    def write(self, path: Path) -> Path:
        """Write metrics.json atomically."""
        write_text(path, json.dumps(self.as_dict(), indent=1, allow_nan=False))
        return path

    @classmethod
    def from_dict(cls, tree: Any, where: object = "metrics") -> Evaluation:
        """The content of metrics.json; anything else is one line."""
        needed = {"title", "findings", "about", "notes", "scores", "curves"}
        missing = sorted(needed - set(tree)) if isinstance(tree, dict) else sorted(needed)
        if missing:
            raise BadInput(f"{where}: without {', '.join(missing)}; expected a metrics.json of `chestmap evaluate`")
        try:
            listed = ("x", "y", "weight")
            curves = (Curve(**(one | {key: tuple(one[key]) for key in listed if key in one})) for one in tree["curves"])
            rows = tuple(Score(**row) for row in tree["scores"])
            return cls(
                title=tree["title"],
                findings=Findings(tuple(tree["findings"])),
                rows=rows,
                curves=tuple(curves),
                about=tree["about"],
                notes=tuple(tree["notes"]),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{where}: {error}; expected a metrics.json of `chestmap evaluate`, so evaluate again") from None


def read_evaluation(path: Path) -> Evaluation:
    """An evaluation from its metrics.json."""
    try:
        return Evaluation.from_dict(read_json(path, "expected a metrics.json of `chestmap evaluate`", BadInput), path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; expected a metrics.json of `chestmap evaluate`") from None


def finding_groups(findings: Sequence[str], without: Iterable[str]) -> dict[str, list[int]]:
    """Which findings each mean averages: all, and all but each one of `without` that is there."""
    groups = {MEAN: list(range(len(findings)))}
    for left_out in without:
        kept = [index for index, name in enumerate(findings) if name != left_out]
        if 0 < len(kept) < len(findings):
            groups[f"{MEAN} without {left_out}"] = kept
    return groups
