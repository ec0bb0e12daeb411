"""Predicts images of a dataset that are packed already, as a recipe or a report asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from chestmap.datasets.source import Source
from chestmap.models.engines import EngineName, ForwardSettings, Precision, open_forward
from chestmap.models.folder import Model
from chestmap.models.predictor import Predictor
from chestmap.packs.part import Part
from chestmap.prediction.job import JobSettings, predict_all
from chestmap.prediction.providers import DatasetProvider
from chestmap.predictions.folder import Predictions, open_predictions


class PredictSettings(JobSettings):
    """A job's settings, and the program that runs the network."""

    engine: Literal["auto", EngineName] = "torch"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", Precision] = 32

    @property
    def forward(self) -> ForwardSettings:
        """The part of the settings that chooses the engine."""
        return ForwardSettings(engine=self.engine, device=self.device, precision=self.precision)


def predict_source(
    model: Model, source: Source, ids: Iterable[str], out: Path, settings: PredictSettings, cache: Path
) -> None:
    """The images of a dataset that are named, packed in `cache` first."""
    predict_all(_predictor(model, settings), DatasetProvider.packed(source, ids, model.canvas, cache), out, settings)


def predict_part(
    model: Model, part: Part, out: Path, settings: PredictSettings | None = None, *, progress: bool = True
) -> Predictions:
    """Scores and maps of every image of a part; what is there already of the same model and images is kept."""
    settings = settings or PredictSettings()
    provider = DatasetProvider(part.source, part.ids, part.pack)
    predict_all(_predictor(model, settings), provider, out, settings, progress=progress)
    return open_predictions(out)


def _predictor(model: Model, settings: PredictSettings) -> Predictor:
    return Predictor(model, open_forward(model, settings.forward))
