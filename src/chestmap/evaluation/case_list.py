"""Lists every boxed (image, finding) with its overlap, for pictures of hits and misses and for one's own tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from chestmap.errors import BadTable
from chestmap.evaluation.scores import Evaluation
from chestmap.storage.atomic import replacing

OVERLAPS = ("iou", "ior", "iogt")
NUMBERS: dict[str, Any] = dict.fromkeys(OVERLAPS, pl.Float64)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Overlaps of the finding's region with the union of its boxes under one geometry and threshold rule.

    IoR is the shared part of the region, IoGT that of the boxes; both are NaN where each box counts by itself.
    """

    image_id: str
    finding: str
    geometry: str
    rule: str
    iou: float
    ior: float = math.nan
    iogt: float = math.nan


def case_list(evaluation: Evaluation) -> list[Case]:
    """One for each pair, geometry and rule that fixes a threshold; for the geometry `each` one for each true box."""
    cases = evaluation.cases
    if cases is None:
        return []
    return [
        Case(
            image_id=cases.ids[image],
            finding=cases.images.names[finding],
            geometry=geometry,
            rule=rule,
            iou=iou,
            ior=ior,
            iogt=iogt,
        )
        for (geometry, rule), hits in cases.hits.items()
        for finding, image, iou, ior, iogt in zip(
            *(values.tolist() for values in (hits.finding, hits.image, hits.iou, hits.ior, hits.iogt)), strict=True
        )
    ]


def write_cases(path: Path, cases: Iterable[Case]) -> Path:
    """Write the CSV atomically."""
    schema: dict[str, Any] = {**dict.fromkeys(("image_id", "finding", "geometry", "rule"), pl.String), **NUMBERS}
    with replacing(path) as made:
        pl.DataFrame([asdict(case) for case in cases], schema=schema).write_csv(made, float_precision=6)
    return path


def read_cases(path: Path) -> list[Case]:
    """Raises `BadTable` for a file that `write_cases` did not write."""
    try:
        table = pl.read_csv(path, schema_overrides={"image_id": pl.String, "finding": pl.String, **NUMBERS})
        return [Case(**row) for row in table.to_dicts()]
    except (pl.exceptions.PolarsError, OSError, TypeError) as error:
        raise BadTable(f"{path}: cannot be read ({error.__class__.__name__}); evaluate again") from None
