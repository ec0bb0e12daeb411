"""Reads boxes of detection programs: YOLO folders, Pascal VOC folders and CreateML files, in pixels.

Each reader takes a folder or file and gives `AnnotatedImage`s with boxes in image pixels, half-open. What cannot be read is
set aside with a reason; the import goes on. `reports/box_writers.py` writes the same three forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

from chestmap.annotations.annotated_image import AnnotatedImage, SetAside
from chestmap.datasets.text_files import read_json, read_text
from chestmap.errors import BadBox, BadTable
from chestmap.types import Box

CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")
Sizes = Mapping[str, tuple[float, float]]
"""(width, height) of each image, by its path from the folder, and by the path without its ending."""


def class_file(folder: Path) -> Path | None:
    """Where a YOLO folder names its findings."""
    return next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)


def read_yolo(folder: Path, sizes: Sizes) -> tuple[list[AnnotatedImage], SetAside]:
    """One text file for each image, in `labels/` or next to the images; numbers are shares of the image."""
    names_file = class_file(folder)
    if names_file is None:
        raise BadTable(f"{folder}: no {', '.join(CLASS_FILES[:3])}; a YOLO folder names its findings in one of them")
    names, aside, found = _class_names(names_file), SetAside(folder.name), []
    start = folder / "labels" if (folder / "labels").is_dir() else folder
    for path in sorted(start.rglob("*.txt")):
        if path == names_file:
            continue
        image = path.relative_to(start).with_suffix("").as_posix()
        size = sizes.get(image) or sizes.get(path.stem)
        if size is None:
            aside.add(f"{path.name}: no image of this name")
            continue
        boxes = []
        lines = read_text(path).splitlines() if path.stat().st_size else []  # an image without a finding
        for number, line in enumerate(lines, 1):
            try:
                boxes += [_yolo_box(line, names, size)] if line.strip() else []
            except (ValueError, IndexError) as problem:
                aside.add(f"{path.name}: line {number}: {problem}")
        found.append(AnnotatedImage(image=image, size=size, labels={}, boxes=tuple(boxes)))
    return found, aside


def _class_names(path: Path) -> list[str]:
    """Lines, or the `names` of a YAML file as a list or as numbered lines."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    if path.suffix not in {".yaml", ".yml"}:
        return [line for line in lines if line]
    after = [line.partition("names:")[2] for line in lines if line.startswith("names:")]
    if after and after[0].strip():
        return [name.strip(" '\"") for name in after[0].strip(" []").split(",")]
    rest = lines[next((row for row, line in enumerate(lines) if line.startswith("names:")), len(lines)) + 1 :]
    items = [line.removeprefix("-").partition(":") for line in rest if line.startswith("-") or line[:1].isdigit()]
    return [(value or key).strip(" '\"") for key, _, value in items]


def _yolo_box(line: str, names: list[str], size: tuple[float, float]) -> Box:
    number, *values = line.split()
    if len(values) not in {4, 5}:
        raise ValueError(
            f"{len(values) + 1} numbers; expected a finding's number, x, y, width and height (a polygon is not read)"
        )
    x, y, w, h = (float(value) for value in values[:4])
    if not all(0 <= value <= 1 for value in (x, y, w, h)):
        raise ValueError(f"{line.strip()[:60]}: expected shares of the image from 0 to 1")
    width, height = size
    return Box(names[int(number)], (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)


def read_voc(folder: Path) -> tuple[list[AnnotatedImage], SetAside]:
    """One XML file for each image; whole pixels from 1, the last of which belongs to the box."""
    found, aside = [], SetAside(folder.name)
    for path in sorted(folder.rglob("*.xml")):
        tree = _VocTree(path)
        boxes = []
        for mark in tree.objects:
            try:
                x0, y0, x1, y1 = (float(mark[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                boxes.append(Box(mark["name"], x0 - 1, y0 - 1, x1, y1))
            except (KeyError, ValueError, BadBox) as problem:
                aside.add(f"{path.name}: a box is not usable ({problem})")
        found.append(AnnotatedImage(image=tree.file or path.stem, size=tree.size, labels={}, boxes=tuple(boxes)))
    return found, aside


class _VocTree:
    """What expat reads of one file; a document type is refused, so that nothing is fetched and nothing grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.above, self.text = path, list[str](), ""
        self.file, self.objects = "", list[dict[str, str]]()
        self.sides: dict[str, float] = {}
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._add
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            parser.Parse(read_text(path), True)  # noqa: FBT003 - positional only
        except (expat.ExpatError, ValueError) as error:
            raise BadTable(f"{path}: no Pascal VOC annotation: {error}") from None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the image as the file gives them; 0 where it does not."""
        return self.sides.get("width", 0.0), self.sides.get("height", 0.0)

    def _doctype(self, *_: object) -> None:
        raise BadTable(f"{self.path}: has a document type, which is not read")

    def _start(self, name: str, _: Mapping[str, str]) -> None:
        self.above.append(name)
        self.text = ""
        if name == "object":
            self.objects.append({})

    def _add(self, text: str) -> None:
        self.text += text

    def _end(self, name: str) -> None:
        match self.above:
            case ["annotation", "filename"]:
                self.file = self.text.strip()
            case ["annotation", "size", "width" | "height"]:
                self.sides[name] = float(self.text)
            case ["annotation", "object", "name"] | ["annotation", "object", "bndbox", _]:
                self.objects[-1][name] = self.text.strip()
        self.above.pop()
        self.text = ""


def read_createml(path: Path, sizes: Sizes) -> tuple[list[AnnotatedImage], SetAside]:
    """One JSON list; centers and sizes in pixels. The images say how large they are."""
    found, aside = [], SetAside(path.name)
    for number, row in enumerate(read_json(path, list), 1):
        match row:
            case {"image": str() as image, "annotations": list() as marks}:
                boxes: list[Box] = []
                for mark in marks:
                    try:
                        boxes.append(_createml_box(mark))
                    except (KeyError, TypeError, ValueError) as problem:
                        aside.add(f"{image}: a box is not usable ({problem})")
                size = sizes.get(image) or sizes.get(image.rpartition(".")[0]) or (0.0, 0.0)
                found.append(AnnotatedImage(image=image, size=size, labels={}, boxes=tuple(boxes)))
            case _:
                raise BadTable(f"{path}: entry {number} has no image and annotations; expected CreateML's list")
    return found, aside


def _createml_box(mark: Any) -> Box:
    place = mark["coordinates"]
    x, y, w, h = (float(place[key]) for key in ("x", "y", "width", "height"))
    return Box(str(mark["label"]), x - w / 2, y - h / 2, x + w / 2, y + h / 2)
