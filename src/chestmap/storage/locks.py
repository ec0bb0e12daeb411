"""Lets one process at a time work on a folder; the lock goes with the process that holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from chestmap.errors import Refused

OFTEN = 0.02
"""Seconds between two looks at a lock that another process holds."""


def lock_of(path: Path) -> FileLock:
    """Makes a lock for processes and for threads of one process; its file stays on the disk.

    Who waits for it looks again every `OFTEN` seconds.
    """
    return FileLock(path, thread_local=False, poll_interval=OFTEN)


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, or refuse with this message where another process holds it."""
    lock = lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise Refused(refusal) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def in_turn(path: Path, tell: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for the process that holds it; `tell` is called before the wait."""
    lock = lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if tell is not None:
            tell()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
