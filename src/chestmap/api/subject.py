"""Finds the images that a run, a model or a predictions folder belongs to, so that nobody types a dataset twice.

Verbs and API functions that take a run folder come here first. The run's own records give source, split and settings; an
option that names them wins. A folder that belongs to no run needs the dataset to be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestmap.datasets import open_source, source_settings
from chestmap.datasets.split import split_of
from chestmap.errors import BadInput
from chestmap.settings import checked, read_toml, with_overrides

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.datasets.split import Split
    from chestmap.predictions.folder import Predictions


@dataclass(frozen=True, kw_only=True)
class DatasetNames:
    """What a user names of a dataset; whatever is left out comes from the run folder."""

    kind: str | None = None
    root: Path | None = None
    split: str | None = None
    overrides: Sequence[str] = ()
    run: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Images and split; `run` is None where they belong to no run folder."""

    source: Source
    split: Split | None = None
    run: Path | None = None
    predictions: Path | None = None
    cache: Path = Path("cache")
    named: Path | None = None

    def of(self, folder: Path) -> Subject:
        """The same dataset and split with the run and the predictions of another folder."""
        run = run_of(folder)
        return replace(self, run=run, predictions=run / "predictions" if run else None, named=folder)

    def predict(self, part: str) -> Path:
        """The predictions folder. Where a run has none yet: predicts `part`, and the validation images for thresholds."""
        folder = self.predictions
        if folder is None:
            what = "no predictions in it" if self.named is None or self.named.exists() else "no such folder"
            raise BadInput(f"{self.named or 'data'}: {what}; expected a run folder or a predictions folder")
        from chestmap.predictions.folder import HEADER, read_header

        if self.run is None or ((folder / HEADER).is_file() and read_header(folder)["complete"]):
            return folder
        from chestmap.methods import METHODS
        from chestmap.models.folder import open_model
        from chestmap.prediction.from_pack import PredictSettings, predict_source

        ids = self.part_ids(["validation", part])
        predict_source(open_model(self.run / "model", METHODS), self.source, ids, folder, PredictSettings(), self.cache)
        return folder

    def part_ids(self, parts: Sequence[str]) -> list[str]:
        """The images of these parts, each once; all images where there is no split."""
        if self.split is None:
            return list(self.source.ids)
        return [image_id for name in dict.fromkeys(parts) for image_id in self.split.parts.get(name, ())]

    def ids(self, part: str, predictions: Predictions) -> list[str]:
        """The images that are scored."""
        there = set(predictions.image_ids)
        return [image_id for image_id in self.part_ids([part]) if image_id in there]

    def facts(self) -> dict[str, str]:
        """How many images each part of the split has, and the patients that it shares with training."""
        if self.split is None:
            return {}
        from chestmap.datasets.split import leaks

        found = {f"Images to {part}": f"{len(ids):,}" for part, ids in self.split.parts.items() if ids}
        for (one, other), shared in leaks(self.split, self.source).items():
            if shared.of:
                count = f"{shared.patients:,} of {shared.of:,}" if shared.patients else f"none of {shared.of:,}"
                found[f"Patients of {other} also in {one}"] = count
        return found


def run_of(folder: Path) -> Path | None:
    """The run folder: this one, or the one around a model or predictions folder."""
    for place in (folder, folder.resolve().parent):
        if (place / "config.toml").is_file() and not (place / "model.json").is_file():
            return place
    return None


def subject_of(folder: Path | None, named: DatasetNames) -> Subject:
    """Images and split are those of the run, unless they are named; `root` alone gives their present folder."""
    run = named.run or (run_of(folder) if folder is not None else None)
    if named.run is not None and run_of(named.run) != named.run:
        raise BadInput(f"--run {named.run}: no config.toml; expected a run folder of `chestmap train`")
    if run is None and (named.kind is None or named.root is None):
        raise BadInput(
            f"{folder or 'data'}: belongs to no run folder; name its images with --run RUN, or with --source KIND --root ROOT"
        )
    config: Mapping[str, Any] = read_toml(run / "config.toml")["data"] if run else {}
    if named.kind is None:
        places = {"root": str(named.root)} if named.root else {}
        tree = with_overrides({**config["source"], **places}, named.overrides)
        source = open_source(source_settings(tree, name=f"{run}/config.toml"))
    else:
        source = source_of(named.kind, named.root or Path(), named.overrides)
    predictions = (
        folder if folder is not None and (folder / "predictions.json").is_file() else run / "predictions" if run else None
    )
    cache = Path(config.get("cache", "cache"))
    return Subject(
        source=source, split=_split(source, named, config), run=run, predictions=predictions, cache=cache, named=folder
    )


def _split(source: Source, named: DatasetNames, config: Mapping[str, Any]) -> Split | None:
    from chestmap.datasets.split import SplitSettings, make_split

    if named.split is not None:
        return split_of(source, named.split)
    if named.kind is not None or not config:
        return None
    return make_split(source, checked(SplitSettings, dict(config.get("split", {})), name="config.toml"))


def source_of(kind: str, root: Path, overrides: Sequence[str] | None = None) -> Source:
    """A dataset by the name of its reader and its folder."""
    return open_source(source_settings(with_overrides({"name": kind, "root": str(root)}, overrides or [])))
