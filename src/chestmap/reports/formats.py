"""Lists the output formats of `chestmap predict --write`. Other packages add theirs by the entry point `chestmap.writers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chestmap.plugins import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from chestmap.types import Findings, Writer


@dataclass(frozen=True)
class Facts:
    """What holds for all predictions: findings, `model` (title, hash, operating points), and the file of an image where its name differs."""

    findings: Findings
    model: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def file(self, image_id: str) -> str:
        """The path by which other programs find the image."""
        return self.files.get(image_id, image_id)


@dataclass(frozen=True)
class Format:
    """Made once as a module's constant and listed in `WRITERS`; `open(folder, facts)` gives a `Writer` to be used in a `with`."""

    name: str
    title: str
    open: Callable[[Path, Facts], AbstractContextManager[Writer]]


WRITERS: Registry[Format] = Registry(
    "chestmap.writers",
    {
        "csv": "chestmap.reports.result_tables:CSV",
        "json": "chestmap.reports.result_tables:JSON",
        "coco": "chestmap.reports.result_tables:COCO",
        "yolo": "chestmap.reports.box_writers:YOLO",
        "voc": "chestmap.reports.box_writers:VOC",
        "createml": "chestmap.reports.box_writers:CREATEML",
    },
)
