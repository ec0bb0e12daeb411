"""Defines the shapes of a review: verdicts and boxes of each finding, their origin, versions, authors and times.

Boxes are in pixels of the stored image. Limits on texts and numbers bound what one review can cost.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verdict = Literal["accept", "reject", "correct", "unset"]
Reviewed = Literal["no", "part", "done"]
Stage = Literal["blind", "open"]
"""Whether the reader had committed to what was seen without any model, or may have looked at results since."""
How = Literal["considered", "bulk", "unknown"]
"""A verdict on this finding, one of many agreed to at once, or one of a version that did not keep it."""
Origin = Literal["drawn", "moved", "model", "unknown"]
MOST_BOXES = 100
MOST_MEASURES = 50


class Corners(BaseModel):
    """In pixels of the image: half-open, from its upper left corner."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    x0: float
    y0: float
    x1: float
    y1: float

    def lies_in(self, width: float, height: float) -> bool:
        """Tells whether the box has an area and lies within an image of this size, in pixels."""
        inside = 0 <= self.x0 < self.x1 <= width and 0 <= self.y0 < self.y1 <= height
        return inside and all(math.isfinite(value) for value in (self.x0, self.y0, self.x1, self.y1))


class ReviewBox(Corners):
    """`moved` is for a client to say; a box where a model has one is that model's, whichever client sends it."""

    origin: Origin = "drawn"
    model: str = Field(default="", max_length=64)


class FindingReview(BaseModel):
    """`seen` is the model with maps or boxes on the screen when the verdict was given, empty where none was.

    Without `how`, a verdict that stays as it was keeps how it was given, and a new one is considered.
    """

    model_config = ConfigDict(extra="forbid")
    verdict: Verdict = "unset"
    boxes: Annotated[list[ReviewBox], Field(max_length=MOST_BOXES)] = []
    how: How | None = None
    seen: str = Field(default="", max_length=64)


class KeptBox(Corners):
    """`model` is the one that made the box, or made what was moved; `called` tells whether that model called the finding."""

    origin: Origin = "unknown"
    model: str = ""
    called: bool = False


class KeptFinding(BaseModel):
    """`by` and `at` are those of the verdict, which may be older than the version."""

    verdict: Verdict
    boxes: list[KeptBox] = []
    how: How = "unknown"
    seen: str = ""
    by: str = ""
    at: str = ""


class Line(BaseModel):
    """In pixels of the image, as `Corners`."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    x0: float
    y0: float
    x1: float
    y1: float


class Measure(BaseModel):
    """A length; the acute angle between two lines; or the cardiothoracic ratio, of a line over the heart and one over the thorax."""

    model_config = ConfigDict(extra="ignore")
    kind: Literal["ruler", "angle", "ctr"]
    lines: Annotated[list[Line], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def _has_its_lines(self) -> Measure:
        wanted = 1 if self.kind == "ruler" else 2
        if len(self.lines) != wanted:
            raise ValueError(f"{self.kind}: {len(self.lines)} lines; expected {wanted}")
        return self


class NewReview(BaseModel):
    """`base` is the version that the reviewer saw. Without `measures` or `key`, those of that version stay."""

    model_config = ConfigDict(extra="forbid")
    base: int = Field(ge=0, le=2**31 - 1)
    state: Reviewed
    findings: Annotated[dict[str, FindingReview], Field(max_length=200)] = {}
    note: str = Field(default="", max_length=4000)
    stage: Stage = "open"
    measures: Annotated[list[Measure], Field(max_length=MOST_MEASURES)] | None = None
    key: bool | None = None  # whether the reader marks it as a key image


class ReviewLine(BaseModel):
    """One version of a review in its history."""

    version: int
    state: Reviewed
    by: str
    at: str | None


class ReviewOut(ReviewLine):
    """A review as the API gives it."""

    findings: dict[str, KeptFinding]
    note: str
    stage: Stage = "open"
    measures: list[Measure] = []
    key: bool = False


class ReaderLine(BaseModel):
    """A reader with an independent read to make; `done` is when it was finished, `blind`: without results of models first."""

    reader: str
    done: str | None
    blind: bool = False


class ReadOut(ReviewOut):
    """The newest version of a reader's own read."""

    reader: str
