"""Converts to and from annotation programs: COCO, Label Studio and CVAT; makes a dataset folder of their annotations.

`chestmap data annotations` calls `export` and `import_annotations`. Boxes go out in image pixels of the stored file, or in
the unit that the program uses. An import makes a folder that the layout `folder` reads; an image that nobody marked is
unknown there, not absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from chestmap.annotations.annotated_image import AnnotatedImage, SetAside, new_folder, place_image, write_tables
from chestmap.annotations.box_files import read_createml, read_voc, read_yolo
from chestmap.annotations.cvat import cvat_text, read_cvat
from chestmap.annotations.label_studio import LOCAL_FILES, label_config, label_studio_tree, read_label_studio
from chestmap.datasets.coco import coco_results, coco_tree, read_coco
from chestmap.datasets.folder import FolderSettings, names_of, read_folder
from chestmap.datasets.folder_tables import with_seen
from chestmap.datasets.source import Source
from chestmap.datasets.text_files import read_json, read_text
from chestmap.errors import BadBox, BadImage, BadInput, BadTable, did_you_mean
from chestmap.imaging.size import size_of
from chestmap.storage.atomic import write_text
from chestmap.types import Box, Findings

Form = Literal["coco", "coco-results", "label-studio", "cvat"]
FORMS: tuple[Form, ...] = get_args(Form)


def annotated_of(source: Source, *, only_boxed: bool = False) -> list[AnnotatedImage]:
    """The images of a source; where its tables give no size, the image is opened for it."""
    found = []
    for row, one in enumerate(source.images.iter_rows(named=True)):
        boxes = source.boxes.get(one["image_id"], ())
        if only_boxed and not boxes:
            continue
        known = one["width"] is not None
        size = (one["width"], one["height"]) if known else source[row].radiograph.size
        labels = {
            name: bool(value) for name, value in zip(source.findings, source.labels[row], strict=True) if value in {0, 1}
        }
        found.append(
            AnnotatedImage(
                image=one["path"],
                size=(float(size[0]), float(size[1])),
                labels=labels,
                boxes=boxes,
                patient=one["patient_id"],
                view=one["view"],
            )
        )
    return found


@dataclass(frozen=True)
class Predicted:
    """A model's boxes with scores, by image; images are found by path, name or stem."""

    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)
    model: str = "model"


def export(
    out: Path,
    form: str,
    findings: Findings,
    images: Sequence[AnnotatedImage],
    given: Predicted | None = None,
    prefix: str = LOCAL_FILES,
) -> None:
    """Write one file, for Label Studio also its labeling configuration. COCO's dataset form holds people's annotations only."""
    if form not in FORMS:
        raise BadInput(f"form {form}: allowed: {', '.join(FORMS)}{did_you_mean(form, FORMS)}")
    predicted, model = (given or Predicted()).boxes, (given or Predicted()).model
    findings = with_seen(findings.names, [box.finding for boxes in predicted.values() for box in boxes])
    names = names_of(one.image for one in images)
    predicted = {
        names.get(name, name): [replace(box, finding=findings.resolve(box.finding)) for box in many]
        for name, many in predicted.items()
    }
    if form == "cvat":
        text = cvat_text(findings, images, predicted)
    elif form == "label-studio":
        text = json.dumps(label_studio_tree(images, predicted, model, prefix), ensure_ascii=False, indent=1)
        write_text(out.with_name(f"{out.stem}.config.xml"), label_config(findings))
    elif form == "coco-results":
        text = json.dumps(coco_results(findings, [(one.image, predicted.get(one.image, ())) for one in images]), indent=0)
    else:
        text = json.dumps(
            coco_tree(findings, [(one.image, one.size, one.boxes) for one in images]), ensure_ascii=False, indent=0
        )
    write_text(out, text)


def image_sizes(root: Path) -> dict[str, tuple[float, float]]:
    """Width and height of every image below a folder, by path and by path without its ending; only headers are read."""
    found: dict[str, tuple[float, float]] = {}
    for name in read_folder(FolderSettings(root=root)).ids:
        try:
            size = size_of(root / name)
        except BadImage:
            continue
        found |= dict.fromkeys((name, name.rpartition(".")[0] or name), size)
        found.setdefault(Path(name).name, size)
        found.setdefault(Path(name).stem, size)
    return found


def read_annotations(path: Path, images: Path | None = None) -> tuple[list[AnnotatedImage], SetAside]:
    """What people marked, whichever of the three forms the file has."""
    if path.is_dir():
        if next(path.rglob("*.xml"), None):
            return read_voc(path)
        return read_yolo(path, image_sizes(images or path))
    start = read_text(path).lstrip()[:1]
    if start == "<":
        return read_cvat(path)
    if start == "[":
        first = next(iter(read_json(path, list)), {})
        return (
            read_createml(path, image_sizes(images or path.parent))
            if isinstance(first, dict) and "image" in first
            else read_label_studio(path)
        )
    if start == "{":
        return _coco_images(path)
    raise BadTable(f"{path}: neither JSON of COCO or Label Studio nor XML of CVAT")


def _coco_images(path: Path) -> tuple[list[AnnotatedImage], SetAside]:
    table, sizes = read_coco(path)
    if any("score" in mark for mark in read_json(path, dict)["annotations"] if isinstance(mark, dict)):
        raise BadTable(f"{path}: its boxes have scores, so they are a model's; have people look at them first")
    boxes: dict[str, list[Box]] = {}
    aside = SetAside(path.name, [problem.message for problem in table.problems])
    for number, name, finding, *corners in table.rows.select(
        "annotation", "image", "finding", "x0", "y0", "x1", "y1"
    ).iter_rows():
        try:
            boxes.setdefault(name, []).append(Box(finding, *corners))
        except BadBox as problem:
            aside.add(f"annotation {number}: {problem}")
    rows = sizes.iter_rows()
    return [
        AnnotatedImage(image=name, size=(wide or 0.0, high or 0.0), labels={}, boxes=tuple(boxes.get(name, ())))
        for name, wide, high in rows
    ], aside


def import_annotations(path: Path, root: Path, out: Path, *, complete: bool = False, copy: bool = False) -> SetAside:
    """A folder that `folder.py` reads. A box means present; what is not marked is unknown, or absent where all is marked
    (`complete`). Images are found in `root` by path, name or stem; what cannot be used is set aside and reported.
    """
    images, aside = read_annotations(path, root)
    named = [name for one in images for name in (*one.labels, *(box.finding for box in one.boxes))]
    if not named:
        raise BadTable(f"{path}: no image in it is annotated")
    findings, names = with_seen(named[:1], named), names_of(read_folder(FolderSettings(root=root)).ids)
    done: dict[str, AnnotatedImage] = {}
    with new_folder(out) as folder:
        for one in images:
            said = _normalized(one, findings, aside, complete=complete)
            if not said.labels:
                continue
            short = said.image.rpartition("/")[2]
            file = next((names[key] for key in (said.image, short, short.rpartition(".")[0]) if key in names), None)
            if file is None or file in done:
                aside.add(f"{said.image}: {'is not below ' + str(root) if file is None else 'stands twice in the file'}")
                continue
            place_image(root / file, folder / "images" / file, copy=copy)
            done[file] = replace(said, image=f"images/{file}")
        if not done:
            raise BadTable(f"{path}: none of its images is below {root}, the first is {images[0].image}")
        write_tables(folder, findings, list(done.values()))
    return aside


def _normalized(one: AnnotatedImage, findings: Findings, aside: SetAside, *, complete: bool) -> AnnotatedImage:
    """Names in one spelling, boxes inside the image, labels from boxes."""
    labels = dict.fromkeys(findings.names, False) if complete else {}
    labels |= {findings.resolve(name): said for name, said in one.labels.items()}
    boxes = []
    for box in one.boxes:
        inside = box.clipped(*one.size)
        if inside is None or one.labels.get(box.finding) is False:
            aside.add(f"{one.image}: a box of {box.finding} lies outside the image, or it is called absent")
        else:
            boxes.append(replace(inside, finding=findings.resolve(box.finding), score=None))
            labels[boxes[-1].finding] = True
    size = one.size if np.prod(one.size) else (0.0, 0.0)
    return replace(one, labels=labels, boxes=tuple(boxes), size=size)
