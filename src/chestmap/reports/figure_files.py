"""Charts as SVG files of their own, for a paper or a card: the curves of each kind, and accuracy against its limit.

A file carries its style, so that it looks the same wherever it is placed; every SVG program makes a PDF of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from chestmap.evaluation.scores import MEAN, Evaluation
from chestmap.reports.charts import KINDS, accuracy_of, panel_of
from chestmap.reports.svg_plot import Chart, svg
from chestmap.storage.atomic import write_text

HEAD, ACROSS = 36, 4
SHAPES = """
text { font: 10.5px system-ui, sans-serif; } text.name { font-size: 13px; font-weight: 600; } text.label { font-size: 11.5px; }
path { fill: none; } .line { stroke-width: 1.8; } .line.guide { stroke-width: 1; stroke-dasharray: 2 3; }
.line.own { stroke-dasharray: 7 3; } .line.oracle { stroke-dasharray: 2 3; } .line.floor { stroke-dasharray: 5 4; stroke-width: 1.4; }
"""
LIGHT = {
    "ours": "#a84b00",
    "own": "#0a67a8",
    "oracle": "#4d7a1f",
    "floor": "#56616a",
    "grid": "#d3d9dd",
    "text": "#1b2024",
    "ground": "#fff",
}
DARK = {
    "ours": "#ffb454",
    "own": "#63bdf5",
    "oracle": "#a5d46a",
    "floor": "#a3adb5",
    "grid": "#343b41",
    "text": "#e8ecef",
    "ground": "#14171a",
}


def _colored(colors: Mapping[str, str]) -> str:
    """Rules with plain colors: programs that make a PDF of an SVG know no CSS variables."""
    rules = [
        f".ground {{ fill: {colors['ground']}; }} .gridline {{ stroke: {colors['grid']}; }}",
        f"text {{ fill: {colors['floor']}; }} text.name {{ fill: {colors['text']}; }} .line.guide {{ stroke: {colors['floor']}; }}",
    ]
    for name in ("ours", "own", "oracle", "floor"):
        ink = colors[name]
        rules.append(
            f".line.{name}, .leader.{name} {{ stroke: {ink}; }} circle.{name} {{ fill: {ink}; }} text.label.{name} {{ fill: {ink}; }}"
        )
    return "\n".join(rules)


STYLE = f"{SHAPES}{_colored(LIGHT)}\n@media (prefers-color-scheme: dark) {{\n{_colored(DARK)}\n}}\n"


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
