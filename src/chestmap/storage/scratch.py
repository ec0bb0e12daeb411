"""A folder of one process on this machine, gone when the process is."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

LEFT = 3600
"""Seconds after which a folder that nobody holds was left by a process that was killed."""


class Scratch:
    """Lives as long as this object; made in `parent`, where those that killed processes left are removed."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _clear(parent)
        self.folder = Path(tempfile.mkdtemp(prefix="chestmap-sending-", dir=parent))
        held = os.open(self.folder / ".held", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        weakref.finalize(self, _remove, self.folder, held, os.getpid())


def _clear(parent: Path) -> None:
    for left in parent.glob("chestmap-sending-*"):
        with suppress(OSError):  # it is held, or of another user
            if time.time() - left.stat().st_mtime > LEFT:
                held = os.open(left / ".held", os.O_RDWR)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(held)


def _remove(folder: Path, held: int, process: int) -> None:
    """Not by a process that was forked from the one that made it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
