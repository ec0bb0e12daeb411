"""Writes boxes for detection programs: YOLO, Pascal VOC and CreateML. Only boxes are written, never maps.

yolo/classes.txt, yolo/labels/NAME.txt    finding number, center and size as shares of the image, score
voc/NAME.xml                              one file for each image, pixels counted from 1 as Pascal VOC does
createml.json                             one list for all images, centers and sizes in pixels
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from chestmap.reports.formats import Facts, Format
from chestmap.reports.result_tables import written
from chestmap.storage.atomic import making_folder
from chestmap.types import Box, Prediction


def _placed(folder: Path, file: str, ending: str) -> Path:
    """Where the boxes of an image go: its path with another ending, below the folder whatever the name holds."""
    parts = [part for part in PurePosixPath(file).parts if part not in {"/", "..", "."}]
    path = folder.joinpath(*parts[:-1], f"{PurePosixPath(parts[-1] if parts else 'image').stem}{ending}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class YoloWriter(ExitStack):
    """A `Writer` of one text file for each image, empty where it has no box, as YOLO programs train on."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._facts = facts
        self._folder = self.enter_context(making_folder(folder / "yolo"))
        (self._folder / "classes.txt").write_text("".join(f"{name}\n" for name in facts.findings), encoding="utf-8")

    def write(self, prediction: Prediction) -> None:
        """Writes one line for each box: class, center and size in shares of the image. No box gives an empty file."""
        lines = [self._line(box, prediction.frame.image) for box in prediction.boxes]
        path = _placed(self._folder / "labels", self._facts.file(prediction.image_id), ".txt")
        path.write_text("".join(lines), encoding="utf-8")

    def _line(self, box: Box, size: tuple[float, float]) -> str:
        width, height = size
        center = (box.x0 + box.x1) / 2 / width, (box.y0 + box.y1) / 2 / height
        numbers = (*center, (box.x1 - box.x0) / width, (box.y1 - box.y0) / height, box.score or 0.0)
        return f"{self._facts.findings.index(box.finding)} {' '.join(f'{number:.6f}' for number in numbers)}\n"


class VocWriter(ExitStack):
    """A `Writer` of Pascal VOC annotations; corners are whole pixels, the first pixel is 1 and the last belongs to the box."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._facts, self._folder = facts, self.enter_context(making_folder(folder / "voc"))

    def write(self, prediction: Prediction) -> None:
        """Write the XML file of one image."""
        file, (width, height) = self._facts.file(prediction.image_id), prediction.frame.image
        objects = "".join(self._object(box) for box in prediction.boxes)
        text = (
            f"<annotation>\n  <filename>{escape(file)}</filename>\n"
            f"  <size><width>{width:.0f}</width><height>{height:.0f}</height><depth>1</depth></size>\n{objects}</annotation>\n"
        )
        _placed(self._folder, file, ".xml").write_text(text, encoding="utf-8")

    @staticmethod
    def _object(box: Box) -> str:
        x0, y0, x1, y1 = round(box.x0) + 1, round(box.y0) + 1, round(box.x1), round(box.y1)
        corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{max(x0, x1)}</xmax><ymax>{max(y0, y1)}</ymax>"
        score = "" if box.score is None else f"<confidence>{box.score:.6f}</confidence>"
        return f"  <object><name>{escape(box.finding)}</name><bndbox>{corners}</bndbox>{score}</object>\n"


class CreateMlWriter(ExitStack):
    """A `Writer` of createml.json, an image a line."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._facts = facts
        self._file = self.enter_context(written(folder / "createml.json"))
        self._file.write("[")
        self._between = "\n"
        self.push(self._end)

    def write(self, prediction: Prediction) -> None:
        """Append the line of one image."""
        marks = [
            {"label": box.finding, "confidence": box.score, "coordinates": self._center(box)} for box in prediction.boxes
        ]
        line = {"image": self._facts.file(prediction.image_id), "annotations": marks}
        self._file.write(self._between + json.dumps(line, ensure_ascii=False))
        self._between = ",\n"

    @staticmethod
    def _center(box: Box) -> dict[str, float]:
        width, height = box.x1 - box.x0, box.y1 - box.y0
        numbers = {"x": box.x0 + width / 2, "y": box.y0 + height / 2, "width": width, "height": height}
        return {key: round(value, 2) for key, value in numbers.items()}

    def _end(self, *_: object) -> bool:
        self._file.write("\n]\n")
        return False


YOLO = Format("yolo", "yolo/: a text file for each image and classes.txt", YoloWriter)
VOC = Format("voc", "voc/: a Pascal VOC XML file for each image", VocWriter)
CREATEML = Format("createml", "createml.json", CreateMlWriter)
