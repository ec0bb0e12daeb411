"""Passes over the maps: every (image, finding) with boxes at every threshold, then regions of absent findings.

Maps are read from the predictions folder in chunks, so memory does not grow with the number of images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.maps.comparison_space import Surface, Workspace, sampler
from chestmap.evaluation.maps.map_overlap import (
    BOX_LEVELS,
    MASK_LEVELS,
    PairOverlap,
    absent_regions,
    overlap_of_pair,
    ranked_regions,
)
from chestmap.evaluation.maps.overlap import areas, as_array, clipped, ious
from chestmap.evaluation.truth import Alignment, Truth
from chestmap.predictions.folder import OwnRule, Predictions
from chestmap.types import Frame

Presets = Mapping[str, Callable[["Map"], np.ndarray]]
"""What each preset notes of one map: a row of numbers, equally long for all maps."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Map:
    """One raw map with the boxes of its finding (image pixels, inside the image) as presets see it."""

    values: np.ndarray
    frame: Frame
    boxes: Float[np.ndarray, "box 4"]
    score: float
    work: Workspace


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How maps are read. `met` is the IoU with which a region meets a box, `negatives` how many images are read for a finding
    where it is absent, at most.
    """

    surface: Surface
    own: OwnRule
    met: float = 0.3
    negatives: int = 2000
    workers: int = 2
    chunk: int = 64
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pairs:
    """One row for each (image, finding); `finding` and `image` index the alignment's findings and the truth's images."""

    finding: Int[np.ndarray, "pair"]
    image: Int[np.ndarray, "pair"]
    score: Float[np.ndarray, "pair"]


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxedPairs(_Pairs):
    """Those with boxes.

    `box_pair` and `each` have one row for each true box. See PairOverlap for the rest.
    """

    area: Int[np.ndarray, "pair column"]
    inside: Int[np.ndarray, "pair column"]
    ground: Int[np.ndarray, "pair"]
    best: Float[np.ndarray, "pair 6 boxcolumn"]
    pointed: Float[np.ndarray, "pair"]
    box_pair: Int[np.ndarray, "box"]
    each: Float[np.ndarray, "box boxcolumn"]
    found: Float[np.ndarray, "box boxcolumn"]
    noted: Mapping[str, np.ndarray] = field(default_factory=dict)  # preset: [pair, …]

    def __len__(self) -> int:
        return len(self.finding)


@dataclass(frozen=True, eq=False, kw_only=True)
class AbsentPairs(_Pairs):
    """Those that were looked at and where the finding is labelled absent.

    `counts` are regions at each of the thresholds given; `region_row` and `confidence` have one row for each region at the last.
    """

    counts: Float[np.ndarray, "pair threshold"]
    region_row: Int[np.ndarray, "region"]
    confidence: Float[np.ndarray, "region"]


Thresholds = Callable[[int, int], tuple[float, ...]]
"""The thresholds at which regions are counted in an image (of the truth) where a finding (of the alignment) is absent."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RankedPairs(_Pairs):
    """Those with boxes: the confidence of each region at one threshold, and their IoU with the boxes, [region, box]."""

    confidence: tuple[np.ndarray, ...]
    ious: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class _Job:
    image: int  # of the truth
    finding: int  # of the alignment
    column: int  # of the predictions
    boxes: np.ndarray  # [0, 4] where the finding is absent


@dataclass(frozen=True, eq=False, kw_only=True)
class _ImageResult:
    job: _Job
    score: float
    overlap: PairOverlap | None = None
    noted: Mapping[str, np.ndarray] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    confidence: np.ndarray = field(default_factory=lambda: np.empty(0))
    ious: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


_Item = tuple[np.ndarray, Frame, np.ndarray, list[_Job]]  # maps and scores of one image


class _Worker:
    """Looks at the maps of one image; each thread has its own workspace."""

    def __init__(self, how: Pass, presets: Presets, thresholds: Thresholds, *, ranked: bool = False) -> None:
        self.how, self.presets, self.thresholds, self.local = how, presets, thresholds, threading.local()
        self.ranked = ranked  # whether regions are kept one by one instead of measured at all thresholds

    def __call__(self, item: _Item) -> list[_ImageResult]:
        if not hasattr(self.local, "work"):
            self.local.work = Workspace()
        maps, frame, scores, jobs = item
        return [self._examine(np.asarray(maps[job.column]), frame, float(scores[job.column]), job) for job in jobs]

    def _examine(self, values: np.ndarray, frame: Frame, score: float, job: _Job) -> _ImageResult:
        how, work = self.how, self.local.work
        levels = sampler(how.surface, frame, values.shape, work).levels(values, normalize=how.own.normalize)
        if not len(job.boxes):
            counts, confidence = absent_regions(levels, self.thresholds(job.image, job.finding))
            return _ImageResult(job=job, score=score, counts=tuple(counts), confidence=confidence)
        size = how.surface.size(frame)
        boxes = clipped(how.surface.place(job.boxes, frame), *size)
        if self.ranked:
            found, confidence = ranked_regions(levels, self.thresholds(job.image, job.finding)[-1])
            return _ImageResult(job=job, score=score, confidence=confidence, ious=ious(found, boxes))
        overlap = overlap_of_pair(levels, boxes, (how.own.threshold, how.met), work, size)
        seen = Map(values=values, frame=frame, boxes=job.boxes, score=score, work=work)
        return _ImageResult(
            job=job, score=score, overlap=overlap, noted={name: note(seen) for name, note in self.presets.items()}
        )


def look_at_pairs(
    predictions: Predictions, truth: Truth, alignment: Alignment, how: Pass, presets: Presets | None = None
) -> tuple[BoxedPairs, int]:
    """Every (image, finding) with boxes; and the number of boxes that lie outside their image and are left out."""
    jobs, lost = _boxed(predictions, truth, alignment)
    return _pairs(_examined(predictions, jobs, how, _Worker(how, presets or {}, lambda *_: ()))), lost


def look_at_absent(
    predictions: Predictions, truth: Truth, alignment: Alignment, how: Pass, thresholds: Thresholds
) -> AbsentPairs:
    """Images where a finding that has boxes somewhere is labelled absent: all, or a choice of `how.negatives` that depends on
    the seed alone.
    """
    jobs = _absent_jobs(truth, alignment, how)
    return _absent(_examined(predictions, jobs, how, _Worker(how, {}, thresholds)))


def look_at_ranked(
    predictions: Predictions, truth: Truth, alignment: Alignment, how: Pass, thresholds: Thresholds
) -> RankedPairs:
    """The regions of every (image, finding) with boxes, at the last of the thresholds."""
    jobs, _ = _boxed(predictions, truth, alignment)
    seen = _examined(predictions, jobs, how, _Worker(how, {}, thresholds, ranked=True))
    return RankedPairs(
        finding=np.array([one.job.finding for one in seen], dtype=np.int64),
        image=np.array([one.job.image for one in seen], dtype=np.int64),
        score=np.array([one.score for one in seen], dtype=np.float64),
        confidence=tuple(one.confidence for one in seen),
        ious=tuple(one.ious for one in seen),
    )


def _examined(predictions: Predictions, jobs: Mapping[int, list[_Job]], how: Pass, worker: _Worker) -> list[_ImageResult]:
    seen: list[_ImageResult] = []
    with _one_thread_each(), ThreadPoolExecutor(max(1, how.workers)) as pool:
        for items in _read(predictions, jobs, how.chunk):
            for found in pool.map(worker, items):
                seen += found
    return sorted(seen, key=lambda one: (one.job.finding, one.job.image))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """OpenCV's own threads would only get into the way of ours."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _boxed(predictions: Predictions, truth: Truth, alignment: Alignment) -> tuple[dict[int, list[_Job]], int]:
    """Jobs by row of the predictions, and the number of boxes outside their image."""
    jobs: dict[int, list[_Job]] = {}
    sizes, lost = predictions.table.select("width", "height").to_numpy().astype(np.float64), 0
    place = {name: index for index, name in enumerate(alignment.findings)}
    for image, image_id in enumerate(truth.ids):
        row, boxes = int(alignment.rows[image]), truth.boxes.get(image_id, ())
        for name in dict.fromkeys(box.finding for box in boxes if box.finding in place):
            given = as_array([box for box in boxes if box.finding == name])
            inside = clipped(given, *sizes[row])
            inside = inside[areas(inside) > 0]
            lost += len(given) - len(inside)
            if len(inside):
                jobs.setdefault(row, []).append(_Job(image, place[name], int(alignment.predicted[place[name]]), inside))
    return jobs, lost


def _absent_jobs(truth: Truth, alignment: Alignment, how: Pass) -> dict[int, list[_Job]]:
    """Chosen by the seed among the images of each finding, so that two models are read on the same ones."""
    jobs: dict[int, list[_Job]] = {}
    chosen = np.random.default_rng(how.seed)
    for finding, name in enumerate(alignment.findings):
        if name not in truth.boxed:
            continue
        with_box = [any(box.finding == name for box in truth.boxes.get(image_id, ())) for image_id in truth.ids]
        absent = np.flatnonzero((truth.labels[:, alignment.known[finding]] == 0) & ~np.array(with_box))
        for image in np.sort(chosen.permutation(absent)[: how.negatives]).tolist():
            job = _Job(image, finding, int(alignment.predicted[finding]), np.empty((0, 4)))
            jobs.setdefault(int(alignment.rows[image]), []).append(job)
    return jobs


def _read(predictions: Predictions, jobs: Mapping[int, list[_Job]], size: int) -> Iterator[list[_Item]]:
    first = 0
    for chunk in predictions.chunks(size):
        rows = [row for row in range(len(chunk)) if first + row in jobs]
        yield [(chunk.maps[row], chunk.frames[row], chunk.scores[row], jobs[first + row]) for row in rows]
        first += len(chunk)


def _pairs(seen: list[_ImageResult]) -> BoxedPairs:
    """Columns of all pairs, in the order of findings, then images."""
    overlaps = [one.overlap for one in seen if one.overlap is not None]
    columns = (1 + len(MASK_LEVELS), 1 + len(BOX_LEVELS))

    def stacked(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return np.stack(arrays) if arrays else np.empty((0, *shape))

    def joined(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.empty((0, *shape)), *arrays])

    return BoxedPairs(
        finding=np.array([one.job.finding for one in seen], dtype=np.int64),
        image=np.array([one.job.image for one in seen], dtype=np.int64),
        score=np.array([one.score for one in seen], dtype=np.float64),
        area=stacked([one.area for one in overlaps], (columns[0],)).astype(np.int64),
        inside=stacked([one.inside for one in overlaps], (columns[0],)).astype(np.int64),
        ground=np.array([one.ground for one in overlaps], dtype=np.int64),
        best=stacked([one.best for one in overlaps], (6, columns[1])),
        pointed=np.array([one.pointed for one in overlaps], dtype=np.float64),
        box_pair=np.repeat(np.arange(len(seen)), [len(one.job.boxes) for one in seen]).astype(np.int64),
        each=joined([one.each for one in overlaps], (columns[1],)),
        found=joined([one.found for one in overlaps], (columns[1],)),
        noted={name: np.stack([one.noted[name] for one in seen]) for name in (seen[0].noted if seen else ())},
    )


def _absent(seen: list[_ImageResult]) -> AbsentPairs:
    return AbsentPairs(
        finding=np.array([one.job.finding for one in seen], dtype=np.int64),
        image=np.array([one.job.image for one in seen], dtype=np.int64),
        score=np.array([one.score for one in seen], dtype=np.float64),
        counts=np.array([one.counts for one in seen], dtype=np.float64).reshape(len(seen), -1 if seen else 1),
        region_row=np.repeat(np.arange(len(seen)), [len(one.confidence) for one in seen]).astype(np.int64),
        confidence=np.concatenate([np.empty(0), *(one.confidence for one in seen)]),
    )
