"""Predicting a part: from a model folder and packed images to a predictions folder. `stream.py` does it from files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from chestmap.datasets.source import Source
from chestmap.errors import BadInput
from chestmap.models.engines import EngineName, ForwardSettings, Precision, open_forward
from chestmap.models.folder import Model
from chestmap.models.predictor import Predictor, images_of
from chestmap.packs.build import PackSettings, make_pack, pack_place
from chestmap.packs.part import Part
from chestmap.predictions.folder import Chunk, Header, Predictions, PredictionsWriter, open_predictions
from chestmap.predictions.image_set import image_set_of
from chestmap.progress import progress_of
from chestmap.settings import Settings
from chestmap.storage.results_folder import Place, place_of


class PredictSettings(Settings):
    batch_size: int = Field(default=8, ge=1)
    engine: Literal["auto", EngineName] = "torch"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", Precision] = 32
    part_size: int = Field(
        default=4096, ge=1
    )  # images in each part of the folder; a killed job goes on after the last whole one

    @property
    def forward(self) -> ForwardSettings:
        return ForwardSettings(engine=self.engine, device=self.device, precision=self.precision)


def predict_source(
    model: Model,
    source: Source,
    ids: Iterable[str],
    out: Path | Place,
    settings: PredictSettings,
    cache: Path = Path("cache"),
) -> tuple[Predictions, Mapping[str, str]]:
    """The images of a dataset that are named, packed in `cache` first; and the reasons why some of them are left out."""
    canvas = PackSettings(**model.canvas.model_dump())
    pack = make_pack(source, pack_place(cache, source, canvas), canvas)
    wanted = list(ids)
    predictions = predict_part(model, Part.of(source, pack, wanted, "images"), out, settings)
    return predictions, {image_id: pack.set_aside[image_id] for image_id in wanted if image_id in pack.set_aside}


def predict_part(
    model: Model, part: Part, out: Path | Place, settings: PredictSettings | None = None, *, progress: bool = True
) -> Predictions:
    """Scores and maps of every image of a part; what is there already of the same model and images is kept.

    A place at an address must be `whole`.
    """
    settings = settings or PredictSettings()
    _check_fits(model, part)
    predictor = Predictor(model, open_forward(model, settings.forward))
    about = {"method": model.method.name, "sha256": model.sha256, "data": model.about["data"], **chosen_by(model)}
    place = place_of(out)
    dataset = image_set_of(part.source, part.ids).as_dict()
    given = predictor.findings, model.canvas.canvas, about, model.own_rule, part.fingerprint, settings.part_size, dataset
    writer = PredictionsWriter(place, Header(*given))
    with progress_of("predict", len(part), show=progress) as advance:
        for number, first in enumerate(range(0, len(part), settings.part_size)):
            rows = np.arange(first, min(first + settings.part_size, len(part)))
            if writer.has(number):
                advance(len(rows))
            else:
                writer.write(number, len(rows), _counted(_chunks(predictor, part.select(rows), settings), advance))
    writer.finish()
    place.bring(range(-(-len(part) // settings.part_size)))
    return open_predictions(place.folder)


def chosen_by(model: Model) -> Mapping[str, Any]:
    """What model.json adds to the network's output, where it holds any: scores in a folder with `calibration` are calibrated."""
    return {key: model.about[key] for key in ("calibration", "thresholds") if model.about.get(key)}


def _check_fits(model: Model, part: Part) -> None:
    if not len(part):
        raise BadInput(f"{part.name}: no image to predict")
    canvas, packed = model.canvas, part.pack.settings
    if (canvas.width, canvas.height, canvas.fit) != (packed.width, packed.height, packed.fit):
        raise BadInput(
            f"{model.folder}: sees {canvas.width}×{canvas.height} {canvas.fit}, the pack {part.pack.folder} is "
            f"{packed.width}×{packed.height} {packed.fit}; pack the images for this model"
        )


def _counted(chunks: Iterator[Chunk], advance: Callable[[int], None]) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        advance(len(chunk))


def _chunks(predictor: Predictor, part: Part, settings: PredictSettings) -> Iterator[Chunk]:
    patient_of = dict(zip(part.ids, part.source.images["patient_id"][part.rows].to_list(), strict=True))
    for first in range(0, len(part), settings.batch_size):
        ids = part.ids[first : first + settings.batch_size]
        canvases = part.pack.images[part.pack_rows[first : first + settings.batch_size]]
        scores, maps = predictor.arrays(images_of(np.asarray(canvases)), ids)
        yield Chunk(ids, tuple(patient_of[one] for one in ids), tuple(map(part.base_frame, ids)), scores, maps)
