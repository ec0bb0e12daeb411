"""Reads and writes CVAT's "for images 1.1": an XML file of images with boxes and tags.

A tag with the attribute `present` = false marks a finding as absent. A model's boxes have `source="auto"` and their score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from xml.parsers import expat

from chestmap.annotations.annotated_image import AnnotatedImage, SetAside, size_of
from chestmap.datasets.text_files import read_text
from chestmap.errors import BadBox, BadInput, BadTable
from chestmap.types import Box, Findings

UNREAD = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")
CORNERS = ("xtl", "ytl", "xbr", "ybr")


def cvat_text(findings: Findings, images: Sequence[AnnotatedImage], predicted: Mapping[str, Sequence[Box]]) -> str:
    """For "Upload annotations" of a task that holds images of these names."""
    kinds = ("present", "checkbox", "true\nfalse"), ("score", "number", "0\n1\n0")
    wanted = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>{kind}</input_type><values>{values}</values></attribute>"
        for name, kind, values in kinds
    )
    labels = "".join(f"<label><name>{_safe(name)}</name><attributes>{wanted}</attributes></label>\n" for name in findings)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    lines.append(f"<meta><task><labels>\n{labels}</labels></task></meta>")
    for number, one in enumerate(images):
        width, height = one.size
        lines.append(f'<image id="{number}" name="{_safe(one.image)}" width="{width:g}" height="{height:g}">')
        lines += [_box_text(box, "manual") for box in one.boxes]
        lines += [_box_text(box, "auto") for box in predicted.get(one.image, ())]
        for name, present in one.labels.items():
            said = f'<attribute name="present">{str(present).lower()}</attribute>'
            lines.append(f'<tag label="{_safe(name)}" source="manual">{said}</tag>')
        lines.append("</image>")
    return "\n".join([*lines, "</annotations>", ""])


def _box_text(box: Box, source: str) -> str:
    corners = " ".join(f'{key}="{value!r}"' for key, value in zip(CORNERS, map(float, box.corners), strict=True))
    score = "" if box.score is None else f'<attribute name="score">{box.score!r}</attribute>'
    return f'<box label="{_safe(box.finding)}" source="{source}" occluded="0" {corners} z_order="0">{score}</box>'


def _safe(text: str) -> str:
    if any(ord(letter) < 32 for letter in text):
        raise BadInput(f"{text!r}: a control character cannot stand in XML; rename it")
    return escape(text)


def read_cvat(path: Path) -> tuple[list[AnnotatedImage], SetAside]:
    """What people marked; boxes and tags of `source="auto"` are a model's word and not read."""
    reader = _CvatHandler(path)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.doctype  # no entities: nothing is fetched, nothing grows
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(read_text(path), True)  # noqa: FBT003 - positional only
    except expat.ExpatError as error:
        raise BadTable(f"{path}: not XML: {error}") from None
    if not reader.version:
        raise BadTable(f'{path}: no <annotations> with a <version>; export the task as "CVAT for images 1.1"')
    return reader.images, reader.aside


class _CvatHandler:
    """What expat calls."""

    def __init__(self, path: Path) -> None:
        self.path, self.images, self.aside, self.version = path, list[AnnotatedImage](), SetAside(path.name), False
        self._at: dict[str, str] = {}
        self._name = self._label = self._said = ""
        self._size, self._labels, self._boxes = (0.0, 0.0), dict[str, bool](), list[Box]()

    def doctype(self, *_: Any) -> None:
        """Refuses a DOCTYPE, through which a file could pull in others."""
        raise BadTable(f"{self.path}: has a DOCTYPE, which CVAT does not write; export it again")

    def start(self, tag: str, at: dict[str, str]) -> None:
        """Begins an image, box or tag; shapes without upright corners are set aside."""
        self._said = ""
        if tag == "image":
            self._name, self._labels, self._boxes = at.get("name", ""), {}, []
            try:
                self._size = size_of(at["width"], at["height"])
            except (KeyError, ValueError):
                raise BadTable(f"{self.path}: image {self._name!r} has no width and height in pixels") from None
        elif tag in {"box", "tag"}:
            self._at, self._label = at, at.get("label", "")
            if tag == "tag" and at.get("source") != "auto":
                self._labels[self._label] = True
        elif tag in UNREAD:
            self.aside.add(f"{self._name}: a {tag} has no upright corners")
        elif tag == "attribute" and "name" in at:
            self._at = self._at | {"attribute": at["name"]}

    def text(self, text: str) -> None:
        """Collects text, which comes in pieces."""
        self._said += text

    def end(self, tag: str) -> None:
        """Ends an image, box or attribute. What a model drew (source "auto") is no annotation."""
        at = self._at
        if tag == "version":
            self.version = True
        elif tag == "attribute" and at.get("attribute") == "present" and "xtl" not in at and at.get("source") != "auto":
            self._labels[self._label] = self._said.strip() != "false"
        elif tag == "box" and at.get("source") != "auto":
            try:
                if float(at.get("rotation", 0)):
                    raise BadBox("a turned box has no upright corners")
                self._boxes.append(Box(self._label, *(float(at[key]) for key in CORNERS)))
            except (BadBox, KeyError, ValueError) as problem:
                self.aside.add(f"{self._name}: a box is not usable ({problem})")
        elif tag == "image":
            self.images.append(
                AnnotatedImage(image=self._name, size=self._size, labels=self._labels, boxes=tuple(self._boxes))
            )
