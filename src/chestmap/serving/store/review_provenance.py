"""Records where verdicts and boxes come from: who gave them, when, having seen what; which boxes are a model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chestmap.serving.store.database_tables import Result
from chestmap.serving.store.review_schema import FindingReview, KeptBox, KeptFinding, ReviewBox

ROUNDING = 0.051
"""Pixels; the page writes corners with one decimal."""
CORNERS = ("x0", "y0", "x1", "y1")


def kept_findings(
    said: Mapping[str, FindingReview], before: Mapping[str, Any], results: Sequence[Result], by: str, at: str
) -> dict[str, Any]:
    """Findings as they are stored. What stays as it was in the version before keeps its author, date and way."""
    found = {}
    for name, one in said.items():
        boxes = [_kept_box(name, box, results) for box in one.boxes]
        how = one.how or "considered"
        new = KeptFinding(verdict=one.verdict, boxes=boxes, how=how, seen=one.seen, by=by, at=at).model_dump()
        old = before.get(name)
        kept = old is not None and _same(old, new) and one.how in {None, old.get("how", "unknown")}
        found[name] = old if kept else new
    return found


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """A client that sends a whole review repeats what it did not change, perhaps without its provenance."""
    corners = [[[box[corner] for corner in CORNERS] for box in one.get("boxes", ())] for one in (old, new)]
    return old["verdict"] == new["verdict"] and corners[0] == corners[1]


def _kept_box(name: str, box: ReviewBox, results: Sequence[Result]) -> KeptBox:
    """Gives a box its origin: a model's, a model's that was moved, or drawn by hand."""
    corners = {corner: getattr(box, corner) for corner in CORNERS}
    for result in results:
        for found in result.findings:
            if found["name"] == name and any(_meets(box, other) for other in found["boxes"]):
                return KeptBox(**corners, origin="model", model=result.model_id, called=bool(found["over"]))
    if box.origin == "moved":
        called = any(
            found["over"] for one in results if one.model_id == box.model for found in one.findings if found["name"] == name
        )
        return KeptBox(**corners, origin="moved", model=box.model, called=called)
    return KeptBox(**corners, origin="unknown" if box.origin == "unknown" else "drawn")


def _meets(box: ReviewBox, other: Mapping[str, Any]) -> bool:
    return all(abs(getattr(box, corner) - other[corner]) <= ROUNDING for corner in CORNERS)
