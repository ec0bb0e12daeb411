"""Writes files and folders that are there whole or not at all.

Content goes to a name next to the final one, reaches the disk, and is renamed. A killed process leaves `NAME.<random>.part`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from chestmap.errors import BadInput

if TYPE_CHECKING:
    from chestmap.settings import Settings

PART = ".part"
"""Ends the name of what is not finished."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and give it the name `path` when the block ends without an error.

    The content is synced before the rename, the folder after it. After an error the unfinished file is removed.
    """
    made = path.with_name(f"{path.name}.{token_hex(4)}{PART}")
    try:
        yield made
        sync(made)
        made.replace(path)
        sync(path.parent)
    finally:
        made.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file that is there whole or not at all, also after a power cut."""
    with replacing(path) as made:
        made.write_bytes(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files as `write_bytes` does, all before the first sync: a journal then takes them at once.

    Each file is whole or as it was. They are renamed one after the other, so a crash may leave some new and others
    old.
    """
    made = {path: path.with_name(f"{path.name}.{token_hex(4)}{PART}") for path in contents}
    try:
        for path, part in made.items():
            part.write_bytes(contents[path])
        for part in made.values():
            sync(part)
        for path, part in made.items():
            part.replace(path)
        for folder in {path.parent for path in made}:
            sync(folder)
    finally:
        for part in made.values():
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes JSON as `write_bytes` does; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_toml(path: Path, settings: Settings) -> None:
    """The effective settings; a key without a value is left out, as TOML has no null."""
    import tomli_w

    write_text(path, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)))


@contextmanager
def making_folder(path: Path, mark: str = "") -> Iterator[Path]:
    """Yield an empty folder next to `path`, and give it that name when the block ends; what was there goes.

    An unfinished one is removed first. With a `mark` several processes may make the same folder.
    """
    made = path.with_name(f"{path.name}.making{mark}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        publish(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def publish(made: Path, path: Path) -> None:
    """Give a finished folder its name, with all of its files on the disk.

    A folder of that name is removed just before; a process killed in between leaves none of that name.
    """
    for entry in (*sorted(made.rglob("*"), reverse=True), made):
        sync(entry)
    if path.exists():
        shutil.rmtree(path)
    made.replace(path)
    sync(path.parent)


def sweep(folder: Path, older: float = 0.0) -> None:
    """Remove unfinished files of killed processes, at and below a folder, where they are so many seconds old."""
    for left in folder.rglob(f"*{PART}"):
        with suppress(FileNotFoundError):
            if left.is_file() and time.time() - left.stat().st_mtime >= older:
                left.unlink()


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(opened)


def cannot_write(target: Path, error: OSError) -> BadInput:
    """Say what the user can do: make room, or choose another folder."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    todo = "make room and run again: finished images are kept" if full else "choose a folder that can be written"
    return BadInput(f"{target}: {error.strerror or error}; {todo}")
