"""From file to radiograph."""

from pathlib import Path

from chestmap.types import Radiograph


def read_radiograph(path: Path) -> Radiograph:
    raise NotImplementedError(path)
