"""Draws reliability curves as a picture file for a model card. Its colors fit light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chestmap.reports.svg_plot import Axis, Chart, Line, svg

PANEL, HEAD, ACROSS = (200, 190), 36, 4
STYLE = """
svg { color-scheme: light dark; --ink: light-dark(#a84b00, #ffb454); --line: light-dark(#d3d9dd, #343b41);
  --soft: light-dark(#56616a, #a3adb5); --text: light-dark(#1b2024, #e8ecef); --ground: light-dark(#fff, #14171a); }
text { font: 10.5px system-ui, sans-serif; fill: var(--soft); } text.name { font-size: 13px; font-weight: 600; fill: var(--text); }
path { fill: none; } .gridline { stroke: var(--line); } .line { stroke-width: 1.8; stroke: var(--ink); }
.line.guide { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; } circle { fill: var(--ink); } .ground { fill: var(--ground); }
"""


def reliability_picture(curves: Sequence[Mapping[str, Any]], told: Mapping[str, str]) -> str:
    """A panel for each curve (`finding`, `x` scores, `y` shares with the finding, `weight` images); `told` is printed below its name."""
    columns = min(ACROSS, len(curves))
    rows = -(-len(curves) // ACROSS)
    width, height = columns * PANEL[0], rows * (PANEL[1] + HEAD)
    panels = []
    for place, curve in enumerate(curves):
        x, y, name = place % ACROSS * PANEL[0], place // ACROSS * (PANEL[1] + HEAD), str(curve["finding"])
        head = f'<text class="name" x="8" y="16">{escape(name)}</text><text x="8" y="31">{escape(told.get(name, ""))}</text>'
        drawn = svg(_chart(curve)).replace("<svg ", f'<svg y="{HEAD}" width="{PANEL[0]}" height="{PANEL[1]}" ', 1)
        panels.append(f'<g transform="translate({x},{y})">{head}{drawn}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Reliability curves"><style>{STYLE}</style><rect class="ground" width="100%" height="100%"/>'
        f"{''.join(panels)}</svg>\n"
    )


def _chart(curve: Mapping[str, Any]) -> Chart:
    """Dots grow with the square root of a bin's images, as areas do."""
    most = max(curve["weight"], default=1.0)
    sizes = [1.2 + 3.8 * (weight / most) ** 0.5 for weight in curve["weight"]]
    halves = (0.0, 0.5, 1.0)
    lines = (Line(x=(0, 1), y=(0, 1), style="guide"), Line(x=curve["x"], y=curve["y"], sizes=sizes))
    x, y = Axis(label="score", ticks=halves), Axis(label="share with the finding", ticks=halves)
    return Chart(title=f"Reliability of {curve['finding']}", x=x, y=y, lines=lines, size=PANEL)
