"""Delays the answer to a wrong token: longer with each from the same address, so that guessing is slow."""

from __future__ import annotations

import time
from collections import OrderedDict

FREE = 3
"""Wrong tokens that are answered at once: a slip of the hand."""

FIRST = 0.25  # seconds
LONGEST = 8.0
FORGOTTEN = 600.0
MOST = 4096


class WrongTokens:
    """Right tokens never wait, so nobody can be locked out by others at the same address."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def delay(self, address: str) -> float:
        """Counts one more wrong token; the seconds until it may be answered."""
        now = time.monotonic()
        count, last = self._seen.pop(address, (0, now))
        count = 1 if now - last > FORGOTTEN else count + 1
        self._seen[address] = count, now
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
        return 0.0 if count <= FREE else min(LONGEST, FIRST * 2 ** min(count - FREE - 1, 16))
