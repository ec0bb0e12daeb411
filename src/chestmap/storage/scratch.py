"""A folder of one process on this machine, gone when the process is."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from chestmap.errors import Refused
from chestmap.storage.locks import exclusive, lock_of

LEFT = 3600
"""Seconds after which a folder that nobody holds was left by a process that was killed."""


class Scratch:
    """Lives as long as this object; made in `parent`, where those that killed processes left are removed."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _clear(parent)
        self.folder = Path(tempfile.mkdtemp(prefix="chestmap-sending-", dir=parent))
        held = lock_of(self.folder / ".held")
        held.acquire()
        weakref.finalize(self, _remove, self.folder, held, os.getpid())


def _clear(parent: Path) -> None:
    for left in parent.glob("chestmap-sending-*"):
        with suppress(OSError, Refused):  # it is held, or of another user
            if time.time() - left.stat().st_mtime > LEFT:
                with exclusive(left / ".held", "in use"):
                    shutil.rmtree(left, ignore_errors=True)


def _remove(folder: Path, held: FileLock, process: int) -> None:
    """Not by a process that was forked from the one that made it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
        held.release()
