"""Keeps freed memory in the process: pages taken anew for every image cost more than the arithmetic on them."""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM, PAD, MAP = -1, -2, -3
"""Options of glibc's `mallopt`: memory to keep, memory to ask for at once, size from which an array gets pages of its own."""
KEPT = 64 << 20
LARGEST = 32 << 20  # glibc takes no more


def keep_freed_memory() -> None:
    """Keeps at most `KEPT` bytes; arrays above `LARGEST` go back to the system as before. Without glibc it does nothing."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((MAP, LARGEST), (TRIM, KEPT), (PAD, 1 << 20)):
            mallopt(option, value)
