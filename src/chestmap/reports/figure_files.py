"""Charts as SVG files of their own, for a paper or a card: the curves of each kind, and accuracy against its limit.

A file carries its style, so that it looks the same wherever it is placed; every SVG program makes a PDF of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from chestmap.evaluation.scores import MEAN, Evaluation
from chestmap.reports.charts import KINDS, accuracy_of, panel_of
from chestmap.reports.svg_plot import Chart, svg
from chestmap.storage.atomic import write_text

HEAD, ACROSS = 36, 4
STYLE = """
svg { color-scheme: light dark; --ours: light-dark(#a84b00, #ffb454); --other: light-dark(#0a67a8, #63bdf5);
  --third: light-dark(#4d7a1f, #a5d46a); --floor: light-dark(#56616a, #a3adb5); --line: light-dark(#d3d9dd, #343b41);
  --text: light-dark(#1b2024, #e8ecef); --ground: light-dark(#fff, #14171a); --ink: var(--ours); }
text { font: 10.5px system-ui, sans-serif; fill: var(--floor); } text.name { font-size: 13px; font-weight: 600; fill: var(--text); }
path { fill: none; } .gridline { stroke: var(--line); } .line { stroke-width: 1.8; stroke: var(--ink); }
.line.guide { stroke: var(--floor); stroke-width: 1; stroke-dasharray: 2 3; } circle { fill: var(--ink); } .ground { fill: var(--ground); }
.own { --ink: var(--other); } .oracle { --ink: var(--third); } .floor { --ink: var(--floor); } .leader { stroke: var(--ink); }
.line.own { stroke-dasharray: 7 3; } .line.oracle { stroke-dasharray: 2 3; } .line.floor { stroke-dasharray: 5 4; stroke-width: 1.4; }
text.label { fill: var(--ink); font-size: 11.5px; }
"""


class Panel(NamedTuple):
    """A chart under a name and a line of numbers."""

    name: str
    caption: str
    chart: Chart


def picture(panels: Sequence[Panel], label: str) -> str:
    """The panels in rows of four, as one SVG file."""
    width, height = panels[0].chart.size
    across, down = min(ACROSS, len(panels)), -(-len(panels) // ACROSS)
    drawn = []
    for place, (name, caption, chart) in enumerate(panels):
        x, y = place % ACROSS * width, place // ACROSS * (height + HEAD)
        head = f'<text class="name" x="8" y="16">{escape(name)}</text><text x="8" y="31">{escape(caption)}</text>'
        inner = svg(chart).replace("<svg ", f'<svg y="{HEAD}" width="{width}" height="{height}" ', 1)
        drawn.append(f'<g transform="translate({x},{y})">{head}{inner}</g>')
    size = (
        f'width="{across * width}" height="{down * (height + HEAD)}" viewBox="0 0 {across * width} {down * (height + HEAD)}"'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}"><style>{STYLE}</style>'
        f'<rect class="ground" width="100%" height="100%"/>{"".join(drawn)}</svg>\n'
    )


def write_figures(folder: Path, metrics: Evaluation) -> list[Path]:
    """One file for each kind of curve that was measured, and one for accuracy against the limit on IoU."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for kind in KINDS:
        if curves := metrics.curves_of(kind.name):
            panels = [
                Panel(name, kind.told(metrics, name), panel_of(kind, metrics, curve)) for name, curve in curves.items()
            ]
            pictures[kind.name] = picture(panels, kind.title)
    named = [(name, accuracy_of(metrics, name)) for name in (MEAN, *metrics.boxed)]
    if panels := [Panel(name, "", chart) for name, chart in named if chart is not None]:
        pictures["accuracy"] = picture(panels, "Share of boxed findings met against the limit on IoU")
    written = []
    for name, text in pictures.items():
        write_text(folder / f"{name}.svg", text)
        written.append(folder / f"{name}.svg")
    return written
