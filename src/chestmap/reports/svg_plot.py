"""Draws plain SVG charts: axes, lines with direct labels, points. Colors come from the page's CSS by class.

Coordinates are viewBox pixels. `data-*` attributes carry the axes' ranges, so that the page's script can read values back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from scipy.optimize import isotonic_regression

from chestmap.reports.number_format import short


@dataclass(frozen=True, kw_only=True)
class Axis:
    """`low` and `high` are the ends; a logarithmic axis needs both above 0."""

    label: str
    low: float = 0.0
    high: float = 1.0
    ticks: tuple[float, ...] = (0.0, 0.5, 1.0)
    log: bool = False
    names: tuple[str, ...] = ()  # of the ticks, where a number does not read well

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 … 1; values beyond are moved to the end."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low) if high > low else 0.0

    def tick_names(self) -> Iterable[tuple[float, str]]:
        """Values and texts of the ticks."""
        return zip(self.ticks, self.names or map(short, self.ticks), strict=True)


@dataclass(frozen=True, kw_only=True)
class Line:
    """`style` is a CSS class; `name` is what the reading under the pointer calls it; `sizes` are radii of points on the line."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    style: str = "ours"
    label: str = ""  # printed at the line's end
    sizes: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """`title` is read aloud. `behind` is the id of lines drawn beneath (see `shared_lines`); `right` leaves room for labels."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    size: tuple[int, int] = (440, 330)
    right: int = 12
    behind: str = ""
    style: str = "plot"

    @property
    def inner(self) -> tuple[float, float, float, float]:
        """Left, top, width, height of the area between the axes."""
        left, top, bottom = (48, 10, 44) if self.size[0] > 300 else (36, 8, 36)
        return left, top, self.size[0] - left - self.right, self.size[1] - top - bottom


def linear(label: str, values: Iterable[float], count: int = 5) -> Axis:
    """An axis with round ticks around the values; it begins at 0 where that wastes less than half of it."""
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    low = 0.0 if 0 <= low <= high * 0.5 else low
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / count))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(label=label, low=ticks[0], high=ticks[-1], ticks=ticks)


def path(line: Line, chart: Chart) -> str:
    """The `d` of a line; points that move it by less than a third of a pixel from the one before are left out."""
    left, top, width, height = chart.inner
    points: list[tuple[float, float]] = []
    last = len(line.x) - 1
    for index, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
        point = left + width * chart.x.share(x), top + height * (1 - chart.y.share(y))
        if points and index < last and max(abs(point[0] - points[-1][0]), abs(point[1] - points[-1][1])) < 0.34:
            continue
        points.append(point)
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""


def svg(chart: Chart) -> str:
    """The whole chart as one element that scales with its place on the page."""
    width, height = chart.size
    left, top, inner_width, inner_height = chart.inner
    frame = f"{left},{top},{inner_width},{inner_height}"
    ranges = f"{chart.x.low},{chart.x.high},{chart.y.low},{chart.y.high},{int(chart.x.log)}"
    behind = f'<use href="#{chart.behind}"/>' if chart.behind else ""
    return (
        f'<svg class="{chart.style}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(chart.title)}" '
        f'data-frame="{frame}" data-range="{ranges}">{_axes(chart)}{behind}'
        f"{''.join(_line(line, chart) for line in chart.lines)}{_labels(chart)}</svg>"
    )


def shared_lines(name: str, chart: Chart) -> str:
    """Lines drawn once and shown behind many charts of the same axes."""
    drawn = "".join(f'<path d="{path(line, chart)}"/>' for line in chart.lines)
    return f'<svg class="shared" aria-hidden="true"><defs><g id="{name}" class="faint">{drawn}</g></defs></svg>'


def _axes(chart: Chart) -> str:
    """Grid lines at the ticks only, no box around; both axes are named."""
    left, top, width, height = chart.inner
    bottom, parts = top + height, []
    for value, name in chart.x.tick_names():
        x = left + width * chart.x.share(value)
        parts.append(f'<path class="gridline" d="M{x:.1f},{top}V{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(name)}</text>')
    for value, name in chart.y.tick_names():
        y = bottom - height * chart.y.share(value)
        parts.append(f'<path class="gridline" d="M{left - 4},{y:.1f}H{left + width}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    middle_x, middle_y = left + width / 2, top + height / 2
    parts.append(
        f'<text class="axis" x="{middle_x:.1f}" y="{chart.size[1] - 5}" text-anchor="middle">{escape(chart.x.label)}</text>'
    )
    turned = f"translate(11 {middle_y:.1f}) rotate(-90)"
    parts.append(f'<text class="axis" transform="{turned}" text-anchor="middle">{escape(chart.y.label)}</text>')
    return "".join(parts)


def _line(line: Line, chart: Chart) -> str:
    """A named line can be read under the pointer."""
    named = f' data-name="{escape(line.name)}"' if line.name else ""
    left, top, width, height = chart.inner
    sizes = line.sizes or ((3.0,) if len(line.x) == 1 else ())  # a line of one point would not be seen
    dots = "".join(
        f'<circle class="{line.style}" cx="{left + width * chart.x.share(x):.1f}" '
        f'cy="{top + height * (1 - chart.y.share(y)):.1f}" r="{size:.1f}"/>'
        for x, y, size in zip(line.x, line.y, sizes, strict=False)
    )
    return f'<path class="line {line.style}" d="{path(line, chart)}"{named}/>{dots}'


def _labels(chart: Chart) -> str:
    """Names at the right ends of lines, moved apart where they would cover each other."""
    left, top, width, height = chart.inner
    ends = [
        (top + height * (1 - chart.y.share(line.y[-1])), left + width * chart.x.share(line.x[-1]), line)
        for line in chart.lines
        if line.label and len(line.x)
    ]
    ends.sort(key=lambda end: end[0])
    places = spread([end[0] for end in ends], 15.0, top + 4, top + height)
    return "".join(
        f'<path class="leader {line.style}" d="M{x + 2:.1f},{end:.1f}L{x + 14:.1f},{place:.1f}"/>'
        f'<text class="label {line.style}" x="{x + 18:.1f}" y="{place + 4:.1f}">{escape(line.label)}</text>'
        for place, (end, x, line) in zip(places, ends, strict=True)
    )


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Rising places moved as little as possible (in squares) to be at least `apart`, between `low` and `high` where they fit."""
    if not places:
        return []
    steps = np.arange(len(places)) * apart
    moved = isotonic_regression(np.asarray(places) - steps).x
    return (np.clip(moved, low, max(low, high - steps[-1])) + steps).tolist()
