"""A reader: one layout of a dataset as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.settings import Settings


@dataclass(frozen=True)
class Reader:
    """Made once at the end of a reader's file as `READER`, and listed in `datasets/registry.py`.

    `settings` have a field `name: Literal["…"]` with the reader's name, and `root`. `read(settings)` gives the tables as a `Source`.
    """

    name: str
    title: str
    settings: type[Settings]
    read: Callable[[Any], Source]
