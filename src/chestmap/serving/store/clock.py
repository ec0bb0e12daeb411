"""Tells the time: UTC as the store writes it, and seconds for waiting that ignore changes of the machine's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Runs on while the machine sleeps, where there is such a clock."""


def now() -> str:
    """The time as the store writes it: ISO 8601 in UTC with microseconds, so that texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Clock:
    """Seconds since 1970 as the machine had them at the start, or the latest that the store holds, if that is later.

    From there on they neither jump nor run back. A clock that is set by a day would hold results back for a day.
    """

    def __init__(self, not_before: float = 0.0) -> None:
        self._offset = max(time.time(), not_before) - time.clock_gettime(ELAPSED)

    def __call__(self) -> float:
        return self._offset + time.clock_gettime(ELAPSED)
