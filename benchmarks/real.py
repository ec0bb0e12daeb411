"""The methods on real films: five folds by patient, one backbone and one canvas for all, one row at a time.

    python benchmarks/real.py FILMS WORK prepare            # packs, and the features of the frozen stages
    python benchmarks/real.py FILMS WORK run ROW [FOLD …]   # trains what is missing and predicts each fold's test films
    python benchmarks/real.py FILMS WORK table              # scores of every finished row, to real.json and real.md

FILMS is a folder in ChestX-ray14's layout. Folds are of patients with boxes; patients without any box are cut in two: a fifth is
never trained on and shared out over the folds' tests as negatives, the others train in every fold and pretrain the frozen stages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from chestmap.datasets import open_source
from chestmap.datasets.nih import NihSettings
from chestmap.datasets.source import Source
from chestmap.datasets.split_rules import patients_of, shuffled
from chestmap.evaluation.evaluate import EvaluationSettings, evaluate
from chestmap.evaluation.truth import truth_of
from chestmap.methods import METHODS
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import make_pack, pack_place
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.packs.pack import Pack, PackSettings
from chestmap.packs.part import Part
from chestmap.packs.views import Views
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.settings import Tree, checked
from chestmap.training import Data, Run
from chestmap.training.run_settings import RunSettings

FOLDS = 5
AUGMENT = AugmentSettings(
    flip=0.0, translate=0.06, scale=(0.92, 1.15), rotate_degrees=7, brightness=0.12, contrast=0.2, gamma=0.2
)


@dataclass(frozen=True)
class Films:
    """The films on one canvas, and who is in which part."""

    source: Source
    pack: Pack
    work: Path
    folds: tuple[tuple[str, ...], ...]  # of patients with boxes
    held: tuple[tuple[str, ...], ...]  # of patients without, who are in no training
    free: tuple[str, ...]  # of patients without boxes: in every training
    free_validation: tuple[str, ...]

    def train_ids(self, fold: int) -> list[str]:
        return [one for number, ids in enumerate(self.folds) if number != fold for one in ids] + list(self.free)

    def test_ids(self, fold: int) -> list[str]:
        return [*self.folds[fold], *self.held[fold]]


def films_of(root: Path, work: Path, side: int) -> Films:
    source = open_source(NihSettings(name="nih", root=root))
    canvas = PackSettings(width=side, height=side)
    pack = make_pack(source, pack_place(work / "cache", source, canvas), canvas, workers=1, progress=False)
    patient_of = patients_of(source)
    boxed = {patient_of[one] for one in source.boxes}
    others = shuffled((one for one in patient_of.values() if one not in boxed), 0, "films")
    fifth, third = len(others) // 5, len(others) * 3 // 10

    def images(patients: list[str]) -> tuple[str, ...]:
        wanted = set(patients)
        return tuple(one for one in source.ids if patient_of[one] in wanted)

    def cut(patients: list[str]) -> tuple[tuple[str, ...], ...]:
        count = len(patients)
        return tuple(images(patients[count * fold // FOLDS : count * (fold + 1) // FOLDS]) for fold in range(FOLDS))

    held = cut(shuffled(others[:fifth], 0, "held"))
    return Films(
        source,
        pack,
        work,
        cut(shuffled(boxed, 0, "films")),
        held,
        images(others[third:]),
        images(others[fifth:third]),
    )


@dataclass(frozen=True)
class Row:
    """One line of the table. `boxes` is the share of the boxed training patients whose boxes are seen."""

    method: str
    settings: Tree
    boxes: float = 0.8
    note: str = ""
    paper: str = ""
    side: int = 256
    trunk: Mapping[str, Any] = field(default_factory=dict)
    flip: bool = False
    noise: bool = False


def trunk_of(work: Path) -> Tree:
    """The backbone of every row: stages up to stride 16 as the pretraining left them, and frozen."""
    return {
        "name": "tf_efficientnet_lite0",
        "weights": str(work / "pretrained.safetensors"),
        "stages": [2, 3, 4],
        "frozen": 3,
        "pyramid": 96,
    }


def schedule(**changes: Any) -> Tree:
    usual: Tree = {
        "epochs": 10,
        "batches": 40,
        "batch_size": 24,
        "optimizer": "adamw",
        "learning_rate": 6e-4,
        "weight_decay": 0.05,
        "warmup": 0.5,
        "decay": "cosine",
        "clip": 5.0,
        "boxed_share": 0.5,
        "select": "last",
    }
    return usual | changes


def fewer_boxes(source: Source, share: float) -> Source:
    """The same films with the boxes of fewer patients: 0.8 keeps those of all training patients, 0.4 of half of them."""
    if share >= 0.8:
        return source
    patient_of = patients_of(source)
    patients = shuffled((patient_of[one] for one in source.boxes), 0, "fewer")
    kept = set(patients[: round(len(patients) * share / 0.8)])
    return replace(source, boxes={one: boxes for one, boxes in source.boxes.items() if patient_of[one] in kept})


def data_of(films: Films, views: Views | None, fold: int, boxes: float) -> Data:
    source = fewer_boxes(films.source, boxes)
    train = replace(Part.of(source, films.pack, films.train_ids(fold), "train"), views=views)
    validation = replace(Part.of(source, films.pack, films.free_validation, "validation"), views=views)
    return Data(source.findings, films.pack.settings, train, validation, None, f"films-fold-{fold + 1}", "")


def run_cell(films: Films, views: Views | None, name: str, row: Row, fold: int, seed: int = 0) -> dict[str, Any]:
    """Trains one row on one fold and writes its test predictions as part `fold` of the row's folder."""
    method = METHODS[row.method]
    settings = checked(method.settings, {"name": row.method, **row.settings}, name=name)
    data = data_of(films, views, fold, row.boxes)
    started, cpu = time.monotonic(), time.process_time()
    run = Run(
        films.work / "runs" / f"{name}-{fold + 1}",
        RunSettings(seed=seed, workers=0, tensorboard=False),
        method=settings.model_dump(mode="json"),
        augment=AUGMENT,
        progress=False,
    )
    with run:
        network = method.recipe(run, data, settings).eval()
        seconds = sum(step.seconds for step in run.steps)
        images = sum(step.seconds * (step.images_per_second or 0) for step in run.steps)
    trained = time.process_time() - cpu
    predict(films, views, network, method.own_rule(settings), name, fold)
    return {
        "row": name,
        "fold": fold + 1,
        "seed": seed,
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(trained, 1),
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def predict(films: Films, views: Views | None, network: torch.nn.Module, rule: OwnRule, name: str, fold: int) -> None:
    part = replace(Part.of(films.source, films.pack, films.test_ids(fold), "test"), views=views)
    writer = PredictionsWriter(
        films.work / "predictions" / name,
        Header(films.source.findings, films.pack.settings.canvas, {"name": name}, rule),
    )
    patient_of = patients_of(films.source)

    def chunks() -> Any:
        for batch in Loader(part, LoaderSettings(batch_size=16), shuffle=False).epoch(0):
            with torch.inference_mode():
                seen = network(batch.images)
            scores, maps = torch.sigmoid(seen.logits).numpy(), seen.maps.half().numpy()
            yield Chunk(batch.ids, tuple(patient_of[one] for one in batch.ids), batch.frames, scores, maps)

    writer.write(fold, len(part), chunks())


def scores_of_row(films: Films, name: str, resamples: int = 1000) -> Any:
    """Everything that is predicted of a row, in one evaluation; its thresholds come from boxes of other patients."""
    predictions = open_predictions(films.work / "predictions" / name)
    truth = truth_of(films.source, predictions.image_ids)
    return evaluate(predictions, truth, EvaluationSettings(resamples=resamples, workers=1), title=name)
