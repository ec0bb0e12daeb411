"""Gives the dates of films: true ones, or all of a patient shifted by one span."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

LONGEST_SHIFT = 3650
"""Days."""


def film_date(taken: str) -> datetime | None:
    """From a date and a time as DICOM writes them, one after the other; the time may be missing or cut off."""
    digits = taken[:14].ljust(14, "0") if taken[:14].isdigit() else taken[:8].ljust(14, "0")
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - a film's time is that of its place
    except ValueError:
        return None


def shown_date(taken: str, patient: str, key: bytes, *, true: bool) -> str:
    """ISO 8601 without a zone, empty where the film has no date. Shifted dates keep the intervals between a patient's films."""
    date = film_date(taken)
    if date is None:
        return ""
    if not true:
        digest = hmac.digest(key, b"shift " + patient.encode(), "sha256")
        date -= timedelta(days=1 + int.from_bytes(digest[:4]) % LONGEST_SHIFT)
    return date.isoformat()


def days_between(earlier: str, later: str) -> int | None:
    """Whole days by the calendar; None where a film has no date."""
    first, second = film_date(earlier), film_date(later)
    return None if first is None or second is None else (second.date() - first.date()).days
