"""Prints numbers and names of the page: three decimals without a leading zero, intervals in brackets, "n/a" for none."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib import resources

NONE = "n/a"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """.812, 1.000, −.030 or n/a."""
    if value is None:
        return NONE
    text = f"{abs(value):.{digits}f}"
    sign = MINUS if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """[.780, .841], or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def count(value: float) -> str:
    """Prints a whole number with commas."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A limit or tick as one writes it: .3, 0.25 as .25, 1, 12."""
    text = f"{value:.4g}"
    return text[1:] if text.startswith("0.") else text


def facts(rows: Mapping[str, str]) -> str:
    """The items of a definition list; keys and values are plain text."""
    return "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in rows.items())


def resource(name: str) -> str:
    """A template, style sheet or script of this package."""
    return resources.files("chestmap.reports").joinpath(name).read_text(encoding="utf-8")
