"""Writes labels and boxes that people gave images as a folder that `folder.py` reads: labels.csv, boxes.json, images.

Annotation programs, reviews and datasets meet here; `formats.py` has the programs' own forms.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from chestmap.datasets.coco import coco_tree
from chestmap.datasets.columns import WIDEST
from chestmap.errors import BadBox, BadInput
from chestmap.types import Box, Findings

LABELS, BOXES = "labels.csv", "boxes.json"


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """One image; a finding that `labels` does not name is unknown, never absent. Boxes are in pixels of an image of `size`."""

    image: str  # as tables name it: a path from the folder, with /
    size: tuple[float, float]
    labels: Mapping[str, bool] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    patient: str = ""
    view: str = ""


@dataclass
class SetAside:
    """What of a file could not be used, a line each."""

    file: str
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Keeps a line about something that could not be read; the import goes on."""
        self.lines.append(f"{self.file}: {line}; set aside")


def size_of(width: Any, height: Any) -> tuple[float, float]:
    """Width and height of an image as a file gives them; a `BadBox` for what is no number of pixels."""
    try:
        size = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        size = 0.0, 0.0
    if not all(1 <= side <= WIDEST for side in size):
        raise BadBox(f"an image of {width!r:.20} x {height!r:.20} pixels; expected 1 to {WIDEST:,}")
    return size


def write_tables(folder: Path, findings: Findings, images: Sequence[AnnotatedImage]) -> None:
    """An image without a named patient counts as one."""
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient_id", "view", *findings])
        for one in images:
            cells = ("" if (said := one.labels.get(name)) is None else int(said) for name in findings)
            table.writerow([one.image, one.patient or one.image, one.view, *cells])
    tree = coco_tree(findings, [(one.image, one.size, one.boxes) for one in images])
    (folder / BOXES).write_text(json.dumps(tree, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes its name when it is whole; one that is there and holds something is refused.

    Only its owner may read it: images of patients come in.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(f"{out}: is there already; give a new folder, one for each time")
    making = out.absolute().with_name(f"{out.name}.making-{token_hex(4)}")
    making.mkdir(mode=0o700, parents=True)
    try:
        yield making
        making.replace(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def place_image(original: Path, target: Path, *, copy: bool = False) -> None:
    """A hard link, which takes no room and outlives the original; a copy where asked for, or on another disk."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(original, target)
        except FileNotFoundError:
            raise
        except OSError:
            copy = True
    if copy:
        shutil.copyfile(original, target)
