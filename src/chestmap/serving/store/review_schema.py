"""The shapes of a review: verdicts and boxes of each finding, versions, who wrote them and when."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["accept", "reject", "correct", "unset"]
Reviewed = Literal["no", "part", "done"]
MOST_BOXES = 100


class Corners(BaseModel):
    """In pixels of the image: half-open, from its upper left corner."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    x0: float
    y0: float
    x1: float
    y1: float

    def lies_in(self, width: float, height: float) -> bool:
        inside = 0 <= self.x0 < self.x1 <= width and 0 <= self.y0 < self.y1 <= height
        return inside and all(math.isfinite(value) for value in (self.x0, self.y0, self.x1, self.y1))


class FindingReview(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: Verdict = "unset"
    boxes: Annotated[list[Corners], Field(max_length=MOST_BOXES)] = []


class NewReview(BaseModel):
    """`base` is the version that the reviewer saw."""

    model_config = ConfigDict(extra="forbid")
    base: int = Field(ge=0, le=2**31 - 1)
    state: Reviewed
    findings: Annotated[dict[str, FindingReview], Field(max_length=200)] = {}
    note: str = Field(default="", max_length=4000)


class ReviewLine(BaseModel):
    version: int
    state: Reviewed
    by: str
    at: str | None


class ReviewOut(ReviewLine):
    findings: dict[str, FindingReview]
    note: str
