"""The methods on real films: five folds by patient, one backbone and one canvas for all, one row at a time.

    python benchmarks/real.py FILMS WORK pretrain            # once, 12 minutes: the frozen stages, on patients without boxes
    python benchmarks/real.py FILMS WORK run ROW FOLD        # 6 minutes: trains a row on a fold and predicts its test films
    python benchmarks/real.py FILMS WORK run ROW t1          # the same without 15 % of the boxed training patients, who are predicted
    python benchmarks/real.py FILMS WORK medoid              # the floor: the medoid box of each fold's training
    python benchmarks/real_table.py FILMS WORK               # scores of every row that is there: real_table.json and the table

FILMS is a folder in ChestX-ray14's layout. Folds are of patients with boxes. Of the patients without any box a fifth is never
trained on and shared out over the folds' tests as negatives; the others train in every fold and pretrain the frozen stages.
Every row of a fold sees the same films in the same order, half of each batch boxed. What is finished is not made again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_rows import LAST, ONCE_MORE, ROWS, SCHEDULE, Row
from safetensors.torch import save_file

from chestmap.datasets import open_source
from chestmap.datasets.nih import NihSettings
from chestmap.datasets.source import Source
from chestmap.datasets.split_rules import patients_of, shuffled
from chestmap.evaluation.floors import fit_floors
from chestmap.evaluation.truth import truth_of
from chestmap.methods import METHODS
from chestmap.methods.cam import CamSettings
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.weights import starting_weights
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import make_pack, pack_place
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.packs.pack import Pack, PackSettings
from chestmap.packs.part import Part
from chestmap.packs.views import Views, ViewSettings
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter
from chestmap.settings import Tree, checked
from chestmap.tensors import Batch
from chestmap.training import Data, Run, Schedule
from chestmap.training.run_settings import RunSettings
from chestmap.training.view_writer import views_of
from chestmap.types import Box, Frame

FOLDS = 5
AUGMENT = AugmentSettings(
    flip=0.0, translate=0.06, scale=(0.92, 1.15), rotate_degrees=7, brightness=0.12, contrast=0.2, gamma=0.2
)


@dataclass(frozen=True, eq=False)
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

    def tuning_ids(self, fold: int) -> list[str]:
        """Films of 15 % of the fold's boxed training patients: settings are chosen on these, never on a test."""
        patient_of = patients_of(self.source)
        train = [one for number, ids in enumerate(self.folds) if number != fold for one in ids]
        patients = shuffled({patient_of[one] for one in train}, 0, f"tuning {fold}")
        chosen = set(patients[: len(patients) * 15 // 100])
        return [one for one in train if patient_of[one] in chosen]


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


def backbone_of(work: Path, trunk: int) -> Tree:
    weights = str(work / "pretrained.safetensors") if trunk == 3 else "package:efficientnet-lite0"
    return {"name": "tf_efficientnet_lite0", "weights": weights, "stages": [2, 3, 4], "frozen": trunk, "pyramid": 64}


def with_fewer_boxes(source: Source, share: float) -> Source:
    """The same films with the boxes of fewer patients: 0.8 keeps those of all training patients, 0.4 of half of them."""
    if share >= 0.8:
        return source
    patient_of = patients_of(source)
    patients = shuffled((patient_of[one] for one in source.boxes), 0, "fewer")
    kept = set(patients[: round(len(patients) * share / 0.8)])
    return replace(source, boxes={one: boxes for one, boxes in source.boxes.items() if patient_of[one] in kept})


def views_for(films: Films, trunk: int) -> Views:
    settings = BackboneSettings(**backbone_of(films.work, trunk))
    return views_of(films.pack, settings, AUGMENT, ViewSettings(count=8), films.work / "views")


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseViews(Views):
    """What the trunk makes of noise, in place of every film: all that can be learned is where boxes lie."""

    noise: np.ndarray

    def read(self, rows: Any, numbers: list[int]) -> Any:
        return self.noise[(np.asarray(rows) * self.shape[1] + np.asarray(numbers)) % len(self.noise)]


def noisy(films: Films, views: Views, trunk: int, count: int = 64) -> Views:
    backbone = Backbone(BackboneSettings(**backbone_of(films.work, trunk))).eval()
    images = torch.rand(count, 1, *reversed(films.pack.settings.canvas), generator=torch.Generator().manual_seed(0))
    noise = np.concatenate([backbone.kept(some).half().numpy() for some in images.split(8)])
    return NoiseViews(
        folder=views.folder,
        settings=views.settings,
        augment=views.augment,
        shape=views.shape,
        fingerprint=f"{views.fingerprint}-noise",
        noise=noise,
    )


def seen_by(films: Films, row: Row) -> Views | None:
    if row.sees == "pixels":
        hasten_trunk(films)
        return None
    views = views_for(films, row.trunk)
    return noisy(films, views, row.trunk) if row.sees == "noise" else views


def hasten_trunk(films: Films) -> None:
    """Computes stages up to stride 16, which no row trains, by OpenVINO where pixels are seen: three times as fast as torch."""
    import openvino

    backbone = Backbone(BackboneSettings(**backbone_of(films.work, 3) | LAST)).eval()
    early = torch.nn.Sequential(*[module for module, _ in backbone.order[0][: backbone._cut()]])
    example = torch.zeros(2, 1, *reversed(films.pack.settings.canvas))
    graph = openvino.convert_model(early, example_input=example)
    threads = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    program = openvino.compile_model(graph, "CPU", threads)

    def hastened(self: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        assert self.trunk is not None
        assert self.trunk.kept == (3,), "rows that see pixels read stages 3 and 4"
        return [torch.from_numpy(program(((images - self.mean) / self.std).contiguous().numpy())[0].copy())]

    sample = torch.rand(2, 1, *reversed(films.pack.settings.canvas))
    wanted = backbone._early(sample)[0]
    Backbone._early = hastened  # pyright: ignore[reportAttributeAccessIssue]
    apart = (backbone._early(sample)[0] - wanted).abs().max().item()
    assert apart < 1e-3 * wanted.abs().max().item(), f"the hastened trunk differs by {apart:g}"


def part_of(films: Films, ids: Iterable[str], views: Views | None, source: Source | None = None) -> Part:
    return replace(Part.of(source or films.source, films.pack, ids, "films"), views=views)


def setting_of(films: Films, row: Row, name: str, changes: Tree | None = None) -> Any:
    tree = {"name": row.method, "backbone": backbone_of(films.work, row.trunk) | row.backbone, **row.settings}
    tree |= {step: SCHEDULE | changed for step, changed in row.steps.items()}
    return checked(METHODS[row.method].settings, tree | (changes or {}), name=name)


def run_row(films: Films, name: str, fold: int, *, tuning: bool = False, seed: int = 0) -> dict[str, Any]:
    """Trains one row on one fold and writes its test predictions as part `fold` of the row's folder.

    Tuning leaves the tuning patients out of the training, and predicts their films in place of the test's.
    """
    row, left_out = ROWS[name], set(films.tuning_ids(fold)) if tuning else set()
    method, views = METHODS[row.method], seen_by(films, row)
    settings = setting_of(films, row, name)
    source = with_fewer_boxes(films.source, row.boxes)
    learned = [one for one in films.train_ids(fold) if one not in left_out]
    train, validation = (part_of(films, ids, views, source) for ids in (learned, films.free_validation))
    data = Data(
        findings=source.findings,
        pack=films.pack.settings,
        train=train,
        validation=validation,
        test=None,
        split=f"films-fold-{fold + 1}",
        split_fingerprint="",
    )
    started, cpu = time.monotonic(), time.process_time()
    how = RunSettings(seed=seed, workers=0, tensorboard=False)
    place = f"{'t' if tuning else ''}{fold + 1}"
    folder, lasting = films.work / "runs" / f"{name}-{place}", settings.model_dump(mode="json", exclude=set(row.steps))
    with Run(folder, how, method=lasting, augment=AUGMENT, progress=False) as run:
        run.others = [films.work / "runs" / f"{row.base}-{place}"] if row.base else ()
        network = method.recipe(run, data, settings).eval()
        speed = run.steps[-1].images_per_second
    if tuning:
        predict(films, network, views, (f"tuning/{name}", fold, method.own_rule(settings)), films.tuning_ids(fold))
        return {}
    for variant, changes in row.variants.items():
        read = setting_of(films, row, variant, changes)
        other = method.build(read, source.findings, films.pack.settings.canvas).eval()
        other.load_state_dict(network.state_dict())
        predict(films, other, views, (variant, fold, method.own_rule(read)))
    predict(films, network, views, (name, fold, method.own_rule(settings)))
    cost = {"images_per_second": speed, "cpu_minutes": (time.process_time() - cpu) / 60}
    return {"row": name, "fold": fold + 1, "seed": seed, "minutes": (time.monotonic() - started) / 60} | cost


def predict(
    films: Films, network: torch.nn.Module, views: Views | None, to: tuple[str, int, OwnRule], ids: list[str] | None = None
) -> None:
    """Of the plain view of a fold's test films, or of others."""
    name, fold, rule = to
    part, writer = part_of(films, ids or films.test_ids(fold), views), writer_of(films, name, rule)

    def chunks() -> Iterator[Chunk]:
        for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
            with torch.inference_mode():
                seen = network(batch.images)
            scores, maps = torch.sigmoid(seen.logits).numpy(), seen.maps.clamp_min(0).half().numpy()
            yield chunk_of(films, batch, scores, maps)

    if not writer.has(fold):
        writer.write(fold, len(part), chunks())
    writer.finish()


def chunk_of(films: Films, batch: Batch, scores: np.ndarray, maps: np.ndarray) -> Chunk:
    patient_of = patients_of(films.source)
    return Chunk(
        image_ids=batch.ids,
        patient_ids=tuple(patient_of[one] for one in batch.ids),
        frames=batch.frames,
        scores=scores,
        maps=maps,
    )


def writer_of(films: Films, name: str | Path, rule: OwnRule) -> PredictionsWriter:
    """Of a row, or of a folder of its name elsewhere."""
    place = films.work / "predictions" / name
    header = Header(
        findings=films.source.findings, canvas=films.pack.settings.canvas, model={"name": place.name}, own_rule=rule
    )
    return PredictionsWriter(place, header)


def write_medoids(films: Films) -> None:
    """The floor as a row: maps that are the medoid of the training boxes, scores that are the share of the finding."""
    writer = writer_of(films, "medoid", OwnRule(0.5))
    for fold in range(FOLDS):
        train = truth_of(films.source, films.train_ids(fold))
        medoids = fit_floors(train).boxes
        part = Part.of(films.source, films.pack, films.test_ids(fold), "films")
        shares = np.nanmean(train.labels, axis=0).astype(np.float32)

        def chunks(part: Part = part, medoids: Any = medoids, shares: np.ndarray = shares) -> Iterator[Chunk]:
            for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
                boxes = tuple(boxes_at(medoids, frame) for frame in batch.frames)
                maps = replace(batch, boxes=boxes).masks(64, 64).numpy().astype(np.float16)
                yield chunk_of(films, batch, np.tile(shares, (len(batch), 1)), maps)

        if not writer.has(fold):
            writer.write(fold, len(part), chunks())
    writer.finish()


def boxes_at(medoids: Any, frame: Frame) -> tuple[Box, ...]:
    """Floors are in shares of the image."""
    width, height = frame.image
    scale = np.array([width, height, width, height])
    return tuple(Box(name, *(np.asarray(one["medoid"]).ravel()[:4] * scale).tolist()) for name, one in medoids.items())


def pretrain(films: Films, epochs: int = 6) -> None:
    """A classifier from ImageNet on films of patients without any box; what it made of the network is the trunk of all rows."""
    trunk = BackboneSettings(name="tf_efficientnet_lite0", weights="package:efficientnet-lite0", stages=(4,), frozen=2)
    views = views_for(films, 2)
    tree = SCHEDULE | {"epochs": epochs, "batches": None, "learning_rate": 8e-4, "boxed_share": None, "select": "auc"}
    settings = CamSettings(backbone=trunk, pooling="mean", classify=Schedule(**tree | {"validate_every": 1}))
    train, validation = (part_of(films, ids, views) for ids in (films.free, films.free_validation))
    data = Data(findings=films.source.findings, pack=films.pack.settings, train=train, validation=validation)
    with Run(films.work / "runs" / "pretrain", RunSettings(workers=0, tensorboard=False), augment=AUGMENT) as run:
        network = METHODS["cam"].recipe(run, data, settings)
    learned = network.get_submodule("backbone.features").state_dict()
    whole = starting_weights(trunk.weights, trunk.name, trunk.mean, trunk.std)
    whole |= {key: value for key, value in learned.items() if key in whole}
    save_file({key: value.contiguous() for key, value in whole.items()}, films.work / "pretrained.safetensors")


def run_cell(films: Films, name: str, fold: int, *, tuning: bool) -> None:
    """Runs what is not there yet, and notes what it cost."""
    if name in ONCE_MORE:
        from real_views import write_row

        write_row(films, name, fold)
        return
    place = films.work / "predictions" / ("tuning" if tuning else "") / name / f"part-{fold:05d}"
    if not place.is_dir() and (found := run_row(films, name, fold, tuning=tuning)):
        with (films.work / "cells.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")


def main(root: str, work: str, verb: str, *words: str) -> None:
    torch.set_num_threads(1)
    films = films_of(Path(root), Path(work), 256)
    if verb == "pretrain":
        pretrain(films)
    elif verb == "medoid":
        write_medoids(films)
    elif verb == "run":
        name, folds = words[0], words[1:] or [str(fold + 1) for fold in range(FOLDS)]
        for fold in folds:
            run_cell(films, name, int(fold.removeprefix("t")) - 1, tuning=fold.startswith("t"))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
