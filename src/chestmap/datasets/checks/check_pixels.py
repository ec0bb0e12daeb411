"""What one image file holds; apart from the rest of the check, so that its processes start without polars."""

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from chestmap.errors import BadImage
from chestmap.imaging.brightness import seems_inverted
from chestmap.imaging.read import read_radiograph


class FileContent(NamedTuple):
    """What one file holds: a hash of its pixels and their size, or why it cannot be read."""

    digest: bytes = b""
    width: int = 0
    height: int = 0
    wrong: str = ""
    inverted: bool = False  # black and white look exchanged


def look_at(path: Path) -> FileContent:
    """Opens one image and gives its size, a hash of its pixels, and what is wrong with it; never raises for a bad file."""
    try:
        pixels = read_radiograph(path).pixels
    except BadImage as error:
        return FileContent(wrong=str(error))
    except (OSError, MemoryError) as error:
        return FileContent(wrong=f"{path}: {type(error).__name__}; it needs more memory or another disk")
    height, width = pixels.shape
    return FileContent(blake2b(pixels.tobytes(), digest_size=16).digest(), width, height, inverted=seems_inverted(pixels))
