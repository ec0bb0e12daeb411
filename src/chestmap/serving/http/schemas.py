"""Defines the shapes of what is sent and answered. OpenAPI is made of them.

Routes and tests use the same classes; a changed field is a change of the API, and CHANGELOG lists it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chestmap.serving.store.review_schema import Corners, ReaderLine, ReadOut, ReviewLine, ReviewOut

State = Literal["queued", "done", "failed", "received", "refused", "replaced", "removed"]


class Error(BaseModel):
    """The answer to a request that failed."""

    error: str


class ModelLine(BaseModel):
    """A served model in the list of models."""

    id: str
    method: str
    title: str
    paper: str
    findings: list[str]
    canvas: tuple[int, int]
    operating_points: dict[str, float] | None
    sha256: str


class Models(BaseModel):
    """All served models."""

    models: list[ModelLine]


class TopFinding(BaseModel):
    """One of the first findings of a study: called ones, then by score. `over`: a model calls it; null in rows of an older version."""

    finding: str
    score: float
    over: bool | None = None


class Row(BaseModel):
    """A study in the worklist."""

    id: str
    received: str
    name: str
    patient: str
    view: str
    taken: str | None  # when the film was taken, ISO 8601 without a zone
    shifted: bool  # by a span that is the same for all films of the patient
    age: str
    sex: str
    exam: str
    position: str  # of the body, such as erect
    accession: str  # empty without --show-patient, as is the indication
    indication: str
    state: State
    error: str | None
    suspicion: float | None  # withheld until a blind first read is committed
    top: list[TopFinding]
    review: ReviewLine


class Rows(BaseModel):
    """One page of the worklist. Where `exact` is false, more than `total` studies match: they are not all counted.

    `blind`: the reader has a blind read to commit, so that the order is that of arrival.
    """

    total: int
    exact: bool = True
    blind: bool = False
    studies: list[Row]


class ScoredBox(Corners):
    """A model's box, in pixels of the image."""

    score: float | None


class FindingResult(BaseModel):
    """Score, threshold and boxes of one finding."""

    name: str
    score: float
    threshold: float | None
    over: bool
    boxes: list[ScoredBox]


class Grid(BaseModel):
    """The maps' size, and what leads from image pixels to their cells: x' = a x + b y + c, y' = d x + e y + f."""

    width: int
    height: int
    order: list[str]
    matrix: tuple[float, float, float, float, float, float]


class ModelResult(BaseModel):
    """What one model found in a study."""

    model: str
    findings: list[FindingResult]
    maps: Grid


class Window(BaseModel):
    """Center and width of a window, in levels of the image."""

    center: float
    width: float


class Values(BaseModel):
    """Level n of the pixels is the file's value zero + n step; `linear` where its windows are written as PS3.3's LINEAR."""

    zero: float = 0.0
    step: float = 1.0
    linear: bool = False


class Picture(BaseModel):
    """Size and depth of the pixels, and the window that shows them."""

    width: int
    height: int
    bits: int
    low: int
    high: int
    window: Window
    values: Values = Values()
    source: Literal["dicom", "png", "jpeg"]
    spacing: tuple[float, float] | None


class History(BaseModel):
    """The versions of a review."""

    versions: list[ReviewOut]


class Conflict(Error):
    """The answer to a review that was written on an older version."""

    current: ReviewOut


class Earlier(BaseModel):
    """An earlier image of the patient, and how many days before this one it was taken."""

    id: str
    days: int | None


class StudyOut(Row):
    """A study with its results and its review."""

    image: Picture
    results: list[ModelResult]
    findings: list[str]  # of all models, also of those with results that are withheld
    review: ReviewOut  # pyright: ignore[reportIncompatibleVariableOverride]
    prior: str | None
    priors: list[str]
    earlier: list[Earlier]
    exam_images: list[str]
    independent: bool  # whether `review` is the own read of who asks, and others' are hidden
    withheld: bool  # results are not given out before who asks has committed to a blind first read
    readers: list[ReaderLine]
    reads: list[ReadOut]  # once all of `readers` are done


class FailedUpload(BaseModel):
    """A file that was refused, and why."""

    name: str
    error: str


class Predicted(BaseModel):
    """One entry for each file, in order."""

    studies: list[StudyOut | FailedUpload]


class Accepted(BaseModel):
    """What is safe, and will be predicted: ask for each by its id."""

    studies: list[Row | FailedUpload]


class AllFailed(Error):
    """The answer where every file of a request was refused."""

    studies: list[FailedUpload]


class Token(BaseModel):
    """A token by which a caller signs in."""

    model_config = ConfigDict(extra="forbid")
    token: str = Field(max_length=512)


class Who(BaseModel):
    """The caller's name and rights."""

    name: str
    admin: bool


class Health(BaseModel):
    """The service answers, in this version."""

    status: Literal["ok"]
    version: str


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Error, "description": text}
    for code, text in {
        400: "The request is broken", 401: "No valid token", 403: "Not allowed", 404: "Not there", 405: "Not this method",
        408: "The body took too long", 413: "Too big", 415: "Not in this form", 422: "A value is not allowed",
        429: "Too much at a time; Retry-After says when", 500: "What is kept is damaged, or the service is at fault",
        503: "Not now; Retry-After says when",
    }.items()
}  # fmt: skip
