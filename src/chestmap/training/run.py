"""Runs the named steps of a recipe in one folder: trains each or, where it is finished, loads it.

A recipe calls `fit`, `write` and `put` with a name for each step. A step that is finished and was made from the same code,
data and settings is loaded, not trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import torch

from chestmap.nn.process_sums import synchronized_norms
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.loader import Part
from chestmap.storage.atomic import making_folder
from chestmap.storage.manifest import seal
from chestmap.training.environment import record_start
from chestmap.training.optimization.checkpoint import load_weights
from chestmap.training.optimization.epoch_progress import Screen, Summary
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run_folder import Lock, begin_step, is_begun, step_folder, take_step, write_json
from chestmap.training.run_settings import RESULT, RunSettings
from chestmap.training.step_record import Record, code_of, flat
from chestmap.training.task import Task

AnyTask = TypeVar("AnyTask", bound=Task)
Observer = Callable[[str, int, float], None]  # step, epoch, validation score; greater is better


class Run:
    """A folder of steps. `method` holds the method's settings without its schedules, `augment` what training images undergo."""

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        *,
        method: Mapping[str, Any] | None = None,
        augment: AugmentSettings | None = None,
        observe: Observer | None = None,
        progress: bool = True,
    ) -> None:
        self.others: Sequence[Path] = ()  # run folders with finished steps to take where the same is to be made
        self.folder, self.settings, self.method, self.augment = folder, settings, dict(method or {}), augment
        self.observe = observe or (lambda *_: None)
        from chestmap.training.process_group import (
            check_shared,
            make_fabric,
        )  # Fabric takes seconds to import, and METHODS should not

        self.fabric = make_fabric(settings)
        self.first = self.fabric.is_global_zero
        self.device = self.fabric.device
        self.screen = Screen(quiet=not (progress and self.first))
        self.steps: list[Summary] = []
        self.after = ""
        self.lock = Lock(folder) if self.first else None
        if self.first:
            together = {"processes": self.fabric.world_size, "machines": settings.processes()[1]}
            record_start(folder, self.device, settings.model_dump() | together)
        check_shared(self.fabric, folder)
        self.seed("start")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock:
            self.lock.release()

    def number(self, *what: object) -> int:
        """A number of 32 bits that depends on the run's seed and on `what` alone."""
        return crc32("/".join(map(str, (self.settings.seed, *what))).encode())

    def seed(self, *what: object) -> None:
        """Seeds torch by the run's seed and what is going to be drawn, so that a resumed run draws the same."""
        torch.manual_seed(self.number(*what))

    def fit(
        self,
        name: str,
        task: AnyTask,
        part: Part,
        schedule: Schedule,
        validation: Part | None = None,
        *,
        reads: Sequence[str] | None = None,
    ) -> AnyTask:
        """The trained task in evaluation mode, with its best weights, or its last where there is no `validation`.

        `reads` names the method's settings that the step depends on, where these are not all: runs that differ in others share it.
        """
        folder = step_folder(self.folder, len(self.steps) + 1, name)
        data = {"train": part.fingerprint} | ({"validation": validation.fingerprint} if validation else {})
        augment = {"augment": self.augment.model_dump(mode="json")} if self.augment and schedule.augment else {}
        made_from = {"schedule": schedule.model_dump(mode="json")} | augment
        record = self._record(made_from, data, type(task).__module__, reads)
        task.to(self.device)
        if self.settings.channels_last:
            task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- of modules too, though not typed
        if self.settings.compile:
            for child in task.network.children():  # not the whole: a task may call another method than forward
                child.compile()
        with self.fabric.rank_zero_first():
            self._take(folder, record, trained=True)
            done = begin_step(folder, record, accept_code=self.settings.accept_code_change, write=self.first)
        earlier = done is not None
        if done is None:
            from chestmap.training.optimization.loop import Loop

            self._drop_model()
            try:
                with self._together(task):
                    done = Loop(self, folder, task, schedule).train(part, validation)
            except KeyboardInterrupt:
                self.screen.tell(f"{folder.name}: stopped; the same command goes on from its last saved state")
                raise
            self.fabric.barrier()
        load_weights(task, folder / "weights.safetensors", done.pop("sha256"))
        self._close_step(record, Summary(step=folder.name, earlier=earlier, **done))
        return task.eval()

    def _together(self, task: Task) -> AbstractContextManager[None]:
        """Joins batch norms over the processes of a training, where the settings ask for it."""
        if self.fabric.world_size == 1 or not self.settings.sync_batch_norm:
            return nullcontext()
        return synchronized_norms(task, task.still)

    def write(
        self, name: str, make: Callable[[Path], None], of: Part | None = None, *, reads: Sequence[str] | None = None
    ) -> Path:
        """A folder that `make` fills once; it is whole or absent. `of` is the part that gives its images; `reads` as in `fit`."""
        folder = step_folder(self.folder, len(self.steps) + 1, name)
        record = self._record({}, {"of": of.fingerprint} if of else {}, _home(make), reads)
        started = time.monotonic()
        self.seed(folder.name)
        with self.fabric.rank_zero_first():
            self._take(folder, record, trained=False)
            earlier = is_begun(folder, record, accept_code=self.settings.accept_code_change, write=self.first)
            if not earlier and self.first:
                self.screen.tell(f"{folder.name}: writing")
                self._drop_model()
                self.put(folder, make, record)
        self._close_step(record, Summary(step=folder.name, seconds=time.monotonic() - started, earlier=earlier))
        return folder

    def put(self, folder: Path, make: Callable[[Path], None], record: Record | None = None) -> None:
        """Makes a folder under a temporary name, seals it and renames it; one that is there is replaced.

        The first process alone does this. With a `record` the folder is a finished step.
        """
        if not self.first:
            return
        with making_folder(folder) as made:
            make(made)
            if record:
                write_json(made / "step.json", record.as_json())
            seal(made)

    def _take(self, folder: Path, record: Record, *, trained: bool) -> None:
        """Where the step is not begun here, that of another run if it is finished and was made from the same."""
        if not self.first or (folder / "step.json").exists():
            return
        taken = take_step(folder, record, self.others, trained=trained)
        if taken is not None:
            self._drop_model()
            self.screen.tell(f"{folder.name}: taken from {taken}, where the same was made")

    def _drop_model(self) -> None:
        """What was written of other steps than those of this folder."""
        if self.first:
            shutil.rmtree(self.folder / "model", ignore_errors=True)

    def _record(
        self, settings: dict[str, Any], data: dict[str, str], module: str | None, reads: Sequence[str] | None = None
    ) -> Record:
        """Collects what a step is made from: settings, data, code, and the step before it.

        Of the method's settings those in `reads` count, and what is around it, or all. A step with an equal record is
        loaded and not trained again.
        """
        run = {key: getattr(self.settings, key) for key in RESULT}
        method = {key: value for key, value in self.method.items() if reads is None or key in (*reads, "around")}
        return Record(flat({"run": run, "method": method, **settings}), data, code_of(module), self.after)

    def _close_step(self, record: Record, summary: Summary) -> None:
        """Notes a step as the one before the next, adds its line to the table, and seeds torch anew."""
        self.after = record.identity
        self.steps.append(summary)
        self.seed("after", summary.step)  # what the recipe builds next does not depend on whether this step was loaded


def _home(make: Callable[..., None]) -> str | None:
    """The module of the function behind `functools.partial`."""
    while isinstance(make, partial):
        make = make.func
    return getattr(make, "__module__", None)
