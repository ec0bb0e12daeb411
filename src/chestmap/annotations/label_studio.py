"""Reads and writes Label Studio's JSON: annotations of people and predictions of models. Boxes are in percent of the image.

Findings without a box are choices named `present` and `absent`; `label_config` is the project's configuration for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from chestmap.annotations.annotated_image import AnnotatedImage, SetAside, size_of
from chestmap.datasets.text_files import read_json
from chestmap.errors import BadBox, BadTable
from chestmap.types import Box, Findings

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""

UNREAD = ("rectangle", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels")


def label_config(findings: Findings) -> str:
    """The labeling interface to paste into a project: boxes of each finding, and what is present or absent."""
    labels = "".join(f'\n    <Label value="{escape(name)}"/>' for name in findings)
    choices = "".join(f'\n    <Choice value="{escape(name)}"/>' for name in findings)
    said = (
        f'\n  <Choices name="{name}" toName="image" choice="multiple">{choices}\n  </Choices>'
        for name in ("present", "absent")
    )
    boxes = f'\n  <RectangleLabels name="box" toName="image">{labels}\n  </RectangleLabels>'
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>{boxes}{"".join(said)}\n</View>\n'


def label_studio_tree(
    images: Sequence[AnnotatedImage], predicted: Mapping[str, Sequence[Box]], model: str = "model", prefix: str = LOCAL_FILES
) -> list[dict[str, Any]]:
    """Tasks; `prefix` precedes each image's name. A prediction's score is that of its best box."""
    tasks = []
    for number, one in enumerate(images, 1):
        address = prefix + (quote(one.image) if "?d=" in prefix else one.image)
        task: dict[str, Any] = {"id": number, "data": {"image": address, "patient_id": one.patient or one.image}}
        if one.labels or one.boxes:
            said = [_choices(one, word, present=present) for word, present in (("present", True), ("absent", False))]
            task["annotations"] = [{"result": [*_regions(one, one.boxes), *filter(None, said)]}]
        if (boxes := predicted.get(one.image)) is not None:
            score = max((box.score or 0.0 for box in boxes), default=0.0)
            task["predictions"] = [{"model_version": model, "score": score, "result": _regions(one, boxes)}]
        tasks.append(task)
    return tasks


def _regions(one: AnnotatedImage, boxes: Sequence[Box]) -> list[dict[str, Any]]:
    width, height = one.size
    found = []
    for number, box in enumerate(boxes):
        value = {
            "x": 100 * box.x0 / width, "y": 100 * box.y0 / height, "width": 100 * (box.x1 - box.x0) / width,
            "height": 100 * (box.y1 - box.y0) / height, "rotation": 0, "rectanglelabels": [box.finding],
        }  # fmt: skip
        region = {"id": f"box-{number}", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value}
        region |= {"original_width": round(width), "original_height": round(height), "image_rotation": 0}
        found.append(region if box.score is None else region | {"score": box.score})
    return found


def _choices(one: AnnotatedImage, word: str, *, present: bool) -> dict[str, Any] | None:
    names = [name for name, said in one.labels.items() if said is present]
    about = {"id": word, "type": "choices", "from_name": word, "to_name": "image"}
    return about | {"value": {"choices": names}} if names else None


def read_label_studio(path: Path) -> tuple[list[AnnotatedImage], SetAside]:
    """The last annotation of each task that was not skipped; predictions are a model's word and not read."""
    images, aside = [], SetAside(path.name)
    for number, task in enumerate(read_json(path, list), 1):
        match task:
            case {"data": {"image": str() as address, **data}, "annotations": list() as many}:
                done = [one for one in many if isinstance(one, dict) and not one.get("was_cancelled")]
            case {"data": {"image": str()}}:
                continue
            case _:
                raise BadTable(f"{path}: task {number} has no data.image; export the project as JSON, not JSON-MIN")
        if done:
            newest = max(enumerate(done), key=lambda one: (str(one[1].get("updated_at") or ""), one[0]))[1]
            images.append(_image(address, data, newest, aside))
    return images, aside


def _image(address: str, data: dict[str, Any], annotation: dict[str, Any], aside: SetAside) -> AnnotatedImage:
    name, labels, boxes, size = _name(address), dict[str, bool](), list[Box](), (0.0, 0.0)
    regions = annotation.get("result") or ()
    if not isinstance(regions, list | tuple):
        aside.add(f"{name}: its result is no list")
        regions = ()
    for region in regions:
        match region:
            case {"type": "choices", "from_name": ("present" | "absent") as word, "value": {"choices": list() as names}}:
                for finding in map(str, names):
                    if labels.setdefault(finding, word == "present") != (word == "present"):
                        aside.add(f"{name}: {finding} is both present and absent")
                        del labels[finding]
            case {"type": str() as kind} if kind in UNREAD:
                aside.add(f"{name}: {kind} has no upright corners")
            case {"type": "rectanglelabels", "value": dict() as value}:
                try:
                    size = size_of(region.get("original_width"), region.get("original_height"))
                    if value.get("rotation") or region.get("image_rotation"):
                        raise BadBox("turned boxes and images have no upright corners")
                    if not isinstance(findings := value["rectanglelabels"], list):
                        raise BadBox("rectanglelabels is no list")
                    boxes += [_box(str(finding), value, size) for finding in findings]
                except (BadBox, KeyError, TypeError, ValueError, OverflowError) as problem:
                    aside.add(f"{name}: a box is not usable ({problem})")
    patient = data.get("patient_id")
    return AnnotatedImage(
        image=name, size=size, labels=labels, boxes=tuple(boxes), patient=patient if isinstance(patient, str) else ""
    )


def _box(finding: str, value: dict[str, Any], size: tuple[float, float]) -> Box:
    x, y, width, height = (float(value[key]) for key in ("x", "y", "width", "height"))
    wide, high = size
    return Box(finding, x * wide / 100, y * high / 100, (x + width) * wide / 100, (y + height) * high / 100)


def _name(address: str) -> str:
    """A path from an address: below the local files, or of an upload, which Label Studio prefixes with eight digits."""
    if "?d=" in address:
        return unquote(address.partition("?d=")[2])
    last = unquote(address.partition("?")[0]) if address.startswith(("/", "http")) else address
    return re.sub(r"^.*/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?", "", last)
