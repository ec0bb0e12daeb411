"""A dataset as JSON lines: images.jsonl with a path, a patient, and the findings that are present.

{"path": "a.png", "patient": "p1", "findings": ["Mass"], "boxes": [{"finding": "Mass", "box": [10, 10, 40, 50]}]}
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from chestmap.datasets.columns import as_images
from chestmap.datasets.layout import Layout
from chestmap.datasets.source import Source
from chestmap.errors import BadTable
from chestmap.settings import Settings
from chestmap.types import Box, Findings


class JsonLinesSettings(Settings):
    name: Literal["json_lines"] = "json_lines"
    root: Path


def read(settings: JsonLinesSettings) -> Source:
    table = settings.root / "images.jsonl"
    if not table.is_file():
        raise BadTable(f"{settings.root}: no images.jsonl; expected a line of JSON for each image")
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    findings = Findings(tuple(sorted({name for row in rows for name in row["findings"]})))
    labels = np.array([[name in row["findings"] for name in findings] for row in rows], dtype=np.int8)
    images = pl.DataFrame(
        {
            key: [row[name] for row in rows]
            for key, name in (("image_id", "path"), ("path", "path"), ("patient_id", "patient"))
        }
    )
    boxes = {row["path"]: tuple(Box(mark["finding"], *mark["box"]) for mark in row.get("boxes", ())) for row in rows}
    return Source(
        name="json_lines", findings=findings, root=settings.root, images=as_images(images), labels=labels, boxes=boxes
    )


LAYOUT = Layout(name="json_lines", title="JSON lines of the sample package", settings=JsonLinesSettings, read=read)
