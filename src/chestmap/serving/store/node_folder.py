"""Takes over the folder of a DICOM node of chestmap 0.x, which kept a queue of its own in queue.sqlite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chestmap.errors import BadInput

NAME = "queue.sqlite"


@dataclass(frozen=True)
class OldImage:
    """`instance` as the store has it: the key is the same. `path` is None where its files are gone."""

    instance: str
    finished: bool
    path: Path | None


def old_images(root: Path) -> list[OldImage]:
    """Nothing where the folder is of another kind."""
    path = root / NAME
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(path, timeout=30)) as base:
            rows = base.execute("SELECT id, state FROM image").fetchall()
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{path}: {error}; is it a queue of `chestmap node`? Move it away to begin with an empty one"
        ) from None
    return [OldImage(name.removeprefix("s-"), state == "done", _file(root, name)) for name, state in rows]


def _file(root: Path, name: str) -> Path | None:
    places = (root / "studies" / name[2:4] / name, root / "dead" / name)
    return next((path for place in places if (path := place / "image.dcm").is_file()), None)


def retire(root: Path) -> None:
    """The old queue stays under another name, and nobody reads it."""
    for ending in ("", "-wal", "-shm"):
        path = root / (NAME + ending)
        if path.exists():
            path.replace(root / f"{NAME}.migrated{ending}")


def pieces(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yields a file in pieces of `size` bytes."""
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece
