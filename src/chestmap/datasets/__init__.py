"""Datasets as their publishers lay them out: readers, label tables, boxes, splits, checks.

Reading images belongs in `imaging`, packing them in `packs`. Names are loaded when first used, so that `import` is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.datasets.opening import SourceSettings, open_source, source_settings
    from chestmap.datasets.registry import SOURCES

__all__ = ["SOURCES", "SourceSettings", "open_source", "source_settings"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "registry" if name == "SOURCES" else "opening"
        return getattr(import_module(f"chestmap.datasets.{home}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
