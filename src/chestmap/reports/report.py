"""Writes the report of one model as one HTML file that opens offline: numbers, curves, pictures, provenance.

`api.reporting` gathers evaluation, run facts and pictures, and calls `write_report`. What is missing leaves out its
section; nothing is computed anew.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from chestmap.evaluation.published import Table
from chestmap.evaluation.scores import Evaluation
from chestmap.reports import charts as curves
from chestmap.reports import report_tables as tables
from chestmap.reports import run_facts
from chestmap.reports.number_format import count, facts, number, resource, short
from chestmap.reports.pictures import HIT, HITS, Picture, fitting_quality, sections
from chestmap.reports.run_facts import RunFacts
from chestmap.storage.atomic import write_text

BUDGET = 6_500_000
"""Bytes for the radiographs of a page; maps, curves and tables add about one million."""

FOOTER = (
    "Research use only; not a medical device. This file holds radiographs: share it as you may share those. "
    "Made by chestmap; it loads nothing from anywhere."
)
LAYERS = (("map", "map", "m"), ("outline", "its mask", "l"), ("own", "own boxes", "o"), ("true", "true boxes", "t"))
ORDERS = {"iou -1": "successes first", "iou 1": "failures first", "score -1": "highest score", "score 1": "lowest score"}


def write_report(
    path: Path,
    metrics: Evaluation,
    pictures: Sequence[Picture] = (),
    run: RunFacts | None = None,
    published: Sequence[Table] = (),
) -> Path:
    """What is not given is left out of the page."""
    script = resource("report.js")
    parts = _parts(metrics, pictures, run, published)
    about = metrics.about
    page = Template(resource("report.html")).substitute(
        title=escape(str(metrics.title)),
        hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
        style=resource("page.css") + resource("report.css"),
        script=script,
        facts=facts(_headline_facts(about)),
        notes=_notes(metrics.notes),
        anchors="".join(f'<a href="#{name}">{escape(title)}</a>' for name, (title, _) in parts.items()),
        chips="".join(_chip("finding", name, name) for name in metrics.findings),
        sections="\n".join(
            f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>' for name, (title, body) in parts.items()
        ),
        layers=_layers(),
        footer=escape(FOOTER),
    )
    write_text(path, page)
    return path


def _headline_facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What was scored, in a line under the title; what metrics.json does not say is left out."""
    told = {"Source": str(about.get("source", "")), "Split": str(about.get("split", "")), "Part": str(about.get("part", ""))}
    told |= {name: count(about[name.lower()]) for name in ("Images", "Patients", "Boxes") if name.lower() in about}
    return {key: value for key, value in told.items() if value}


def _notes(notes: Iterable[str]) -> str:
    """A leak is a warning, everything else a remark."""
    items = "".join(f"<li{' class=warn' if ' leaks' in note else ''}>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _parts(
    metrics: Evaluation, pictures: Sequence[Picture], run: RunFacts | None, published: Sequence[Table]
) -> dict[str, tuple[str, str]]:
    """Sections by id: title and content, in the page's order, without those that have nothing to show."""
    parts = {
        "headline": ("Headline", f'{_headline_note(metrics)}<div class="tiles">{tables.tiles(metrics)}</div>'),
        "findings": ("By finding", _findings_note(metrics) + _scroll("Results by finding", tables.findings_table(metrics))),
        "localization": ("Localization", _localization(metrics)),
        "curves": ("Curves", _curves(metrics)),
        "published": ("Beside the papers", "".join(_published(metrics, table) for table in published)),
        "pictures": ("Pictures", _pictures(metrics, pictures) if pictures else ""),
        "training": ("Training", run_facts.training_charts(run.series) if run else ""),
        "provenance": ("What was trained on what", run_facts.provenance(run or RunFacts(), metrics.about)),
    }
    return {name: part for name, part in parts.items() if part[1]}


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _scroll(name: str, table: str) -> str:
    """A wide table scrolls by itself, by keyboard too, so that the page never does."""
    return f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{table}</div>'


def _headline_note(metrics: Evaluation) -> str:
    """What the tiles mean, in words that follow the settings of the evaluation."""
    how = metrics.about.get("settings", {})
    share = f"{100 * how.get('confidence', 0.95):.0f} %"
    told = f"Means over findings, with {share} intervals, the patient as the unit."
    if metrics.rules:
        told += (
            f" T(IoU) is the share of boxed findings whose mask, cut at the {curves.RULES[metrics.rules[0]]}, overlaps the union "
            "of the boxes by at least T. The upright tick is the medoid box, which never looks at the image."
        )
    return _note(told)


def _findings_note(metrics: Evaluation) -> str:
    floor = " Floor: the training box most like all others of the finding, laid on every image." if metrics.floors else ""
    return _note(f"Intervals by patient. Boxed: images with boxes of the finding.{floor}")


def _localization(metrics: Evaluation) -> str:
    """The chart of means, the table of all rules, and a small chart for each finding; "" where no box was scored."""
    if not metrics.boxed:
        return ""
    chart = f'<div class="card">{curves.accuracy_chart(metrics)}</div>'
    table = _scroll("T(IoU) by threshold rule, floor and ceiling", tables.limits_table(metrics))
    return (
        _note(
            "Mean over findings. The validation threshold is chosen on boxes of other patients, the oracle's on these very boxes: "
            "an upper bound. A map that does not pass the medoid box has not shown that it sees anything; a grid of so many hard "
            "cells cannot pass its ceiling."
        )
        + f'<div class="with-chart">{chart}{table}</div><h3 class="above">By finding</h3>'
        + curves.accuracy_panels(metrics)
    )


def _curves(metrics: Evaluation) -> str:
    """One tab for each kind of curve that was measured; print shows them all under each other."""
    body = curves.panels(metrics)
    tabs = "".join(
        f'<button type="button" role="tab" aria-controls="{name}">{escape(title)}</button>'
        for name, title in curves.titles_by_block().items()
        if f'id="{name}"' in body
    )
    return f'<div role="tablist" aria-label="Curves">{tabs}</div>{body}' if body else ""


def _published(metrics: Evaluation, table: Table) -> str:
    """A table of a paper with the rule by which it was scored, since two of them seldom share one."""
    rule = table.rule
    told = f"{table.citation}. {rule.geometry and 'Scored by: ' + rule.geometry + '; '}{rule.threshold}. {table.note}"
    return (
        f"<article><h3>{escape(table.title)} <small>{escape(table.id)}</small></h3>{_note(told)}"
        f"{_scroll(table.title, tables.published_table(metrics, table))}</article>"
    )


def _chip(group: str, name: str, label: str, amount: int | None = None) -> str:
    """A button that stays pressed; `data-<group>-filter` is what the script looks for."""
    beside = "" if amount is None else f" <small>{amount}</small>"
    return (
        f'<button type="button" data-{group}-filter="{escape(name)}" aria-pressed="false">{escape(label)}{beside}</button>'
    )


def _pictures(metrics: Evaluation, pictures: Sequence[Picture]) -> str:
    order = [*metrics.findings, *sorted({picture.finding for picture in pictures} - set(metrics.findings))]
    summary = {name: _summary(metrics, name) for name in order}
    return (
        _note(
            f"{len(pictures)} chosen of each finding's best, worst and middling overlaps, its highest scores where it is labelled "
            "absent, and images that are labelled but carry no box. A hit is an overlap of at least the limit chosen here."
        )
        + _tools(pictures)
        + sections(pictures, order, fitting_quality(pictures, BUDGET), summary)
    )


def _summary(metrics: Evaluation, name: str) -> str:
    """The line of numbers next to a finding's heading, as in the tables."""
    told = [f"AUC {number(metrics.find('AUC', name).value)}"]
    if name in metrics.boxed:
        told += [f"T(IoU) = {short(limit)}: {number(metrics.met(name, limit, metrics.rules[0]).value)}" for limit in HITS]
    return ", ".join(told)


def _layers() -> str:
    """The legend of the pictures; its entries turn their layer on and off, on the page and in the large view."""
    return "".join(
        f'<button type="button" data-layer="{name}" aria-pressed="true" title="key {key}"><span class="key k-{name}"></span>{label}</button>'
        for name, label, key in LAYERS
    )


def _tools(pictures: Sequence[Picture]) -> str:
    """What the pictures can be chosen by; kinds that do not occur have no button."""
    outcomes = [picture.outcome() for picture in pictures]
    labels = [picture.label for picture in pictures]
    shown = "".join(_chip("outcome", name, name) for name in ("hit", "miss", "no box") if name in outcomes)
    labelled = "".join(
        _chip("label", name, f"labelled {name}", labels.count(name))
        for name in ("present", "absent", "unknown")
        if name in labels
    )
    limits = "".join(f'<option value="{one}"{" selected" if one == HIT else ""}>IoU ≥ {short(one)}</option>' for one in HITS)
    orders = "".join(f'<option value="{value}">{label}</option>' for value, label in ORDERS.items())
    ranges = "".join(
        f'<label>{word} <input type="range" id="{name}" min="0" max="1" step="0.01" value="{value}">'
        f'<output id="{name}-value" for="{name}"></output></label>'
        for word, name, value in (("score from", "low", 0), ("to", "high", 1))
    )
    return (
        f'<div class="tools" role="group" aria-label="Pictures to show"><div>{shown}</div><div>{labelled}</div>'
        f'<div><label>hit at <select id="limit">{limits}</select></label><label>order <select id="order">{orders}</select></label></div>'
        f'<div>{ranges}</div><div>{_layers()}<label>map <input type="range" id="opacity" min="0" max="1" step="0.05" value="0.75"></label></div>'
        '<span id="shown" role="status"></span></div>'
    )
