"""Keeps freed memory in the process, as pages taken anew for every image cost more than the arithmetic on them; knows its lack."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
from contextlib import suppress
from pathlib import Path

from chestmap.errors import BadInput

TRIM, PAD, MAP = -1, -2, -3
"""Options of glibc's `mallopt`: memory to keep, memory to ask for at once, size from which an array gets pages of its own."""
KEPT = 64 << 20
OF_STEPS = 1 << 30  # kept between the steps of a training
LARGEST = 32 << 20  # glibc takes no more
OPENCV = -4
"""Code of OpenCV's error for a lack of memory."""
LEAST = 128 << 20
"""Bytes of address space to begin with; with 50 MB libraries in Rust wait for threads that got none, or abort."""


def keep_freed_memory(kept: int = KEPT) -> None:
    """Keeps at most so many bytes; arrays above `LARGEST` go back to the system as before. Without glibc it does nothing."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((MAP, LARGEST), (TRIM, kept), (PAD, 1 << 20)):
            mallopt(option, value)


def keep_memory_of_steps() -> None:
    """Keeps what a training step frees and asks for large tensors in huge pages: pages of 4 KiB cost up to a third of a step."""
    keep_freed_memory(OF_STEPS)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it makes its first tensor


def is_lack_of_memory(error: BaseException) -> bool:
    """Tells whether this program is short of memory, which no image is at fault for; a process that decodes has bounds of its own."""
    short = getattr(error, "errno", 0) == errno.ENOMEM or getattr(error, "code", 0) == OPENCV
    return (isinstance(error, MemoryError) or short) and multiprocessing.parent_process() is None


def require_address_space(least: int = LEAST) -> None:
    """Refuses to begin where a limit of address space (`ulimit -v`) leaves too little."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_AS, getpagesize, getrlimit

        limit, pages = getrlimit(RLIMIT_AS)[0], int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):  # a system that counts no address space
        return
    left = limit - pages * getpagesize()
    if limit != RLIM_INFINITY and left < least:
        raise BadInput(
            f"{max(left, 0) >> 20} MB of address space are left under the limit; at least {least >> 20} MB are needed to begin: "
            "raise the limit (ulimit -v)"
        )
