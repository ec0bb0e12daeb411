"""What a source holds and what is wrong with it: counts, missing and unreadable files, repeated images, leaks.

Three depths: the tables alone (a second for ChestX-ray14), whether each file is there, and every image opened. A value that a
reader could mend is no failure; a lost row, a missing file, or a patient on two sides is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np

from chestmap.datasets.checks.check_files import look_at_pixels, look_for_files
from chestmap.datasets.source import UNKNOWN, Level, Problem, Source


@runtime_checkable
class Parts(Protocol):
    """A split, as far as a check needs to know it."""

    @property
    def name(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def shares_patients(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class FindingCount:
    """Images by label, the finding's boxes, and what makes boxes hard to score."""

    finding: str
    positive: int
    negative: int
    unknown: int
    boxes: int
    boxed_images: int
    many_boxes: int  # images with more than one box of it
    labeled_unboxed: int  # images with some box, labeled with this finding, which no box marks
    boxed_unlabeled: int  # images with a box of it where the label is not positive


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """One part of a split, or one of the publisher's lists."""

    split: str
    part: str
    images: int
    patients: int
    boxed_images: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a check found, for a terminal (`check_tables.render`), for JSON (`as_dict`) and for an exit code (`failed`)."""

    source: str
    root: str
    fingerprint: str
    images: int
    patients: int
    boxes: int
    boxed_images: int
    views: Mapping[str, int]
    findings: tuple[FindingCount, ...]
    parts: tuple[PartCount, ...]
    problems: tuple[Problem, ...]
    looked: str  # how far the check went: "tables", "files" or "pixels"

    @property
    def labeled_unboxed(self) -> int:
        """Labeled findings without a box on images that have boxes; no false positive may be counted there."""
        return sum(count.labeled_unboxed for count in self.findings)

    @property
    def failed(self) -> bool:
        """Whether something is wrong; what a reader could repair is not."""
        return any(problem.level == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"labeled_unboxed": self.labeled_unboxed, "failed": self.failed}


def check(
    source: Source,
    splits: Iterable[Parts] = (),
    *,
    files: bool = True,
    decode: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Counts and problems; `files` looks whether every image is there, `decode` opens each and compares their pixels.

    The publisher's own lists are checked as a split that promises whole patients. `workers` are the processes that decode, all
    cores by default.
    """
    splits = tuple(splits)
    published = [Published(source.lists)] if source.lists else []
    problems = [*source.problems, *_repeated_ids(source), *leaks_told(source, (*published, *splits))]
    if files or decode:
        present, told = look_for_files(source, progress=progress)
        problems += told
        if decode:
            problems += look_at_pixels(source, present, workers=workers, progress=progress)
    views = source.images["view"].value_counts(sort=True)
    return Report(
        source=source.name,
        root=str(source.root),
        fingerprint=source.fingerprint,
        images=len(source),
        patients=source.images["patient_id"].n_unique(),
        boxes=sum(map(len, source.boxes.values())),
        boxed_images=len(source.boxes),
        views={view or "unknown": count for view, count in views.iter_rows()},
        findings=_findings(source),
        parts=tuple(_parts(source, (*published, *splits))),
        problems=tuple(problems),
        looked="pixels" if decode else "files" if files else "tables",
    )


@dataclass(frozen=True)
class Published:
    """The publisher's own lists, held to whole patients."""

    parts: Mapping[str, tuple[str, ...]]
    name: str = "published lists"
    shares_patients: bool = False


def _findings(source: Source) -> tuple[FindingCount, ...]:
    """A finding that no box of the source marks cannot be missing one: only eight of ChestX-ray14's fourteen are boxed."""
    marks = np.zeros((len(source), len(source.findings)), dtype=np.int32)
    column_of = {name: column for column, name in enumerate(source.findings)}
    for image, boxes in source.boxes.items():
        row = source.row_of[image]
        for box in boxes:
            marks[row, column_of[box.finding]] += 1
    with_boxes = marks.any(axis=1, keepdims=True)
    boxed_at_all = marks.any(axis=0)
    columns = {
        "positive": source.labels == 1,
        "negative": source.labels == 0,
        "unknown": source.labels == UNKNOWN,
        "boxes": marks,
        "boxed_images": marks > 0,
        "many_boxes": marks > 1,
        "labeled_unboxed": (source.labels == 1) & with_boxes & (marks == 0) & boxed_at_all,
        "boxed_unlabeled": (marks > 0) & (source.labels != 1),
    }
    sums = {name: column.sum(axis=0).tolist() for name, column in columns.items()}
    each = (dict(zip(sums, counts, strict=True)) for counts in zip(*sums.values(), strict=True))
    return tuple(FindingCount(finding=name, **counts) for name, counts in zip(source.findings, each, strict=True))


def _repeated_ids(source: Source) -> list[Problem]:
    """Readers give unique ids; a source made by hand may not, and then rows cannot be found by id."""
    if not (again := len(source) - len(source.row_of)):
        return []
    first = source.images.filter(source.images["image_id"].is_duplicated())["image_id"][0]
    return [Problem("error", "repeated image", f"{first} stands more than once among the images ({again:,} in all)", again)]


def _patient_of(source: Source) -> dict[str, str]:
    return dict(zip(source.ids, source.images["patient_id"], strict=True))


def _parts(source: Source, splits: Iterable[Parts]) -> Iterator[PartCount]:
    patient_of = _patient_of(source)
    for split in splits:
        for part, ids in split.parts.items():
            patients = {patient_of[one] for one in ids if one in patient_of}
            yield PartCount(
                split=split.name,
                part=part,
                images=len(ids),
                patients=len(patients),
                boxed_images=sum(one in source.boxes for one in ids),
            )


def leaks_told(source: Source, splits: Iterable[Parts]) -> list[Problem]:
    """Images and patients on two sides; where a split declares shared patients, that is only noted."""
    problems = []
    patient_of = _patient_of(source)
    for split in splits:
        level: Level = "note" if split.shares_patients else "error"
        listed = {part: set(ids) for part, ids in split.parts.items()}
        patients = {part: {patient_of[one] for one in ids if one in patient_of} for part, ids in listed.items()}
        for part, ids in listed.items():
            if foreign := ids - source.row_of.keys():
                message = (
                    f"{split.name}: {part} names {len(foreign):,} images that are not in the table, such as {min(foreign)}"
                )
                problems.append(Problem("error", "foreign image", message, len(foreign)))
        for one, other in combinations(listed, 2):
            if images := listed[one] & listed[other]:
                message = f"{split.name}: {len(images):,} images are in both {one} and {other}, such as {min(images)}"
                problems.append(Problem(level, "shared image", message, len(images)))
            if shared := patients[one] & patients[other]:
                message = f"{split.name}: {len(shared):,} patients are in both {one} and {other}, such as {min(shared)}"
                problems.append(Problem(level, "shared patient", message, len(shared)))
    return problems
