"""Predicts images in memory.

    import chestmap
    predictor = chestmap.load("runs/ham/model")
    predictor.predict("film.dcm").show()

A notebook, the service and `chestmap predict` use the same class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64, UInt8

from chestmap.errors import BadModel, Diverged
from chestmap.imaging.canvas import on_canvas
from chestmap.imaging.conversion import Image, radiograph_from
from chestmap.models.engines import ForwardSettings, open_forward
from chestmap.models.folder import Model, open_model
from chestmap.models.largest_box import BoxRule, boxes_of
from chestmap.models.notebook import ShownPrediction
from chestmap.predictions.header import GREATEST
from chestmap.types import Findings, Frame, Prediction, Radiograph

Forward = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""Images in [0, 1] to logits [batch, finding] and raw maps [batch, finding, h, w]; see `engines.py`."""
Images = Float[Any, "batch 1 h w"]
"""An array, or a tensor of torch."""

Arrays = tuple[Float32[np.ndarray, "batch finding"], Float16[np.ndarray, "batch finding map_h map_w"]]


class Predictor:
    """A model with the program that runs it. For one caller at a time, as its `forward` is.

    `findings` are those that the model was trained on: one of its outputs that never had a label is left out.

    Examples:
        >>> import chestmap
        >>> model = chestmap.load("runs/own")
        >>> model.predict("film.png").findings == model.findings
        True
    """

    def __init__(self, model: Model, forward: Forward | None = None) -> None:
        self.model, self.forward = model, forward or open_forward(model)
        self.findings: Findings = model.findings.subset(_trained(model))
        self.calibration = _calibration(model)
        self.rule = BoxRule(model.own_rule, _levels(model.about.get("thresholds") or {}, model, "thresholds"))
        self.operating_points = _levels(model.about.get("operating_points") or {}, model, "operating_points")

    @cached_property
    def _columns(self) -> Int64[np.ndarray, "finding"]:
        """Gives the network's outputs to keep, in the order of `findings`."""
        return np.array([self.model.findings.index(name) for name in self.findings], dtype=np.int64)

    def predict(self, image: Image) -> ShownPrediction:
        """Of one image: a path, bytes, a PIL image, an array or a tensor; white is dense. See `chestmap.predict`."""
        return self.shown([radiograph_from(image)])[0]

    def shown(self, radiographs: Sequence[Radiograph]) -> list[ShownPrediction]:
        """All in one batch; each keeps its picture."""
        pairs = zip(radiographs, self.predict_many(radiographs), strict=True)
        return [
            ShownPrediction(
                **{name: getattr(found, name) for name in Prediction.__dataclass_fields__},
                radiograph=radiograph,
                rule=self.model.own_rule,
            )
            for radiograph, found in pairs
        ]

    def predict_many(self, radiographs: Sequence[Radiograph]) -> list[Prediction]:
        """All in one batch: the caller bounds how many."""
        if not radiographs:
            return []
        pairs = [on_canvas(radiograph, self.model.canvas) for radiograph in radiographs]
        canvases, frames = np.stack([canvas for canvas, _ in pairs]), [frame for _, frame in pairs]
        scores, maps = self.arrays(images_of(canvases), [one.image_id for one in radiographs])
        rows = zip(radiographs, frames, scores, maps, strict=True)
        return [self._prediction(*row) for row in rows]

    def arrays(self, images: Images, ids: Sequence[str]) -> Arrays:
        """As `raw`, refused where a score is no number."""
        scores, maps = self.raw(images)
        if not np.isfinite(scores).all():
            bad = [image_id for image_id, row in zip(ids, scores, strict=True) if not np.isfinite(row).all()]
            raise Diverged(
                f"{self.model.folder}: a score is not finite; images {', '.join(bad)}; check these images and the weights"
            )
        return scores, maps

    def raw(self, images: Images) -> Arrays:
        """Computes scores and maps of images that are on the canvas, in [0, 1].

        Scores are calibrated where model.json defines it. Maps are kept as float16, at 0 or above. Nothing is checked
        here.
        """
        logits, maps = self.forward(images)
        slopes, offsets = self.calibration
        scores = _logistic(logits.astype(np.float64) * slopes + offsets).astype(np.float32)[:, self._columns]
        return scores, np.clip(maps[:, self._columns], 0, GREATEST).astype(np.float16)

    def _prediction(
        self,
        radiograph: Radiograph,
        frame: Frame,
        scores: Float32[np.ndarray, "finding"],
        maps: Float16[np.ndarray, "finding h w"],
    ) -> Prediction:
        """Joins scores and maps of one image with the boxes that the rule cuts from them."""
        boxes = boxes_of(self.findings, scores, maps, frame, self.rule)
        return Prediction(radiograph.image_id, radiograph.patient_id, self.findings, scores, maps, frame, boxes)


def images_of(canvases: UInt8[np.ndarray, "batch h w"]) -> Float32[np.ndarray, "batch 1 h w"]:
    """Turns stored canvases (bytes) into what networks see: float32 in [0, 1], with a channel."""
    return canvases[:, None].astype(np.float32) / np.float32(255)


def _logistic(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Turns logits into scores; a very negative logit gives 0 without a warning."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-values))


def load(folder: Path | str, settings: ForwardSettings | None = None) -> Predictor:
    """The model of a folder, ready to predict; `settings` choose device, precision and engine."""
    model = open_model(Path(folder))
    return Predictor(model, open_forward(model, settings))


def _trained(model: Model) -> list[str]:
    """Lists the findings that had a known label in training; the score of any other means nothing.

    A model without label counts keeps all of its findings. One with no labeled finding at all is refused.
    """
    labels: Mapping[str, Any] = model.about["data"].get("train", {}).get("labels", {})
    names = [name for name in model.findings if name not in labels or sum(labels[name].values()) > 0]
    if not names:
        raise BadModel(f"{model.folder}: none of its findings had a label in training; train it with labels")
    return names


def _levels(table: Any, model: Model, key: str) -> dict[str, float]:
    """Numbers by finding, of model.json."""
    try:
        found = {model.findings.resolve(name): float(value) for name, value in table.items() if value is not None}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(model, key, str(error)) from None
    if not all(map(math.isfinite, found.values())):
        raise _damaged(model, key, "not all are finite numbers")
    return found


def _damaged(model: Model, key: str, said: str) -> BadModel:
    """Makes the error for a table of model.json that `chestmap model calibrate` writes."""
    return BadModel(f"{model.folder}/model.json: {key}: {said}; write it again with `chestmap model calibrate`")


def _calibration(model: Model) -> tuple[Float[np.ndarray, "finding"], Float[np.ndarray, "finding"]]:
    """Slope and offset of each of the network's logits; 1 and 0 where model.json holds none."""
    table = model.about.get("calibration") or {}
    try:
        pairs = {name: (line["slope"], line["offset"]) for name, line in table.items()}
    except (KeyError, TypeError, AttributeError):
        raise _damaged(model, "calibration", "expected a slope and an offset for each finding") from None
    slopes = _levels({name: slope for name, (slope, _) in pairs.items()}, model, "calibration")
    offsets = _levels({name: offset for name, (_, offset) in pairs.items()}, model, "calibration")
    names = model.findings.names
    return np.array([slopes.get(name, 1.0) for name in names]), np.array([offsets.get(name, 0.0) for name in names])
