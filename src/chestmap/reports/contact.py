"""A contact page: many small radiographs with their findings and boxes in one HTML file that opens offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

import cv2
import numpy as np
from jaxtyping import UInt8

from chestmap.errors import BadInput
from chestmap.types import Box


@dataclass(frozen=True, eq=False)
class Card:
    """One picture of the page; boxes are in the pixels of `image`."""

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
    page = _template().substitute(
        title=html.escape(title),
        facts="".join(
            f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>" for key, value in facts.items()
        ),
        buttons="".join(_button(finding, cards, hues[finding]) for finding in findings),
        total=len(cards),
        cards="\n".join(_card(card, hues) for card in cards),
    )
    beside = path.with_name(path.name + ".part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


def _template() -> Template:
    return Template(resources.files("chestmap.reports").joinpath("contact.html").read_text(encoding="utf-8"))


def _button(finding: str, cards: Iterable[Card], hue: int) -> str:
    count = sum(finding in card.findings for card in cards)
    name = html.escape(finding)
    return f'<button type="button" data-finding="{name}" style="--hue:{hue}">{name} <small>{count}</small></button>'


def _card(card: Card, hues: Mapping[str, int]) -> str:
    height, width = card.image.shape
    _, encoded = cv2.imencode(".webp", card.image, [cv2.IMWRITE_WEBP_QUALITY, 82])
    source = base64.b64encode(encoded.tobytes()).decode()
    boxes = "".join(_rectangle(box, hues.get(box.finding, 0)) for box in card.boxes)
    chips = "".join(f'<span style="--hue:{hues[name]}">{html.escape(name)}</span>' for name in card.findings)
    alt = f"{card.title}: {', '.join(card.findings) or 'no finding'}"
    return (
        f'<figure data-findings="{html.escape("|".join(card.findings))}"><div class="picture">'
        f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" loading="lazy" src="data:image/webp;base64,{source}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{boxes}</svg></div>'
        f"<figcaption><b>{html.escape(card.title)}</b> <i>{html.escape(card.notes)}</i>"
        f"<p>{chips or '<span class=none>no finding</span>'}</p></figcaption></figure>"
    )


def _rectangle(box: Box, hue: int) -> str:
    name = html.escape(box.finding)
    return (
        f'<rect x="{box.x0:.1f}" y="{box.y0:.1f}" width="{box.x1 - box.x0:.1f}" height="{box.y1 - box.y0:.1f}" style="--hue:{hue}">'
        f"<title>{name}</title></rect>"
    )
