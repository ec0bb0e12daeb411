"""Writes the tables and tiles of a report. Every number is as in metrics.json, with its interval.

All functions give HTML of an `Evaluation`, for the sections of `report.html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from chestmap.evaluation.measure import Measure
from chestmap.evaluation.published import Row, Table
from chestmap.evaluation.scores import HEADLINE, MEAN, Evaluation, Score
from chestmap.reports.charts import RULES
from chestmap.reports.number_format import NONE, count, interval, number, short

HEADLINES = (0.1, 0.3, 0.5)
FLOORS = {
    "floor medoid": "class-medoid box", "floor mean": "class-mean box", "floor whole image": "whole image",
    "floor random": "random training box", "floor pixel": "one pixel",
}  # fmt: skip


def tiles(metrics: Evaluation) -> str:
    """The headline: mean AUC, and T(IoU) at three limits next to its floor."""
    auc = metrics.find(Measure.AUC)
    about = metrics.about
    known = [name for name in metrics.findings if metrics.find(Measure.AUC, name).value is not None]
    found = [
        _tile("Mean AUC", auc, [("findings", str(len(known))), ("images", count(about.get("images", 0)))], scale=(0.5, 1.0))
    ]
    if metrics.rules:
        first, *others = metrics.rules
        for limit in HEADLINES:
            row = metrics.met(MEAN, limit, first)
            floor = metrics.met(MEAN, limit, "floor medoid").value
            below = [(RULES[rule], number(metrics.met(MEAN, limit, rule).value)) for rule in others]
            below += [("medoid-box floor", number(floor)), ("boxed findings", count(row.support))]
            found.append(_tile(f"T(IoU) = {short(limit)}", row, below, floor=floor))
    return "".join(found)


def _tile(
    title: str,
    row: Score,
    below: Iterable[tuple[str, str]],
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    floor: float | None = None,
) -> str:
    """The number large, its interval, both on a line from one end of `scale` to the other, and `below` in small print."""
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in below)
    return (
        f'<article class="tile"><h3>{escape(title)}</h3><p><strong>{number(row.value)}</strong> '
        f"<span>{interval(row.low, row.high)}</span></p>{forest(row, scale, floor, width=220)}"
        f"{_ends(*scale)}<dl>{items}</dl></article>"
    )


def forest(row: Score, scale: tuple[float, float] = (0.0, 1.0), floor: float | None = None, width: int = 130) -> str:
    """A dot on its interval, on a line from one end of the scale to the other, with a tick at the floor."""
    if row.value is None:
        return ""

    def x(value: float) -> float:
        return 4 + (width - 8) * min(max((value - scale[0]) / (scale[1] - scale[0]), 0.0), 1.0)

    low, high = row.low, row.high
    whisker = "" if low is None or high is None else f'<path class="whisker" d="M{x(low):.1f},9H{x(high):.1f}"/>'
    tick = "" if floor is None else f'<path class="floor" d="M{x(floor):.1f},2V16"/>'
    return (
        f'<svg class="forest" viewBox="0 0 {width} 18" width="{width}" height="18" aria-hidden="true">'
        f'<path class="track" d="M4,9H{width - 4}"/>{tick}{whisker}{_dot(x(row.value), row.value, scale)}</svg>'
    )


def _dot(x: float, value: float, scale: tuple[float, float]) -> str:
    """A value beyond the scale is an arrow at its end."""
    if scale[0] <= value <= scale[1]:
        return f'<circle cx="{x:.1f}" cy="9" r="4"/>'
    step = -7 if value < scale[0] else 7
    return f'<path class="beyond" d="M{x + step / 2:.1f},9l{-step},-5v10Z"/>'


def findings_table(metrics: Evaluation) -> str:
    """A row for each finding and mean: ranking on the left, localization with its floor on the right."""
    rule = metrics.rules[0] if metrics.rules else ""
    means = [label for label in _labels(metrics) if label.startswith(MEAN)]
    limits = HEADLINES if rule else ()
    head = ["finding", Measure.AUC, (0.5, 1.0), Measure.AP, "present", "absent"]
    head += [*(f"T(IoU) {short(limit)}" for limit in limits), (0.0, 1.0, "at .3"), Measure.MEAN_IOU, "boxed"] if rule else []
    body = [_finding_row(metrics, name, rule, limits) for name in [*metrics.findings, *means]]
    cells = "".join(f'<th scope="col">{escape(name) if isinstance(name, str) else _ends(*name)}</th>' for name in head)
    return f'<table class="findings"><thead><tr>{cells}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _ends(low: float, high: float, middle: str = "") -> str:
    """The meaning of the ends of a line of dots, over its column."""
    return f'<span class="ends"><span>{short(low)}</span><span>{middle}</span><span>{short(high)}</span></span>'


def _labels(metrics: Evaluation) -> list[str]:
    """Findings and means in the order in which they were scored."""
    return list(dict.fromkeys(row.finding for row in metrics.rows))


def _finding_row(metrics: Evaluation, name: str, rule: str, limits: Sequence[float]) -> str:
    """A mean has no counts of its own: an image counts for several findings."""
    auc, is_mean = metrics.find(Measure.AUC, name), name.startswith(MEAN)
    counts = ["", ""] if is_mean else [count(auc.support), count(auc.negatives)]
    cells = [_value(auc), forest(auc, (0.5, 1.0)), _value(metrics.find(Measure.AP, name)), *counts]
    if rule:
        rows = [metrics.met(name, limit, rule) for limit in limits]
        floors = [metrics.met(name, limit, "floor medoid").value for limit in limits]
        overlap = metrics.find(Measure.MEAN_IOU, name, None, HEADLINE, rule)
        cells += [_value(row, floor) for row, floor in zip(rows, floors, strict=True)]
        cells += [
            forest(rows[1], floor=floors[1]),
            _value(overlap),
            count(rows[0].support) if rows[0].support else "–",
        ]
    kind = ' class="mean"' if is_mean else f' data-finding="{escape(name)}"'
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _value(row: Score, floor: float | None = None) -> str:
    """The number, its interval beneath, and the floor where there is one."""
    if row.value is None:
        return f'<span class="none">{NONE}</span>'
    below = interval(row.low, row.high)
    told = f'<i title="class-medoid box">floor {number(floor)}</i>' if floor is not None else ""
    return f"{number(row.value)}<small>{below}</small>{told}"


def limits_table(metrics: Evaluation, finding: str = MEAN) -> str:
    """Threshold rules, floors and ceilings by the limit on IoU."""
    rows = [(RULES[rule], rule, "ours") for rule in metrics.rules]
    rows += [
        (FLOORS.get(rule, rule), rule, "floor") for rule in metrics.floors if rule != "floor pixel"
    ]  # that one is for T(IoR)
    rows += [
        (f"best masks on {rule.removeprefix('ceiling ').replace('x', ' × ')} cells", rule, "ceiling")
        for rule in metrics.ceilings
    ]
    head = "".join(f'<th scope="col">{short(limit)}</th>' for limit in metrics.limits)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(label)}</th>'
        + "".join(
            f"<td>{_value(_without_interval(metrics.met(finding, limit, rule), kind))}</td>" for limit in metrics.limits
        )
        + "</tr>"
        for label, rule, kind in rows
    )
    return f'<table class="limits"><thead><tr><th scope="col">T(IoU)</th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _without_interval(row: Score, kind: str) -> Score:
    """A ceiling is shown for scale; its interval would only crowd the table."""
    return replace(row, low=None, high=None) if kind == "ceiling" else row


def published_table(metrics: Evaluation, table: Table) -> str:
    """Printed rows of each metric, then ours with floor and ceiling; a finding that was not scored is n/a."""
    groups = list(dict.fromkeys(row.metric for row in table.rows))
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in table.columns)
    body = []
    for metric in groups:
        measure, _, at = metric.partition("@")
        told = f"{measure} {'=' if measure.startswith('T(') else 'at'} {short(float(at))}" if at else measure
        body.append(f'<tr class="group"><th colspan="{len(table.columns) + 1}" scope="rowgroup">{escape(told)}</th></tr>')
        body += [_printed(row) for row in table.rows if row.metric == metric]
        body += _ours(metrics, table, metric)
    return (
        f'<table class="published"><thead><tr><th scope="col">{escape(table.id)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _printed(row: Row) -> str:
    """The digits of the paper without the leading zero; a dash where it prints none."""
    name = row.name.replace("Ours", "the paper's own") if row.name.startswith("Ours") else row.name
    quoted = f' <i title="quoted from {escape(row.source)}">quoted</i>' if row.source else ""
    cells = "".join(f"<td>{str(value).removeprefix('0') if value == value else '–'}</td>" for value in row.values)
    return f'<tr class="printed"><th scope="row">{escape(name)}{quoted}</th>{cells}</tr>'


def _ours(metrics: Evaluation, table: Table, metric: str) -> list[str]:
    """Our rows under a printed metric; a row without any value is left out."""
    measure, _, at = metric.partition("@")
    found = []
    for label, rule, geometry in _comparable(metrics, table, measure):
        if table.across == "thresholds":
            rows = [metrics.find(measure, MEAN, float(column), geometry, rule) for column in table.columns]
        else:
            limit, names = float(at) if at else None, [str(column) for column in table.columns]
            rows = [metrics.find(measure, name, limit, geometry, rule) for name in names]
            if "Mean" in names:
                rows[names.index("Mean")] = _mean(metrics, (measure, limit, geometry, rule), names)
        if any(row.value is not None for row in rows):
            kind = "floor" if rule.startswith(("floor", "ceiling")) else "ours"
            cells = "".join(f"<td>{_value(row)}</td>" for row in rows)
            found.append(f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{cells}</tr>')
    return found


def _comparable(metrics: Evaluation, table: Table, measure: str) -> list[tuple[str, str, str]]:
    """Label, rule and geometry of our rows that match a printed measure: the table's preset first."""
    if measure == Measure.AUC:
        return [("chestmap", "", "")]
    if measure not in (Measure.IOU_MET, Measure.IOR_MET, Measure.AFP):
        return []
    preset = f"preset {table.rule.preset}"
    preset += " without budget" if "without a limit" in table.rule.threshold else ""
    geometries = {row.geometry for row in metrics.rows if row.rule == preset}
    found = [(f"chestmap, {preset}", preset, min(geometries))] if geometries else []
    found += [(f"chestmap, {RULES[rule]}", rule, "any" if measure == Measure.AFP else HEADLINE) for rule in metrics.rules]
    if measure != Measure.AFP:
        found += [(FLOORS[rule], rule, "") for rule in metrics.floors if rule == "floor medoid"]
        found += [(f"ceiling of {rule.split()[1]} cells", rule, HEADLINE) for rule in metrics.ceilings[-1:]]
    return found


def _mean(metrics: Evaluation, what: tuple[str, float | None, str, str], columns: Sequence[str]) -> Score:
    """Over the findings that the printed table averages; with an interval where these are all that were scored."""
    measure, limit, geometry, rule = what
    averaged = {name for name in metrics.findings if metrics.find(measure, name, limit, geometry, rule).value is not None}
    names = [name for name in columns if name != "Mean"]
    if averaged == set(names) or not names:
        return metrics.find(measure, MEAN, limit, geometry, rule)
    values = [metrics.find(measure, name, limit, geometry, rule).value for name in names]
    known = [value for value in values if value is not None]
    return Score(
        measure=measure,
        finding=MEAN,
        value=sum(known) / len(known) if len(known) == len(names) else None,
        at=limit,
        rule=rule,
    )
