"""Writes predictions as tables for other programs: CSV, JSON and COCO. Each is written atomically.

scores.csv          a row for each image, a column for each finding
boxes.csv           a row for each box, in image pixels
results.json        both, an image a line
coco.json           a detection data set: images, categories, annotations with scores
coco_results.json   the annotations alone, as `COCO.loadRes` of pycocotools takes them
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from chestmap.reports.formats import Facts, Format
from chestmap.storage.atomic import replacing
from chestmap.types import Box, Prediction

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet would compute a cell that starts so; an apostrophe keeps it text."""


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file that takes its name at the end, unless something went wrong."""
    with replacing(path) as made, made.open("w", newline="", encoding="utf-8") as file:
        yield file
        file.flush()


def safe_cell(text: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


class CsvWriter(ExitStack):
    """A `Writer` of scores.csv and boxes.csv, to be used in a `with`."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._scores = csv.writer(self.enter_context(written(folder / "scores.csv")))
        self._boxes = csv.writer(self.enter_context(written(folder / "boxes.csv")))
        self._scores.writerow(["image_id", "patient_id", "width", "height", *facts.findings])
        self._boxes.writerow(["image", "finding", "x0", "y0", "x1", "y1", "score"])

    def write(self, prediction: Prediction) -> None:
        """Append the scores and boxes of one image."""
        image, patient = safe_cell(prediction.image_id), safe_cell(prediction.patient_id)
        size = [f"{side:g}" for side in prediction.frame.image]
        self._scores.writerow([image, patient, *size, *(_score(float(one)) for one in prediction.scores)])
        for box in prediction.boxes:
            self._boxes.writerow([image, box.finding, *map(_pixel, box.corners), _score(box.score)])


class JsonWriter(ExitStack):
    """A `Writer` of results.json, with the model and the score from which on each finding counts as present."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._file = self.enter_context(written(folder / "results.json"))
        self._file.write(json.dumps({"model": dict(facts.model)}, ensure_ascii=False)[:-1] + ', "images": [')
        self._between = "\n"
        self.push(self._end)

    def write(self, prediction: Prediction) -> None:
        """Append the line of one image."""
        line = {
            "image_id": prediction.image_id,
            "patient_id": prediction.patient_id,
            "width": prediction.frame.image[0],
            "height": prediction.frame.image[1],
            "scores": {name: _score(float(one)) for name, one in zip(prediction.findings, prediction.scores, strict=True)},
            "boxes": [
                {"finding": box.finding, "box": [_pixel(value) for value in box.corners], "score": _score(box.score)}
                for box in prediction.boxes
            ],
        }
        self._file.write(self._between + json.dumps(line, ensure_ascii=False))
        self._between = ",\n"

    def _end(self, *_: object) -> bool:
        self._file.write("\n]}\n")
        return False


class CocoWriter(ExitStack):
    """A `Writer` of coco.json and coco_results.json; boxes are x, y, width, height, images and categories count from 1."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._facts = facts
        self._category = {name: number for number, name in enumerate(facts.findings, 1)}
        self._whole = self.enter_context(written(folder / "coco.json"))
        self._results = self.enter_context(written(folder / "coco_results.json"))
        self._later = folder / "coco_results.json.later"
        self._marks = self.enter_context(self._later.open("w+", encoding="utf-8"))
        categories = [{"id": number, "name": name} for name, number in self._category.items()]
        self._whole.write(json.dumps({"categories": categories})[:-1] + ', "images": [')
        self._results.write("[")
        self._images = self._annotations = 0
        self.push(self._end)

    def write(self, prediction: Prediction) -> None:
        """Append one image and its boxes."""
        self._images += 1
        width, height = prediction.frame.image
        image = {"id": self._images, "file_name": self._facts.file(prediction.image_id), "width": width, "height": height}
        self._whole.write(("\n" if self._images == 1 else ",\n") + json.dumps(image, ensure_ascii=False))
        for box in prediction.boxes:
            self._annotations += 1
            mark = self._mark(box)
            between = "\n" if self._annotations == 1 else ",\n"
            self._results.write(between + json.dumps(mark))
            extra = {"id": self._annotations, "area": _pixel(box.area), "iscrowd": 0}
            self._marks.write(between + json.dumps(mark | extra))

    def _mark(self, box: Box) -> dict[str, Any]:
        corner = [_pixel(value) for value in (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)]
        return {
            "image_id": self._images,
            "category_id": self._category[box.finding],
            "bbox": corner,
            "score": _score(box.score),
        }

    def _end(self, *_: object) -> bool:
        self._results.write("\n]\n")
        self._whole.write('\n], "annotations": [')
        self._marks.seek(0)
        shutil.copyfileobj(self._marks, self._whole)
        self._whole.write("\n]}\n")
        self._later.unlink()
        return False


def _score(score: float | None) -> float:
    """Six digits: what float32 holds of a number near 1."""
    return round(score or 0.0, 6)


def _pixel(value: float) -> float:
    return round(value, 2)


CSV = Format("csv", "scores.csv and boxes.csv", CsvWriter)
JSON = Format("json", "results.json, an image a line", JsonWriter)
COCO = Format("coco", "coco.json and coco_results.json", CocoWriter)
