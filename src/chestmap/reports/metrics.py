"""metrics.json as `chestmap evaluate` writes it, looked up by what a number is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chestmap.errors import BadInput

MEAN = "mean"
HEADLINE = "mask"
"""Geometry of the numbers that stand first: pixels of the mask against the union of boxes."""

Key = tuple[str, str, float | None, str, str]


@dataclass(frozen=True, eq=False)
class Metrics:
    """`tree` is the file's content; a number is found by (measure, finding, at, geometry, rule)."""

    tree: Mapping[str, Any]

    def __post_init__(self) -> None:
        if missing := {"title", "findings", "about", "notes", "scores", "curves"} - set(self.tree):
            raise BadInput(f"metrics without {', '.join(sorted(missing))}; expected a metrics.json of `chestmap evaluate`")

    @property
    def findings(self) -> list[str]:
        return list(self.tree["findings"])

    @property
    def about(self) -> Mapping[str, Any]:
        return self.tree["about"]

    @cached_property
    def _scores(self) -> dict[Key, Mapping[str, Any]]:
        return {
            (row["measure"], row["finding"], row.get("at"), row.get("geometry", ""), row.get("rule", "")): row
            for row in self.tree["scores"]
        }

    def one(
        self, measure: str, finding: str = MEAN, at: float | None = None, geometry: str = "", rule: str = ""
    ) -> Mapping[str, Any]:
        """The row; where there is none, one without a value."""
        return self._scores.get((measure, finding, at, geometry, rule), {"value": None, "support": 0})

    def met(self, finding: str, at: float, rule: str) -> Mapping[str, Any]:
        """T(IoU) of a threshold rule, a floor or a ceiling."""
        geometry = "" if rule.startswith("floor") else HEADLINE
        return self.one("T(IoU)", finding, at, geometry, rule)

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Of the threshold rules validation, own and oracle those that were scored, the first is the headline."""
        known = {row.get("rule") for row in self.tree["scores"] if row["measure"] == "T(IoU)"}
        return tuple(rule for rule in ("validation", "own", "oracle") if rule in known)

    @cached_property
    def floors(self) -> tuple[str, ...]:
        """Floors that were scored, such as "floor medoid", in their order."""
        return self._rules("floor ")

    @cached_property
    def ceilings(self) -> tuple[str, ...]:
        """Grids whose ceiling was computed, such as "ceiling 16x16", coarse first."""
        return self._rules("ceiling ")

    def _rules(self, beginning: str) -> tuple[str, ...]:
        rules = (row.get("rule", "") for row in self.tree["scores"] if row["measure"] == "T(IoU)")
        return tuple(dict.fromkeys(rule for rule in rules if rule.startswith(beginning)))

    @cached_property
    def limits(self) -> tuple[float, ...]:
        """The T of T(IoU)."""
        rows = (row for row in self.tree["scores"] if row["measure"] == "T(IoU)" and row.get("geometry") == HEADLINE)
        return tuple(sorted({row["at"] for row in rows}))

    @cached_property
    def boxed(self) -> tuple[str, ...]:
        """Findings whose boxes were scored."""
        found = {row["finding"] for row in self.tree["scores"] if row["measure"] == "T(IoU)"}
        return tuple(name for name in self.findings if name in found)

    def curves(self, kind: str, rule: str = "", geometry: str = "") -> dict[str, Mapping[str, Any]]:
        """Curves by finding; an empty rule or geometry means the first that is there."""
        found: dict[str, Mapping[str, Any]] = {}
        for curve in self.tree["curves"]:
            wanted = (rule, geometry)
            given = (curve.get("rule", ""), curve.get("geometry", ""))
            if curve["kind"] == kind and all(not want or want == have for want, have in zip(wanted, given, strict=True)):
                found.setdefault(curve["finding"], curve)
        return found

    def thresholds(self, rule: str) -> dict[str, float]:
        """Where each finding's map is cut for the headline masks."""
        rows = (self.met(name, self.limits[0], rule) for name in self.boxed) if self.limits else ()
        return {row["finding"]: row["threshold"] for row in rows if row.get("threshold") is not None}
