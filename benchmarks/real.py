"""The methods on real films: five folds by patient, one backbone and one canvas for all, one row at a time.

    python benchmarks/real.py FILMS WORK pretrain            # once, 12 minutes: the frozen stages, on patients without boxes
    python benchmarks/real.py FILMS WORK run ROW FOLD        # 6 minutes: trains a row on a fold and predicts its test films
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
    """One line of the table; `boxes` is the share of the boxed patients whose boxes training sees."""

    method: str
    steps: dict[str, Tree]  # with what they change of SCHEDULE
    settings: Tree = field(default_factory=dict)
    boxes: float = 0.8
    trunk: int = 3  # stages that stand still: 3 as pretrained on films, 2 as ImageNet left them
    backbone: Tree = field(default_factory=dict)
    sees: str = "features"  # kept ones; or pixels, which methods need that cut, erase or compare images; or noise
    base: str | None = None  # a row whose finished steps are taken where they are the same
    variants: dict[str, Tree] = field(default_factory=dict)  # rows of the same training that differ in how it is read


WIDTH: Tree = {"width": 64}
LAST: Tree = {"stages": [4], "pyramid": 0}
TWO: Tree = {"stages": [3, 4]}
CIA: Tree = {"aligned": False, "gallery": 2048}
MINING: Tree = {"classify": {"epochs": 4}, "aggregate": {"epochs": 1}, "tune": {"epochs": 1}, "mine": {"epochs": 1}}
MINED: Tree = WIDTH | {"steps": 3}
AG_CNN: Tree = {"global_branch": {"epochs": 4}, "fusion_branch": {"epochs": 4}}
MASKS: Tree = {"aligned": False, "least_share": 0.02}

ROWS = {
    "cam": Row("cam", {"classify": {}}),
    "ham-0": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.0}),
    "ham-40": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.1}, boxes=0.4),
    "ham-80": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.1}),
    "ham-80-mse": Row("ham", {"attend": {}}, WIDTH | {"box_weight": 0.1, "box_loss": "mse"}),
    "patch-0": Row("patch_mil", {"attend": {}}, WIDTH | {"box_weight": 0.0}),
    "patch-80": Row("patch_mil", {"attend": {}}, WIDTH),
    "cia-base-0": Row("cia_net", {"attend": {}}, CIA | {"contrast": False, "box_weight": 0.0}, backbone=TWO),
    "cia-base-80": Row("cia_net", {"attend": {}}, CIA | {"contrast": False}, backbone=TWO),
    "cia-0": Row("cia_net", {"attend": {}}, CIA | {"box_weight": 0.0}, backbone=TWO, sees="pixels"),
    "cia-80": Row("cia_net", {"attend": {}}, CIA, backbone=TWO, sees="pixels"),
    "mining-3": Row("attention_mining", MINING, MINED, backbone=LAST, variants={"mining-1": {"shown": 1}}),
    "mining-3-unpreserved": Row(
        "attention_mining", MINING, MINED | {"preservation": "none"}, backbone=LAST, base="mining-3"
    ),
    "ag-fusion": Row(
        "ag_cnn",
        AG_CNN,
        {"order": "G_LF"},
        backbone=LAST,
        sees="pixels",
        variants={"ag-global": {"answer": "global"}, "ag-local": {"answer": "local"}},
    ),
    "masks-none": Row("disease_masks", {"classify": {}}, MASKS | {"masks": "none"}),
    "masks": Row("disease_masks", {"classify": {}, "attend": {"epochs": 3}}, MASKS, base="masks-none"),
    "combined": Row("combined", {"learn": {}}, WIDTH, variants={"combined-cells": {"decode": "cells"}}),
    "combined-8-epochs": Row("combined", {"learn": {"epochs": 8}}, WIDTH),
    "combined-no-prior": Row("combined", {"learn": {}}, WIDTH | {"place_prior": False}),
    "combined-imagenet": Row("combined", {"learn": {}}, WIDTH, trunk=2),
    "place-only": Row("combined", {"learn": {}}, WIDTH, sees="noise"),
}


def names_of(rows: dict[str, Row]) -> list[str]:
    """Of all rows, variants behind their own."""
    return [one for name, row in rows.items() for one in (name, *row.variants)]


def backbone_of(work: Path, trunk: int) -> Tree:
    weights = str(work / "pretrained.safetensors") if trunk == 3 else "package:efficientnet-lite0"
    return {"name": "tf_efficientnet_lite0", "weights": weights, "stages": [2, 3, 4], "frozen": trunk, "pyramid": 64}


SCHEDULE: Tree = {
    "epochs": 5, "batches": 40, "batch_size": 24, "optimizer": "adamw", "learning_rate": 6e-4, "weight_decay": 0.05,
    "warmup": 0.5, "decay": "cosine", "clip": 5.0, "boxed_share": 0.5, "select": "last", "validate_every": 5,
}  # fmt: skip


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


@dataclass(frozen=True, eq=False)
class NoiseViews(Views):
    """What the trunk makes of noise, in place of every film: all that can be learned is where boxes lie."""

    noise: Any = None

    def read(self, rows: Any, numbers: list[int]) -> Any:
        return self.noise[(np.asarray(rows) * self.shape[1] + np.asarray(numbers)) % len(self.noise)]


def noisy(films: Films, views: Views, trunk: int, count: int = 64) -> Views:
    backbone = Backbone(BackboneSettings(**backbone_of(films.work, trunk))).eval()
    images = torch.rand(count, 1, *reversed(films.pack.settings.canvas), generator=torch.Generator().manual_seed(0))
    noise = np.concatenate([backbone.kept(some).half().numpy() for some in images.split(8)])
    return NoiseViews(views.folder, views.settings, views.augment, views.shape, f"{views.fingerprint}-noise", noise)


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


def run_row(films: Films, name: str, fold: int, seed: int = 0) -> dict[str, Any]:
    """Trains one row on one fold and writes its test predictions as part `fold` of the row's folder."""
    row = ROWS[name]
    method, views = METHODS[row.method], seen_by(films, row)
    tree = {"name": row.method, "backbone": backbone_of(films.work, row.trunk) | row.backbone, **row.settings}
    tree |= {step: SCHEDULE | changes for step, changes in row.steps.items()}
    settings = checked(method.settings, tree, name=name)
    source = with_fewer_boxes(films.source, row.boxes)
    train, validation = (part_of(films, ids, views, source) for ids in (films.train_ids(fold), films.free_validation))
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
    folder, lasting = films.work / "runs" / f"{name}-{fold + 1}", settings.model_dump(mode="json", exclude=set(row.steps))
    with Run(folder, how, method=lasting, augment=AUGMENT, progress=False) as run:
        run.others = [films.work / "runs" / f"{row.base}-{fold + 1}"] if row.base else ()
        network = method.recipe(run, data, settings).eval()
        speed = run.steps[-1].images_per_second
    for variant, changes in row.variants.items():
        read = checked(method.settings, tree | changes, name=variant)
        other = method.build(read, source.findings, films.pack.settings.canvas).eval()
        other.load_state_dict(network.state_dict())
        predict(films, other, views, (variant, fold, method.own_rule(read)))
    predict(films, network, views, (name, fold, method.own_rule(settings)))
    cost = {"images_per_second": speed, "cpu_minutes": (time.process_time() - cpu) / 60}
    return {"row": name, "fold": fold + 1, "seed": seed, "minutes": (time.monotonic() - started) / 60} | cost


def predict(films: Films, network: torch.nn.Module, views: Views | None, to: tuple[str, int, OwnRule]) -> None:
    """Of the plain view of a fold's test films."""
    name, fold, rule = to
    part, writer = part_of(films, films.test_ids(fold), views), writer_of(films, name, rule)

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


def writer_of(films: Films, name: str, rule: OwnRule) -> PredictionsWriter:
    header = Header(findings=films.source.findings, canvas=films.pack.settings.canvas, model={"name": name}, own_rule=rule)
    return PredictionsWriter(films.work / "predictions" / name, header)


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


def main(root: str, work: str, verb: str, *words: str) -> None:
    torch.set_num_threads(1)
    films = films_of(Path(root), Path(work), 256)
    if verb == "pretrain":
        pretrain(films)
    elif verb == "medoid":
        write_medoids(films)
    elif verb == "run":
        name, folds = words[0], [int(one) - 1 for one in words[1:]] or range(FOLDS)
        for fold in folds:
            if not (films.work / "predictions" / name / f"part-{fold:05d}").is_dir():
                found = run_row(films, name, fold)
                with (films.work / "cells.jsonl").open("a") as file:
                    file.write(json.dumps(found) + "\n")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
