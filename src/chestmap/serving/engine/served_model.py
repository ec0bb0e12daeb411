"""Holds a model as the service uses it: its name in the API, and its answers for canvases.

One for each model of the service. Models with the same canvas share the decoded pixels of an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from chestmap.evaluation.maps.comparison_space import Workspace
from chestmap.models.folder import measured_points
from chestmap.models.largest_box import boxes_of
from chestmap.models.predictor import Predictor, images_of
from chestmap.serving.store.active_learning import scaled_score
from chestmap.serving.store.results import ModelAnswer, NewFile
from chestmap.storage.atomic import write_together
from chestmap.types import Box, Frame
from chestmap.vocabulary import NO_FINDING, SUPPORT_DEVICES

HARMLESS = {NO_FINDING, SUPPORT_DEVICES}
"""Findings that make an image no more urgent."""


@dataclass(frozen=True, eq=False)
class BatchOutputs:
    """Of one batch: what the network gave, and for which images; `places` are ids and folders."""

    scores: Float32[np.ndarray, "batch finding"]
    maps: Float16[np.ndarray, "batch finding h w"]
    frames: Sequence[Frame]
    places: Sequence[tuple[str, Path]]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that a service offers, with the program that runs it."""

    predictor: Predictor

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights, by which stored results are kept apart."""
        return self.predictor.model.sha256

    @cached_property
    def id(self) -> str:
        """The name of the model in the API: its method and the first 12 digits of the hash."""
        return f"{self.predictor.model.method.name}-{self.sha256[:12]}"

    @property
    def canvas_name(self) -> str:
        """Of the file that holds an image on this model's canvas; models with the same canvas share it."""
        canvas = self.predictor.model.canvas
        return f"canvas-{canvas.width}x{canvas.height}-{canvas.fit}"

    @property
    def predicts(self) -> bool:
        """Whether the model still answers at all."""
        canvas = self.predictor.model.canvas
        try:
            self.predictor.arrays(images_of(np.zeros((1, canvas.height, canvas.width), np.uint8)), ["an empty canvas"])
        except Exception:
            return False
        return True

    def about(self) -> dict[str, Any]:
        """As `GET /v1/models` gives it."""
        model = self.predictor.model
        return {
            "id": self.id, "method": model.method.name, "title": model.method.title, "paper": model.method.paper,
            "findings": list(self.predictor.findings), "canvas": list(model.canvas.canvas),
            "operating_points": dict(self.predictor.operating_points) or None, "sha256": self.sha256,
        }  # fmt: skip

    def dicom_about(self, revision: int = 0) -> dict[str, Any]:
        """What `reports.dicom` wants to know of the model, as JSON; `revision` is the study's."""
        model, rule = self.predictor.model, self.predictor.rule
        own = {"threshold": rule.own.threshold, "normalize": rule.own.normalize}
        return {
            "name": model.method.title, "sha256": self.sha256, "operating_points": dict(self.predictor.operating_points),
            "levels": dict(rule.levels), "rule": own, "calibrated": sorted(model.about.get("calibration") or ()),
            "measured": measured_points(model.about), "revision": revision,
        }  # fmt: skip

    def run_network(
        self, canvases: UInt8[np.ndarray, "batch h w"], frames: Sequence[Frame], places: Sequence[tuple[str, Path]]
    ) -> BatchOutputs:
        """The network's part, for one caller at a time."""
        scores, maps = self.predictor.arrays(images_of(canvases), [study_id for study_id, _ in places])
        return BatchOutputs(scores, maps, frames, places)

    def kept(self, said: BatchOutputs) -> list[ModelAnswer]:
        """Draws boxes, and writes the maps durably into the studies' folders, before the database records them."""
        contents = [_coded(maps) for maps in said.maps]
        name, work = f"maps-{self.id}.npy", Workspace()
        placed = zip(said.places, contents, strict=True)
        write_together({folder / name: content for (_, folder), content in placed if folder.is_dir()})  # else deleted
        files = [NewFile(f"maps-{self.id}", name, sha256(content).hexdigest(), len(content)) for content in contents]
        rows = zip(said.places, said.frames, said.scores, said.maps, files, strict=True)
        return [
            self._answer(study_id, (frame, scores, maps), file, work) for (study_id, _), frame, scores, maps, file in rows
        ]

    def _answer(
        self,
        study_id: str,
        said: tuple[Frame, np.ndarray, Float16[np.ndarray, "finding h w"]],
        file: NewFile,
        work: Workspace,
    ) -> ModelAnswer:
        found, (frame, scores, maps) = self.predictor.findings, said
        boxes = boxes_of(found, scores, maps, frame, self.predictor.rule, work)
        points = self.predictor.operating_points
        findings = [_finding(one, float(score), points.get(one), boxes) for one, score in zip(found, scores, strict=True)]
        height, width = maps.shape[1:]
        grid = {"width": width, "height": height, "order": list(found), "frame": frame.as_list()}
        grid["matrix"] = list(frame.resized((width, height)).matrix)
        scaled = [scaled_score(one["score"], one["threshold"]) for one in findings]
        urgent = [value for one, value in zip(findings, scaled, strict=True) if one["name"] not in HARMLESS]
        return ModelAnswer(
            study_id=study_id, model_sha=self.sha256, findings=findings, maps=grid, file=file,
            suspicion=max(urgent, default=0.0),
        )  # fmt: skip


def _coded(maps: Float16[np.ndarray, "finding h w"]) -> bytes:
    coded = io.BytesIO()
    np.save(coded, maps, allow_pickle=False)
    return coded.getvalue()


def _finding(name: str, score: float, threshold: float | None, boxes: Sequence[Box]) -> dict[str, Any]:
    """Over its operating point, or over a half where the model has none."""
    own = [box for box in boxes if box.finding == name]
    corners = [{"x0": one.x0, "y0": one.y0, "x1": one.x1, "y1": one.y1, "score": one.score} for one in own]
    over = score >= (0.5 if threshold is None else threshold)
    return {"name": name, "score": score, "threshold": threshold, "over": over, "boxes": corners}
