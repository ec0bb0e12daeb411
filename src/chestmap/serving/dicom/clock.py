"""Time as the queue counts it, though somebody sets the machine's clock."""

from __future__ import annotations

import time

ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Runs on while the machine sleeps, where there is such a clock."""


class Clock:
    """Seconds since 1970 as the machine had them at the start, or as the queue did when it last ended, if that is later.

    From there on they neither jump nor run back: a clock that is set by a day would hold results back for a day, or make
    dead letters of them.
    """

    def __init__(self, not_before: float = 0.0) -> None:
        self._offset = max(time.time(), not_before) - time.clock_gettime(ELAPSED)

    def __call__(self) -> float:
        return self._offset + time.clock_gettime(ELAPSED)
