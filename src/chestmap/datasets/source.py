"""A source: the images, labels and boxes of one dataset, as columns.

The layouts in `registry.py` make one from their publisher's files; nothing here opens an image
until an example is asked for, so 112,120 rows cost a few megabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float32, Int8

from chestmap.errors import BadTable
from chestmap.imaging.read import read_radiograph
from chestmap.types import Box, Example, Findings

UNKNOWN = -1
"""How an unknown label is stored in `Source.labels`; examples and batches carry NaN."""

COLUMNS = {
    "image_id": pl.String,  # unique; what every later file calls the image
    "patient_id": pl.String,
    "path": pl.String,  # relative to the root, or absolute
    "view": pl.String,  # PA, AP, LATERAL or ""
    "age": pl.Float32,  # years, null where not given
    "sex": pl.String,  # F, M or ""
    "width": pl.Float32,  # size of image space, in which boxes are given; null: the stored pixels' own size
    "height": pl.Float32,
}


Level = Literal["note", "repaired", "error"]


@dataclass(frozen=True)
class Problem:
    """Something a reader noticed: `repaired` and `note` are information, `error` makes `data check` fail."""

    level: Level
    kind: str  # a few fixed words, so that problems can be counted: "label spelling", "missing file"
    message: str  # what came, where; one line
    count: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Rows of `images` and `labels` belong together; boxes are found by image id, in image pixels.

    Examples:
        >>> import chestmap
        >>> source = chestmap.Source.open("folder", "films", labels="labels.csv", boxes="boxes.csv")
        >>> len(source), source.findings.names
        (40, ('Effusion', 'Mass', 'Nodule'))
    """

    name: str
    findings: Findings
    root: Path
    images: pl.DataFrame
    labels: Int8[np.ndarray, "image finding"]  # 0, 1 or UNKNOWN
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the publisher's own lists of image ids
    problems: tuple[Problem, ...] = ()
    soft: Float32[np.ndarray, "image finding"] | None = None  # what training sees in place of a label; NaN: the label itself

    def __post_init__(self) -> None:
        if dict(self.images.schema) != COLUMNS or len(self.images) != len(self.labels):
            raise BadTable(
                f"{self.name}: columns {dict(self.images.schema)} with {len(self.labels)} label rows; expected {COLUMNS}"
            )

    @classmethod
    def open(cls, reader: str, root: Path | str, **settings: Any) -> Source:
        """Reads a dataset by the name of its layout: one of `SOURCES`, or a plug-in's; opens no image.

        A table of labels or boxes may be a frame of polars or pandas in place of a file.
        """
        from chestmap.datasets.opening import open_source, source_settings, tables_as_files

        with tables_as_files(settings) as named:
            return open_source(source_settings({"name": reader, "root": str(root), **named}))

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of the rows."""
        return tuple(self.images["image_id"])

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row numbers by image id."""
        return {image_id: row for row, image_id in enumerate(self.ids)}

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Row numbers of image ids; an unknown id is an error that names it."""
        ids = list(ids)
        missing = [image_id for image_id in ids if image_id not in self.row_of]
        if missing:
            raise BadTable(f"{self.name}: {len(missing)} listed images are not in the table, the first is {missing[0]}")
        return np.array([self.row_of[image_id] for image_id in ids], dtype=np.int64)

    def path(self, row: int) -> Path:
        """The file of an image; it need not be there."""
        return self.root / self.images["path"][row]

    def known_labels(self, rows: np.ndarray | None = None) -> Float32[np.ndarray, "image finding"]:
        """Labels as 0, 1 and NaN; a soft label lies between 0 and 1."""
        chosen = slice(None) if rows is None else rows
        labels = self.labels[chosen].astype(np.float32)
        labels[labels == UNKNOWN] = np.nan
        return labels if self.soft is None else np.where(np.isnan(self.soft[chosen]), labels, self.soft[chosen])

    def __getitem__(self, row: int) -> Example:
        image = self.images.row(row, named=True)
        radiograph = replace(
            read_radiograph(self.path(row)), image_id=image["image_id"], patient_id=image["patient_id"], view=image["view"]
        )
        if image["width"] is not None:
            radiograph = replace(radiograph, size=(image["width"], image["height"]))
        return Example(radiograph, self.known_labels(np.array([row]))[0], self.boxes.get(image["image_id"], ()))

    def select(self, rows: np.ndarray) -> Source:
        """The same source with fewer images, in the order given; the publisher's lists shrink with it."""
        images = self.images[rows]
        kept = set(images["image_id"])
        return replace(
            self,
            images=images,
            labels=self.labels[rows],
            soft=None if self.soft is None else self.soft[rows],
            boxes={image_id: boxes for image_id, boxes in self.boxes.items() if image_id in kept},
            lists={name: tuple(one for one in ids if one in kept) for name, ids in self.lists.items()},
        )

    @cached_property
    def fingerprint(self) -> str:
        """Changes when an image id, patient, label or box changes; not when the folder moves."""
        digest = hashlib.sha256("|".join(self.findings.names).encode())
        digest.update("\n".join(self.images["image_id"] + "," + self.images["patient_id"]).encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update(b"" if self.soft is None else np.ascontiguousarray(self.soft).tobytes())
        for image_id in sorted(self.boxes):
            digest.update(repr((image_id, [(box.finding, *box.corners) for box in self.boxes[image_id]])).encode())
        return digest.hexdigest()[:16]
