"""Small predictions and truths made by hand; no files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from chestmap.evaluation.truth import Truth
from chestmap.predictions.folder import Header, OwnRule, Predictions
from chestmap.types import Box, Findings, Frame


class Made:
    """Builds one thing after the other: images with maps, scores, labels and boxes."""

    def __init__(self, names: Sequence[str], canvas: tuple[int, int] = (8, 8), prefix: str = "image") -> None:
        self.findings, self.canvas, self.prefix = Findings(tuple(names)), canvas, prefix
        self.rows: list[tuple] = []

    def image(
        self,
        maps: np.ndarray,
        boxes: Mapping[str, Sequence[tuple[float, float, float, float]]] | None = None,
        labels: Sequence[float] | None = None,
        scores: Sequence[float] | None = None,
        patient: str = "",
        frame: Frame | None = None,
    ) -> "Made":
        boxes = boxes or {}
        given = tuple(Box(name, *corners) for name, several in boxes.items() for corners in several)
        labels = [float(name in boxes) for name in self.findings] if labels is None else labels
        frame = frame or Frame.fit((float(self.canvas[0]), float(self.canvas[1])), self.canvas)
        number = len(self.rows)
        scores = [0.5] * len(self.findings) if scores is None else scores
        self.rows.append(
            (f"{self.prefix}-{number:03}", patient or f"patient-{number:03}", maps, frame, scores, labels, given)
        )
        return self

    def predictions(self, own: OwnRule | None = None) -> Predictions:
        ids, patients, maps, frames, scores, _, _ = zip(*self.rows, strict=True)
        columns = {
            "image_id": ids,
            "patient_id": patients,
            "width": np.array([frame.image[0] for frame in frames], dtype=np.float32),
            "height": np.array([frame.image[1] for frame in frames], dtype=np.float32),
            "frame": np.array([frame.as_list() for frame in frames]),
        }
        table = np.array(scores, dtype=np.float32)
        columns |= {name: table[:, index] for index, name in enumerate(self.findings)}
        header = Header(findings=self.findings, canvas=self.canvas, model={"name": "made"}, own_rule=own or OwnRule(0.5))
        return Predictions(Path("made"), header, pl.DataFrame(columns), (np.stack(maps).astype(np.float16),))

    def truth(self, rows: Sequence[int] | slice = slice(None)) -> Truth:
        chosen = (
            [self.rows[index] for index in range(len(self.rows))[rows]]
            if isinstance(rows, slice)
            else [self.rows[i] for i in rows]
        )
        ids, patients, _, frames, _, labels, boxes = zip(*chosen, strict=True)
        return Truth(
            name="made",
            findings=self.findings,
            ids=ids,
            patients=patients,
            labels=np.array(labels, dtype=np.float32),
            boxes={image_id: given for image_id, given in zip(ids, boxes, strict=True) if given},
            sizes=np.array([frame.image for frame in frames], dtype=np.float64),
        )


@pytest.fixture
def made() -> Callable[..., Made]:
    return Made
