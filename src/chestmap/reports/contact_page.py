"""Writes a contact page: many small radiographs with their boxes in one HTML file that opens offline.

Pictures are embedded, so that the page can be mailed; nothing is loaded from elsewhere. Titles are shown as they are given, so
pseudonyms must be made before.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8

from chestmap.errors import BadInput
from chestmap.reports.map_layers import data_uri
from chestmap.reports.number_format import facts as facts_of
from chestmap.reports.number_format import resource
from chestmap.storage.atomic import write_text
from chestmap.types import Box

_LINE = '<svg viewBox="0 0 30 8" aria-hidden="true"><line{} x1="0" y1="4" x2="30" y2="4"/></svg>'
_LEGEND = (
    f"""<p id="legend">{_LINE.format("")}solid: the true box, {_LINE.format(' class="found"')}dashed: a model's box</p>"""
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Card:
    """One picture of the page; boxes are in the pixels of `image`, and those with a score are a model's."""

    image: UInt8[np.ndarray, "h w"]
    title: str
    findings: tuple[str, ...]  # what is labelled present
    boxes: tuple[Box, ...] = ()
    notes: str = ""


def write_contact_page(path: Path, title: str, facts: Mapping[str, str], cards: Sequence[Card]) -> Path:
    """Write the page; buttons filter by finding, a key toggles the boxes, everything is inside the one file."""
    if not cards:
        raise BadInput(f"{path.name}: no images to show; expected at least one")
    findings = sorted({finding for card in cards for finding in card.findings})
    hues = {finding: round(360 * index / max(len(findings), 1)) for index, finding in enumerate(findings)}
    page = Template(resource("contact.html")).substitute(
        style=resource("page.css"),
        title=html.escape(title),
        facts=facts_of(facts),
        buttons="".join(_button(finding, cards, hues[finding]) for finding in findings),
        total=len(cards),
        legend=_LEGEND if any(box.score is not None for card in cards for box in card.boxes) else "",
        cards="\n".join(_card(card, hues) for card in cards),
    )
    write_text(path, page)
    return path


def _button(finding: str, cards: Iterable[Card], hue: int) -> str:
    count = sum(finding in card.findings for card in cards)
    name = html.escape(finding)
    return f'<button type="button" data-finding="{name}" style="--hue:{hue}">{name} <small>{count}</small></button>'


def _card(card: Card, hues: Mapping[str, int]) -> str:
    height, width = card.image.shape
    boxes = "".join(_rectangle(box, hues.get(box.finding, 0)) for box in card.boxes)
    chips = "".join(f'<span style="--hue:{hues[name]}">{html.escape(name)}</span>' for name in card.findings)
    alt = f"{card.title}: {', '.join(card.findings) or 'no finding'}"
    return (
        f'<figure data-findings="{html.escape("|".join(card.findings))}"><div class="picture">'
        f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" loading="lazy" src="{data_uri(card.image, 82)}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{boxes}</svg></div>'
        f"<figcaption><b>{html.escape(card.title)}</b> <i>{html.escape(card.notes)}</i>"
        f"<p>{chips or '<span class=none>no finding</span>'}</p></figcaption></figure>"
    )


def _rectangle(box: Box, hue: int) -> str:
    name = (
        html.escape(box.finding)
        if box.score is None
        else f"{html.escape(box.finding)}, a model's box, score {box.score:.2f}"
    )
    kind = "" if box.score is None else ' class="found"'
    return (
        f'<rect{kind} x="{box.x0:.1f}" y="{box.y0:.1f}" width="{box.x1 - box.x0:.1f}" height="{box.y1 - box.y0:.1f}" style="--hue:{hue}">'
        f"<title>{name}</title></rect>"
    )
