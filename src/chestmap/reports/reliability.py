"""Draws reliability curves as a picture file for a model card. Its colors fit light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chestmap.reports.figure_files import Panel, picture
from chestmap.reports.svg_plot import Axis, Chart, Line

SIZE = (200, 190)


def reliability_picture(curves: Sequence[Mapping[str, Any]], told: Mapping[str, str]) -> str:
    """A panel for each curve (`finding`, `x` scores, `y` shares with the finding, `weight` images); `told` is printed below its name."""
    panels = [Panel(str(curve["finding"]), told.get(str(curve["finding"]), ""), _chart(curve)) for curve in curves]
    return picture(panels, "Reliability curves")


def _chart(curve: Mapping[str, Any]) -> Chart:
    """Dots grow with the square root of a bin's images, as areas do."""
    most = max(curve["weight"], default=1.0)
    sizes = [1.2 + 3.8 * (weight / most) ** 0.5 for weight in curve["weight"]]
    halves = (0.0, 0.5, 1.0)
    lines = (Line(x=(0, 1), y=(0, 1), style="guide"), Line(x=curve["x"], y=curve["y"], sizes=sizes))
    x, y = Axis(label="score", ticks=halves), Axis(label="share with the finding", ticks=halves)
    return Chart(title=f"Reliability of {curve['finding']}", x=x, y=y, lines=lines, size=SIZE)
