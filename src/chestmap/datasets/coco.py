"""Boxes from and to a COCO detection file: images, annotations (x, y, width, height) and categories.

The lists of images and categories must be sound, since everything refers to them; a bad annotation is set aside. Masks,
crowds and scores are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from chestmap.datasets.csv_table import Table
from chestmap.datasets.source import Problem
from chestmap.datasets.text_files import four_numbers, read_json
from chestmap.errors import BadTable
from chestmap.types import Box, Findings


def read_coco(path: Path) -> tuple[Table, pl.DataFrame]:
    """Boxes as rows (`image` is the file name), and the images' sizes, which are the boxes' space.

    The sizes are those that the file gives, null where it gives none; images may be stored smaller.
    """
    tree = read_json(path, dict)
    for key in ("images", "annotations", "categories"):
        if not isinstance(tree.get(key), list):
            raise BadTable(f"{path}: no list of {key}; a COCO file holds images, annotations and categories")
    names = _named(path, tree["images"], "images", "file_name")
    findings = _named(path, tree["categories"], "categories", "name")
    rows, bad = [], []
    for index, mark in enumerate(tree["annotations"]):
        row = _row(mark, names, findings)
        if row is None:
            bad.append(index)
        else:
            rows.append((index, *row))
    schema = {
        "annotation": pl.Int64,
        "image": pl.String,
        "finding": pl.String,
        **dict.fromkeys(("x0", "y0", "x1", "y1"), pl.Float64),
    }
    problems: tuple[Problem, ...] = ()
    if bad:
        what = "expected an image_id and a category_id of this file, and a bbox of four numbers"
        message = f"{path.name} annotation {bad[0]}: {what}; set aside ({len(bad)} in all)"
        problems = (Problem("error", "annotation", message, len(bad)),)
    table = Table(
        file=path.name, rows=pl.DataFrame(rows, schema=schema, orient="row"), place="annotation", problems=problems
    )
    sizes = [(one["file_name"], *_size(one)) for one in tree["images"]]
    size_schema = {"image": pl.String, "width": pl.Float32, "height": pl.Float32}
    return table, pl.DataFrame(sizes, schema=size_schema, orient="row").unique("image", keep="first", maintain_order=True)


def _named(path: Path, entries: list[Any], key: str, name: str) -> dict[Any, str]:
    """Names by id; ids are numbers or texts, and unique."""
    named = {}
    for index, entry in enumerate(entries):
        ok = isinstance(entry, dict) and isinstance(entry.get("id"), int | str) and isinstance(entry.get(name), str)
        if not ok:
            raise BadTable(f"{path}: {key} entry {index} has no id or no {name}")
        if entry["id"] in named:
            raise BadTable(f"{path}: two {key} have the id {entry['id']}")
        named[entry["id"]] = entry[name]
    return named


def _row(mark: Any, names: dict[Any, str], findings: dict[Any, str]) -> tuple[Any, ...] | None:
    if not isinstance(mark, dict):
        return None
    image, category = mark.get("image_id"), mark.get("category_id")
    box = four_numbers(mark.get("bbox"))
    hashable = isinstance(image, int | str) and isinstance(category, int | str)
    if box is None or not hashable or image not in names or category not in findings:
        return None
    x, y, width, height = box
    return names[image], findings[category], x, y, x + width, y + height


def _size(image: dict[str, Any]) -> tuple[float | None, float | None]:
    match image:
        case {"width": int() | float() as width, "height": int() | float() as height} if (
            1 <= width < 1e6 and 1 <= height < 1e6
        ):
            return float(width), float(height)
    return None, None


def read_scored(path: Path, of: Path | None = None) -> dict[str, list[Box]]:
    """A model's boxes by image name: of a dataset form with scores, or of a results list with the ids of the dataset `of`."""
    tree = read_json(of or path, dict)
    marks = read_json(path, list) if of else tree.get("annotations")
    if not isinstance(marks, list):
        raise BadTable(f"{path}: no list of annotations; give coco.json, or coco_results.json and its data set")
    names = _named(of or path, tree.get("images") or [], "images", "file_name")
    findings = _named(of or path, tree.get("categories") or [], "categories", "name")
    found: dict[str, list[Box]] = {name: [] for name in names.values()}
    for place, mark in enumerate(marks):
        row = _row(mark, names, findings)
        score = mark.get("score") if isinstance(mark, dict) else None
        if row is None or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise BadTable(f"{path}: entry {place}: expected image_id, category_id, bbox and a score from 0 to 1")
        image, finding, x0, y0, x1, y1 = row
        found[image].append(Box(finding, x0, y0, x1, y1, score))
    return found


def coco_results(findings: Findings, images: Sequence[tuple[str, Sequence[Box]]]) -> list[dict[str, Any]]:
    """The results list, as `COCO.loadRes` of pycocotools takes it; ids are those of `coco_tree` of the same images."""
    number = {name: place for place, name in enumerate(findings, 1)}
    return [
        {"image_id": place, "category_id": number[box.finding], "bbox": _sides(box), "score": box.score or 0.0}
        for place, (_, boxes) in enumerate(images, 1)
        for box in boxes
    ]


def _sides(box: Box) -> list[float]:
    return [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]


def coco_tree(findings: Findings, images: Sequence[tuple[str, tuple[float, float], Sequence[Box]]]) -> dict[str, Any]:
    """The dataset form: each image with its name, size and boxes; ids count from 1."""
    number = {name: place for place, name in enumerate(findings, 1)}
    marks: list[dict[str, Any]] = []
    for place, (_, _, boxes) in enumerate(images, 1):
        for box in boxes:
            mark = {"id": len(marks) + 1, "image_id": place, "category_id": number[box.finding], "bbox": _sides(box)}
            mark |= {"area": box.area, "iscrowd": 0}
            marks.append(mark if box.score is None else mark | {"score": box.score})
    return {
        "images": [
            {"id": place, "file_name": name, "width": width, "height": height}
            for place, (name, (width, height), _) in enumerate(images, 1)
        ],
        "annotations": marks,
        "categories": [{"id": place, "name": name} for name, place in number.items()],
    }
