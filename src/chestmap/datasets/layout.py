"""Describes one layout of datasets: its name, its settings and the function that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.settings import Settings


@dataclass(frozen=True)
class Layout:
    """Made once at the end of a layout's file as `LAYOUT`, and listed in `datasets/registry.py`.

    `settings` have a field `name: Literal["…"]` with the reader's name, and `root`. `read(settings)` gives the tables as a `Source`.
    """

    name: str
    title: str
    settings: type[Settings]
    read: Callable[[Any], Source]
