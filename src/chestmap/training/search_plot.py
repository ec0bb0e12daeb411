"""Draws a search as SVG: the scores in their order with the best so far, and the scores over each setting.

`search.py` calls it at the end of a search. Numbers that span more than two decades get a logarithmic axis; anything but
numbers lies side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN, GAP = 300, 200, 46, 16
INK, DOT, BEST = "#333", "#3b6ea5", "#c0392b"


def draw_search(trials: Sequence[tuple[float, Mapping[str, Any]]], keys: Sequence[str]) -> str:
    """`trials` in their order: score, of which more is better, and settings."""
    scores = [score for score, _ in trials]
    panels = [_panel("trial", [float(place) for place in range(1, len(trials) + 1)], scores, line=True)]
    panels += [_over(key, [values[key] for _, values in trials], scores) for key in keys]
    columns = min(3, len(panels))
    width, height = columns * (WIDTH + GAP) + GAP, -(-len(panels) // columns) * (HEIGHT + GAP) + GAP
    placed = [
        f'<g transform="translate({GAP + place % columns * (WIDTH + GAP)} {GAP + place // columns * (HEIGHT + GAP)})">{panel}</g>'
        for place, panel in enumerate(panels)
    ]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    return (
        start
        + 'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "".join(placed)
        + "</svg>\n"
    )


def _over(key: str, values: Sequence[Any], scores: Sequence[float]) -> str:
    """Numbers that span more than two decades on a logarithmic axis, anything but numbers side by side."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({str(value) for value in values})
        return _panel(key, [float(names.index(str(value))) for value in values], scores, names=names)
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) > 100:
        return _panel(key, [math.log10(value) for value in numbers], scores, power=True)
    return _panel(key, numbers, scores)


def _panel(
    title: str,
    across: Sequence[float],
    scores: Sequence[float],
    *,
    names: Sequence[str] = (),
    power: bool = False,
    line: bool = False,
) -> str:
    """One chart: scores over values as dots, or as a line where `line` asks for it."""
    x, y = _axis(across, MARGIN, WIDTH - 8), _axis(scores, HEIGHT - 34, 8)
    marks = [
        f'<circle cx="{x(a):.1f}" cy="{y(s):.1f}" r="3" fill="{DOT}" fill-opacity="0.7"/>'
        for a, s in zip(across, scores, strict=True)
    ]
    if line:
        best = [max(scores[: place + 1]) for place in range(len(scores))]
        points = " ".join(f"{x(a):.1f},{y(s):.1f}" for a, s in zip(across, best, strict=True))
        marks.insert(0, f'<polyline points="{points}" fill="none" stroke="{BEST}"/>')
    frame = f'<path d="M{MARGIN} 4V{HEIGHT - 30}H{WIDTH - 4}" fill="none" stroke="{INK}"/>'
    low, high = min(across), max(across)
    ends = (
        list(enumerate(names))
        if names
        else [(low, _number(low, power=power)), (high, _number(high, power=power))][: 1 + (high > low)]
    )
    words = [_text(x(float(place)), HEIGHT - 17, name) for place, name in ends]
    words += [_text(MARGIN - 4, y(score) + 4, f"{score:.3g}", anchor="end") for score in sorted({min(scores), max(scores)})]
    return "".join([frame, *marks, *words, _text((MARGIN + WIDTH) / 2, HEIGHT - 3, title)])


def _axis(values: Sequence[float], start: float, stop: float) -> Any:
    """From value to place, with some room at both ends; a single value lies in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return lambda _: (start + stop) / 2
    return lambda value: start + (stop - start) * (0.06 + 0.88 * (value - low) / (high - low))


def _number(value: float, *, power: bool) -> str:
    return f"{10**value:.2g}" if power else f"{value:.3g}"


def _text(x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(words)}</text>'
