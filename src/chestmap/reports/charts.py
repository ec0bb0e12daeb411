"""Draws the charts of a report: a panel for each finding, and accuracy against its limit with the floors.

Charts are SVG text with classes; the page's style sheet gives the colors, for dark and light. Each takes curves of an
`Evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape

from chestmap.evaluation.measure import Measure
from chestmap.evaluation.scores import HEADLINE, MEAN, Curve, Evaluation
from chestmap.reports.number_format import interval, number
from chestmap.reports.svg_plot import Axis, Chart, Line, shared_lines, svg

SMALL = (190, 190)
HALVES = (0.0, 0.5, 1.0)
TENTHS = (0.1, 0.3, 0.5, 0.7)
RULES = {"validation": "validation threshold", "own": "own threshold", "oracle": "oracle threshold"}
STYLES = {"validation": "ours", "own": "own", "oracle": "oracle"}
SHOWN_FLOORS = {"floor medoid": "medoid box", "floor mean": "mean box", "floor whole image": "whole image"}
"""The floors that a chart has room for; the table has all."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A group of panels. `told` is the line of numbers under a finding's name, `guide` what knowing nothing would give."""

    name: str
    title: str
    x: Axis
    y: Axis
    told: Callable[[Evaluation, str], str]
    guide: Callable[[Evaluation, str], float | None]  # a level; None: the diagonal
    note: str
    others: bool = True  # whether the other findings are drawn faintly behind


def _measure(measure: str) -> Callable[[Evaluation, str], str]:
    """The line of numbers for panels with a curve of one score, such as AUC [low, high]."""

    def told(metrics: Evaluation, finding: str) -> str:
        row = metrics.find(measure, finding)
        return f"{measure} {number(row.value)} {interval(row.low, row.high)}".strip()

    return told


def _froc(metrics: Evaluation, finding: str) -> str:
    """Share of boxes found at one false region for each image, by the rule and geometry of the curve."""
    curve = metrics.curves_of("froc").get(finding)
    row = metrics.find(Measure.FROC, finding, 1.0, curve.geometry if curve else "", curve.rule if curve else "")
    return f"{number(row.value)} {interval(row.low, row.high)}".strip()


def _prevalence(metrics: Evaluation, finding: str) -> float:
    """What a score that knows nothing reaches in precision."""
    row = metrics.find(Measure.AUC, finding)
    return row.support / max(row.support + row.negatives, 1)


def _diagonal(_: Evaluation, __: str) -> None:
    return None


KINDS = (
    Kind(
        name="roc", title="ROC", x=Axis(label="1 − specificity", ticks=HALVES), y=Axis(label=Measure.SENSITIVITY, ticks=HALVES), told=_measure(Measure.AUC), guide=_diagonal,
        note="Dotted: a score that knows nothing. Faint: the other findings.",
    ),
    Kind(
        name="precision-recall", title="Precision and recall", x=Axis(label="recall", ticks=HALVES), y=Axis(label="precision", ticks=HALVES),
        told=_measure(Measure.AP), guide=_prevalence, note="Dotted: the share of images with the finding, which a score that knows nothing reaches.",
    ),
    Kind(
        name="reliability", title="Reliability", x=Axis(label="score", ticks=HALVES), y=Axis(label="share with the finding", ticks=HALVES),
        told=_measure(Measure.ECE), guide=_diagonal, note="On the dotted line a score is a probability. The fuller a bin, the larger its dot.", others=False,
    ),
    Kind(
        name="froc", title=Measure.FROC, x=Axis(label="false regions per image", low=0.0625, high=8.0, ticks=(0.125, 0.5, 2.0, 8.0), log=True, names=("⅛", "½", "2", "8")),
        y=Axis(label="boxes found", ticks=HALVES), told=_froc, guide=lambda *_: 0.0,
        note="The number is the share of boxes found at one false region for each image where the finding is labelled absent.",
    ),
)  # fmt: skip


def panels(metrics: Evaluation) -> str:
    """One block for each kind of curve that was measured."""
    return "\n".join(_block(kind, metrics, found) for kind in KINDS if (found := metrics.curves_of(kind.name)))


def _block(kind: Kind, metrics: Evaluation, curves: Mapping[str, Curve]) -> str:
    lines = tuple(Line(x=curve.x, y=curve.y) for curve in curves.values())
    behind = f"all-{kind.name}" if kind.others else ""
    shared = shared_lines(behind, Chart(title="", x=kind.x, y=kind.y, lines=lines, size=SMALL)) if behind else ""
    drawn = "".join(
        f'<figure class="panel" data-finding="{escape(finding)}"><figcaption><b>{escape(finding)}</b>'
        f"<span>{escape(kind.told(metrics, finding))}</span></figcaption>{svg(panel_of(kind, metrics, curve, behind))}</figure>"
        for finding, curve in curves.items()
    )
    return (
        f'<section class="curves" role="tabpanel" id="{kind.name}" aria-label="{kind.title}"><h3>{kind.title}</h3><p class="note">{escape(kind.note)}</p>{shared}'
        f'<div class="panels">{drawn}</div></section>'
    )


def panel_of(kind: Kind, metrics: Evaluation, curve: Curve, behind: str = "") -> Chart:
    """The guide below, the curve above it; dots grow with the square root of a bin's images, as areas do."""
    finding, level = curve.finding, kind.guide(metrics, curve.finding)
    guide = Line(
        x=(kind.x.low, kind.x.high), y=(kind.y.low, kind.y.high) if level is None else (level, level), style="guide"
    )
    most = max(curve.weight, default=1.0)
    sizes = [1.2 + 3.8 * (weight / most) ** 0.5 for weight in curve.weight]
    line = Line(x=curve.x, y=curve.y, name=kind.y.label, sizes=sizes)
    title = f"{kind.title} of {finding}: {kind.told(metrics, finding)}"
    return Chart(title=title, x=kind.x, y=kind.y, lines=(guide, line), size=SMALL, behind=behind, style="plot small")


def titles_by_block() -> dict[str, str]:
    """Titles by the id of their block, in order."""
    return {kind.name: kind.title for kind in KINDS}


def accuracy_chart(metrics: Evaluation, finding: str = MEAN) -> str:
    """As `accuracy_of` draws it; "" where no box was scored."""
    chart = accuracy_of(metrics, finding)
    return "" if chart is None else svg(chart)


def accuracy_of(metrics: Evaluation, finding: str = MEAN) -> Chart | None:
    """Share of pairs met against the limit on IoU: the threshold rules, and dashed the floors; None where no box was scored."""
    lines = [_floor_line(metrics, finding, rule, name) for rule, name in SHOWN_FLOORS.items() if rule in metrics.floors]
    for rule in reversed(metrics.rules):
        curve = metrics.curves_of("accuracy", rule, HEADLINE).get(finding)
        if curve is not None:
            lines.append(Line(x=curve.x, y=curve.y, name=RULES[rule], style=STYLES[rule], label=RULES[rule]))
        else:  # the oracle has one threshold for each limit and no curve
            lines.append(
                _at_limits(metrics, finding, rule, Line(x=(), y=(), name=RULES[rule], style=STYLES[rule], label=RULES[rule]))
            )
    if not metrics.boxed:
        return None
    cut = tuple(_within(line, 0.7) for line in lines if len(line.x))
    x = Axis(label="T: least IoU that counts as a hit", low=0.1, high=0.7, ticks=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    y = Axis(label="share of boxed findings met", ticks=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    title = f"Share of boxed findings met against the limit on IoU, {finding}"
    return Chart(title=title, x=x, y=y, lines=cut, size=(460, 430), right=146)


def _floor_line(metrics: Evaluation, finding: str, rule: str, name: str) -> Line:
    """A floor knows no image, so it has a value at each limit and no curve between."""
    return _at_limits(metrics, finding, rule, Line(x=(), y=(), name=name, style="floor", label=name))


def _at_limits(metrics: Evaluation, finding: str, rule: str, line: Line) -> Line:
    """The given line through the scored limits, those without a value left out."""
    rows = [(limit, metrics.met(finding, limit, rule).value) for limit in metrics.limits]
    known = [(limit, value) for limit, value in rows if value is not None]
    return Line(x=[x for x, _ in known], y=[y for _, y in known], name=line.name, style=line.style, label=line.label)


def _within(line: Line, high: float) -> Line:
    """The part of a line from 0.1 to `high`, so that its label is at the axis' end."""
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if 0.1 - 1e-9 <= x <= high + 1e-9]
    return Line(x=[x for x, _ in kept], y=[y for _, y in kept], name=line.name, style=line.style, label=line.label)


def accuracy_panels(metrics: Evaluation) -> str:
    """A small chart for each finding: the headline rule, and dashed the medoid box."""
    if not metrics.rules:
        return ""
    rule, found = metrics.rules[0], []
    for finding, curve in metrics.curves_of("accuracy", metrics.rules[0], HEADLINE).items():
        if finding not in metrics.boxed:
            continue
        floor = replace(_floor_line(metrics, finding, "floor medoid", "medoid box"), label="")
        lines = tuple(_within(line, 0.7) for line in (floor, Line(x=curve.x, y=curve.y, name=RULES[rule])) if len(line.x))
        row = metrics.met(finding, 0.3, rule)
        told = f"{number(row.value)} {interval(row.low, row.high)} at .3"
        x, y = Axis(label=Measure.IOU_MET, low=0.1, high=0.7, ticks=TENTHS), Axis(label="share met", ticks=HALVES)
        chart = Chart(title=f"{finding}: {told}", x=x, y=y, lines=lines, size=SMALL, style="plot small")
        found.append(
            f'<figure class="panel" data-finding="{escape(finding)}"><figcaption><b>{escape(finding)}</b>'
            f"<span>{escape(told)}</span></figcaption>{svg(chart)}</figure>"
        )
    return f'<div class="panels">{"".join(found)}</div>' if found else ""
