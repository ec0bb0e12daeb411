"""Datasets, from file to batch.

What `catalog.py` offers is loaded when first asked for: processes that decode or draw images import this package too, and
need neither polars nor the readers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.data.catalog import SOURCES, SourceSettings, open_source, source_settings

__all__ = ["SOURCES", "SourceSettings", "open_source", "source_settings"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("chestmap.data.catalog"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
