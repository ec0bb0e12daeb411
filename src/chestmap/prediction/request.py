"""Runs what a user asks of `chestmap predict`: a model, inputs or a dataset, a folder, and what to write into it.

`chestmap predict` and the API fill a `Request`; `run` does the rest. It refuses what cannot be done before the first image
is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chestmap.datasets.source import Source
from chestmap.errors import BadInput
from chestmap.models.engines import ForwardSettings
from chestmap.models.predictor import Predictor, load
from chestmap.prediction.completing import Share, write_errors
from chestmap.prediction.job import Job, JobSettings, Shard, open_job, predict_all, predict_shard, reading_for
from chestmap.prediction.measured_engine import as_begun, is_worth_measuring, measure
from chestmap.prediction.output_formats import Outputs
from chestmap.prediction.providers import DatasetProvider, FileProvider, Provider
from chestmap.prediction.pseudonym import own_key
from chestmap.reports.formats import WRITERS
from chestmap.settings import checked
from chestmap.storage.results_folder import place_of


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images of a dataset; `opened` gives it with the ids that are meant, in each process that works on it."""

    opened: Callable[[], tuple[Source, list[str]]]
    cache: Path = Path("cache")

    @cached_property
    def images(self) -> tuple[Source, list[str]]:
        """Opens the dataset and gives it with the ids of the chosen part."""
        return self.opened()

    def files(self) -> dict[str, str]:
        """Paths by image id, as the dataset has them."""
        return dict(self.images[0].images.select("image_id", "path").iter_rows())


@dataclass(frozen=True, kw_only=True)
class Request:
    """`forward` holds how the network runs, `settings` those of the job; `open_predictor` replaces the model folder in tests."""

    model: Path
    out: str  # or an address
    given: tuple[str, ...] = ()
    dataset: Dataset | None = None
    kinds: frozenset[str] = frozenset({"predictions"})
    forward: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scratch: Path | None = None  # where parts for an address are made
    deidentify: bool = False
    open_predictor: Callable[[], Predictor] | None = None

    @property
    def outputs(self) -> list[str]:
        """What is made besides the predictions."""
        return sorted(self.kinds - {"predictions"})

    def predictor(self) -> Predictor:
        """Opens the model with the engine that was asked for."""
        if self.open_predictor is not None:
            return self.open_predictor()
        return load(self.model, self._settings)

    @property
    def _settings(self) -> ForwardSettings:
        return as_begun(checked(ForwardSettings, self.forward, name="options"), Path(self.out))

    def provider(self, predictor: Predictor) -> Provider:
        """Open what gives inputs and pixels: files, or a dataset in a pack."""
        if self.dataset is None:
            return FileProvider(self.given)
        source, ids = self.dataset.images
        return DatasetProvider.packed(source, ids, predictor.model.canvas, self.dataset.cache)

    def job(self, shards: int) -> Job:
        """As one of several processes opens it."""
        predictor = self.predictor()
        how = checked(JobSettings, self.settings, name="options")
        return open_job(predictor, self.provider(predictor), place_of(self.out, self.scratch), how, shards)

    def run(self, shard: Shard | None = None, report: Callable[[Path], object] | None = None) -> tuple[Share, Outputs]:
        """Predicts the whole, or a shard, and writes what is asked for; `report` makes that of a dataset."""
        shard = shard or Shard()
        self._check(shard)
        place = place_of(self.out, self.scratch, whole=bool(self.outputs))
        predictor, how = self.predictor(), checked(JobSettings, self.settings, name="options")
        provider = self.provider(predictor)
        if shard.count == 1 and self.open_predictor is None and is_worth_measuring(predictor, self._settings, provider):
            measure(predictor.model, self._settings, provider, reading_for(predictor, how, hides=provider.hides))
            predictor = self.predictor()
        reading = reading_for(predictor, how, hides=provider.hides)
        kinds = self.kinds - {"report"} if self.dataset else self.kinds
        key, files = own_key() if self.deidentify else None, self.dataset.files() if self.dataset else {}
        with Outputs(out=place.folder, predictor=predictor, reading=reading, kinds=kinds, key=key, files=files) as outputs:
            on_part = outputs.on_part if outputs.is_asked_for else None
            if shard.count == 1:
                share = predict_all(predictor, provider, place, how, on_part=on_part)
            else:
                share = predict_shard(
                    open_job(predictor, provider, place, how, shard.count), shard, how.workers, on_part=on_part
                )
            outputs.finish()
        if outputs.failed:
            write_errors(place.folder / "errors.csv", [*share.failed, *outputs.failed])
        if report is not None and self.dataset and "report" in self.kinds:
            report(place.folder)
        if self.outputs:
            place.send("errors.csv")
            place.send_rest()
        return share, outputs

    def _check(self, shard: Shard) -> None:
        """Refuses what only makes sense for all parts, where a share was asked for."""
        if shard.count == 1:
            return
        whole, text = sorted(self.kinds & {*WRITERS, "report"}), f"--shard {shard.index}/{shard.count}"
        if whole:
            raise BadInput(
                f"--write {','.join(whole)} needs all parts: leave it out of {text}, and call with --shard 0/1 at the end"
            )
        if self.outputs and place_of(self.out, self.scratch).afar:
            raise BadInput(
                f"--write {','.join(self.outputs)}: for an address leave it out of {text}, and call with --shard 0/1 at the end"
            )
