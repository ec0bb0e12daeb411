"""What each reader drew of an image, where a dataset keeps readers apart: VinDr-CXR's table, and reviews.jsonl of a reviewed folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chestmap.errors import BadTable
from chestmap.types import Box

REVIEWS = "reviews.jsonl"


@dataclass(frozen=True)
class Reading:
    """The boxes of one reader in one image. `judged` are the findings that the reader looked for; None means all."""

    boxes: tuple[Box, ...] = ()
    judged: frozenset[str] | None = None

    def looked_for(self, finding: str) -> bool:
        """Whether the reader judged this finding at all; without a list, every finding."""
        return self.judged is None or finding in self.judged


def reviewed_readings(root: Path) -> dict[str, dict[str, Reading]]:
    """Readings by image and reviewer, of images that several people reviewed; empty where there is no reviews.jsonl."""
    path = root / REVIEWS
    if not path.is_file():
        return {}
    found: dict[str, dict[str, Reading]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTable(f"{path}: cannot be read ({error.__class__.__name__}); export the reviews again") from None
    for number, line in enumerate(lines, start=1):
        try:
            origin = json.loads(line)
            found[str(origin["image"])] = {name: _reading(said) for name, said in origin.get("readings", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadTable(f"{path}: line {number} is no review; export the reviews again") from None
    return {image: readings for image, readings in found.items() if readings}


def _reading(said: Mapping[str, Any]) -> Reading:
    boxes = (Box(name, *map(float, corners)) for name, several in said.items() for corners in several)
    return Reading(tuple(boxes), frozenset(said))
