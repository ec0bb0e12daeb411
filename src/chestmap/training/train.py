"""Trains a config into a network in a run folder.

`chestmap train` and `chestmap.train` call `train`. It knows methods by the registry only, and writes the model through a
function that it is given.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from chestmap.datasets.registry import is_published
from chestmap.datasets.training_hashes import TrainingHashes
from chestmap.errors import BadSettings
from chestmap.nn.backbone import check_backbones
from chestmap.packs.build import PackSettings
from chestmap.packs.part import Part
from chestmap.settings import Settings
from chestmap.training.config import Config
from chestmap.training.environment import commit, versions
from chestmap.training.method import Method
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run import Observer, Run
from chestmap.training.run_folder import read_json
from chestmap.training.training_data import Data, open_data
from chestmap.training.view_writer import views_of, with_views
from chestmap.training.wrapper_settings import AroundSettings, train_around
from chestmap.types import Findings


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """What a model folder is written from; `data` describes the training data, `made` the seed and versions.

    `config` is the effective configuration without the places of this machine.
    """

    method: Method
    settings: Any
    findings: Findings
    canvas: PackSettings
    network: nn.Module
    data: dict[str, Any]
    around: AroundSettings | None = None
    made: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def train(
    config: Config,
    folder: Path,
    write_model: Callable[[Path, Trained], None] | None = None,
    *,
    progress: bool = True,
    observe: Observer | None = None,
    others: Sequence[Path] = (),
) -> Path:
    """Trains what is left of the recipe; `write_model` (of `inference`) fills `model/`; its path is returned.

    Run again with the same config it goes on where it was killed, and does nothing where all is done; `model/` goes when a step
    is made anew or other erasing is asked for. Finished steps of `others`, run folders, are taken where the same is to be made.
    """
    check_backbones(config.settings)
    run = Run(folder, config.run, method=config.lasting, augment=config.data.augment, observe=observe, progress=progress)
    run.others = others
    from chestmap.training.process_group import in_turn  # with Fabric, as in Run

    with run:
        if run.first and not (folder / "config.toml").exists():
            config.write(folder / "config.toml")
        _check_batches({"method": config.settings, "around": config.around}, run.fabric.world_size)
        with in_turn(run.fabric):
            data = _opened(config, progress=progress and run.first)
        if run.first and data.train.pack.set_aside:
            run.screen.tell(f"note: {data.train.pack.set_aside_line}")
        network = train_around(run, data, config.method, config.settings, config.around).eval()
        if run.first and _is_other(folder / "model", config.around):
            shutil.rmtree(folder / "model")
        if write_model and not (folder / "model").exists():
            made = {"seed": config.run.seed, "precision": config.run.precision, "versions": versions(), "git": commit()}
            trained = Trained(
                method=config.method,
                settings=config.settings,
                findings=data.findings,
                canvas=data.pack,
                network=network,
                data=_about(data),
                around=config.around,
                made=made,
                config=config.without_places(),
            )
            run.put(folder / "model", lambda place: write_model(place, trained))
        if run.first:
            config.write(folder / "config.toml")  # schedules of finished steps may differ in what does not count
        run.screen.table(run.steps)
    return folder / "model"


def _opened(config: Config, *, progress: bool) -> Data:
    """The parts, which show kept features where the config asks for views."""
    data = open_data(config.data, progress=progress)
    if config.data.views is None:
        return data
    backbone = getattr(config.settings, "backbone", None)
    if backbone is None or (config.around is not None and config.around.named != ["teacher"]):
        raise BadSettings("data.views: needs a method with a backbone, and no [around] but a teacher; leave views out")
    augment, views, place = config.data.augment, config.data.views, config.data.cache / "views"
    return with_views(data, views_of(data.train.pack, backbone, augment, views, place, progress=progress))


def _check_batches(tables: Mapping[str, Any], processes: int) -> None:
    """Of every step, before the first is trained."""
    for name, value in tables.items():
        if isinstance(value, Schedule):
            value.share(processes, name)
        elif isinstance(value, Settings):
            _check_batches({f"{name}.{key}": getattr(value, key) for key in type(value).model_fields}, processes)


def _is_other(model: Path, around: AroundSettings | None) -> bool:
    """Whether the model was written with something else around it; erasing needs no step that would be refused."""
    about = read_json(model / "model.json")
    return about is not None and about.get("around", {}) != (around.of_model if around else {})


def _about(data: Data) -> dict[str, Any]:
    """What the model keeps of its data: counts, fingerprints, and hashes of training images of a published dataset."""
    parts = {"train": data.train, "validation": data.validation}
    used = {
        name: {"images": len(part), "fingerprint": part.fingerprint, "labels": _label_counts(part)}
        for name, part in parts.items()
        if part
    }
    source, split = data.train.source, {"split": data.split, "split_fingerprint": data.split_fingerprint}
    found = {"source": source.name, "fingerprint": source.fingerprint, **split, **used}
    if is_published(source.name):
        patients = source.images["patient_id"][data.train.rows].to_list()
        pixels = (one.tobytes() for one in data.train.pack.state["pixels"][data.train.pack_rows])
        found["seen"] = TrainingHashes.of(source.name, data.train.ids, patients, pixels).as_dict()
    return found


def _label_counts(part: Part) -> dict[str, dict[str, int]]:
    """A finding without known labels was not learned, and prediction leaves it out."""
    present, absent = ((part.labels >= 0.5).sum(0), (part.labels < 0.5).sum(0))  # unknown is NaN, which is neither
    return {name: {"present": int(present[row]), "absent": int(absent[row])} for row, name in enumerate(part.findings)}
