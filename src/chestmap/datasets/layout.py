"""Describes one layout of datasets: its name, its settings and the function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from chestmap.datasets.readings import Reading
    from chestmap.datasets.source import Source
    from chestmap.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Made once at the end of a layout's file as `LAYOUT`, and listed in `datasets/registry.py`.

    `settings` have a field `name: Literal["…"]` with the layout's name, and `root`. `read(settings)` gives the tables as a `Source`.
    `is_published`: there is one such dataset in the world, so that ids of two copies mean the same images. `readings(root)` gives
    the boxes of each reader, where the dataset keeps readers apart.
    """

    name: str
    title: str
    settings: type[Settings]
    read: Callable[[Any], Source]
    is_published: bool = False
    readings: Callable[[Path], Mapping[str, Mapping[str, Reading]]] | None = None
