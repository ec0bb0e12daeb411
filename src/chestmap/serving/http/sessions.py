"""Keeps the sessions of the page: a random id in a cookie, known to this process alone until it ends."""

from __future__ import annotations

import secrets
import threading
import time
from hashlib import sha256

SECONDS = 12 * 3600
MOST = 10_000
MOST_OF_TOKEN = 64


class Sessions:
    """Keeps digests, so that what is in memory opens nothing. For any number of threads."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, float]] = {}  # digest of the id to digest of the token and end; oldest first
        self._lock = threading.Lock()

    def begin(self, token: bytes) -> str:
        """A new id for the owner of the token with this digest; where there are many, the oldest ends."""
        value = secrets.token_urlsafe(32)
        with self._lock:
            now = time.time()
            self._known = {one: found for one, found in self._known.items() if found[1] > now}
            own = [one for one, found in self._known.items() if found[0] == token]
            too_many = own[: max(0, len(own) - MOST_OF_TOKEN + 1)]
            for one in [*too_many, *list(self._known)[: max(0, len(self._known) - MOST + 1)]]:
                self._known.pop(one, None)
            self._known[_digest(value)] = token, now + SECONDS
        return value

    def token_of(self, value: str) -> bytes | None:
        """The digest of the token with which a session began; None for what is none, or is over."""
        found = self._known.get(_digest(value))
        return found[0] if found and time.time() < found[1] else None

    def end(self, value: str) -> None:
        """Forgets the session of a cookie's value; an unknown value is no error."""
        with self._lock:
            self._known.pop(_digest(value), None)


def _digest(value: str) -> bytes:
    return sha256(value.encode("utf-8", "surrogateescape")).digest()
