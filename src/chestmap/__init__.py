"""chestmap: which findings a chest X-ray shows, and where."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chestmap.inference.predictor import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` brings torch with it, so it waits until it is asked for."""
    if name == "load":
        from chestmap.inference.predictor import load

        return load
    raise AttributeError(f"module {__name__} has no attribute {name}")
