"""Trains one step, on Lightning Fabric.

Order, augmentation and dropout are functions of (seed, step, epoch, batch, rank): position and state suffice to go on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chestmap.errors import BadInput, BadSettings
from chestmap.nn.backbone import watched_features
from chestmap.nn.process_sums import counting_together
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.tensors import Batch
from chestmap.training.optimization.balance import RAW, Balance
from chestmap.training.optimization.checkpoint import resume_files, save_weights
from chestmap.training.optimization.epoch_progress import Epoch
from chestmap.training.optimization.interrupt import Interrupt
from chestmap.training.optimization.log import Log, peak_memory_gb
from chestmap.training.optimization.resume import State
from chestmap.training.optimization.schedule import Schedule, optimizer_for
from chestmap.training.optimization.validation import NothingToRank, validation_auc, validation_iou, validation_loss
from chestmap.training.optimization.weight_average import Average
from chestmap.training.run_folder import write_done
from chestmap.training.task import Task

if TYPE_CHECKING:
    from chestmap.training.run import Run

LOOK_EVERY = 10  # batches between two looks at the loss on a GPU, where each one waits for the device


class Loop:
    """One step in training: its optimizer, its position, and what is logged."""

    def __init__(self, run: Run, folder: Path, task: Task, schedule: Schedule) -> None:
        self.run, self.fabric, self.folder, self.task, self.schedule = run, run.fabric, folder, task, schedule
        self.optimizer = optimizer_for(task, schedule)
        self.model, self.stepper = run.fabric.setup(task, self.optimizer)
        self.average = Average(task, schedule.ema) if schedule.ema else None
        self.world, self.cheap_looks = run.fabric.world_size, run.device.type == "cpu"
        self.state = State(fabric=run.fabric, task=task, optimizer=self.optimizer, average=self.average)
        self.balance = Balance(run.fabric, task.weights, schedule, self.state.norms, compiled=run.settings.compile)
        self.factors: dict[str, float] = {}
        self.measures = False
        self.at, self.terms, self.interrupt = self.state.at, self.state.terms, Interrupt()
        self.clock = self.saved = time.monotonic()
        self.logged = (0.0, 0)  # seconds and images at the last row of the log
        self.shown: dict[str, float] = {}  # of this epoch, for a line of progress

    def train(self, part: Part, validation: Part | None) -> dict[str, Any]:
        """Train what is left; returns and writes the done marker."""
        self._check_pieces()
        self.loader = self._loader(part, shuffle=True)
        self.batches = min(len(self.loader), self.schedule.batches or len(self.loader))
        self._go_on()
        self.log = Log(self.run.folder, self.folder.name, self.at, self.run.settings) if self.run.first else None
        self.run.screen.start(self.folder.name, total=self.batches * self.schedule.epochs, done=self._done())
        try:
            with self.interrupt:
                while self.at.epoch < self.schedule.epochs and not 0 < self.schedule.patience <= self.at.stale:
                    self._epoch()
                    self._validate(validation)
                    self._show_epoch()
                    self.at.epoch, self.at.batch = self.at.epoch + 1, 0
                    self._save()
        except RuntimeError:
            if self.world > 1 and self.interrupt.comes():
                raise KeyboardInterrupt from None  # another process died, and the launcher ends this one
            raise
        finally:
            self.run.screen.stop()
            if self.log:
                self.log.close()
        return self._finish()

    def _check_pieces(self) -> None:
        most, share = self.run.settings.images_at_once, self.schedule.batch_size // self.world
        if self.task.needs_whole and most is not None and most < share:
            raise BadSettings(
                f"run.images_at_once: {self.folder.name} cannot be computed {most} images at a time, because "
                f"{self.task.needs_whole}; leave images_at_once out, or set it to {share}, a process's part of a batch"
            )

    def _loader(self, part: Part, *, shuffle: bool) -> Loader:
        """Of this process's share of the images; those that are trained on come shuffled and augmented."""
        schedule = self.schedule
        settings = LoaderSettings(
            batch_size=schedule.batch_size,
            workers=self.run.settings.workers,
            boxed_share=schedule.boxed_share,
            most_boxed=schedule.most_boxed,
        )
        return Loader(
            part=part,
            settings=settings,
            seed=self.run.number("order", self.folder.name),
            augment=self.run.augment if shuffle and schedule.augment else None,
            shuffle=shuffle,
            rank=self.fabric.global_rank,
            world=self.world,
        )

    def _done(self) -> int:
        return self.at.epoch * self.batches + self.at.batch

    def _epoch(self) -> None:
        self.model.train()
        if self.at.batch < self.batches:
            for batch in islice(self.loader.epoch(self.at.epoch, start=self.at.batch), self.batches - self.at.batch):
                self._batch(batch.to(self.run.device, non_blocking=True))

    def _batch(self, batch: Batch) -> None:
        at = self.at
        first = at.batch - at.batch % self.schedule.accumulate
        size = min(self.schedule.accumulate, self.batches - first)
        last = at.batch + 1 == first + size
        if at.batch == first:
            self.measures = self.balance.begin(at.update, logged=self._logs(at.update + 1, first + size))
        self.run.seed(self.folder.name, at.epoch, at.batch, self.fabric.global_rank)
        *early, final = batch.pieces(self.run.settings.images_at_once)
        for piece in early:
            self._piece(piece, len(piece) / len(batch), size, sync=False)
        self._piece(final, len(final) / len(batch), size, sync=last)
        at.batch, at.images = at.batch + 1, at.images + len(batch) * self.world
        if self.cheap_looks or len(self.terms.waiting) >= LOOK_EVERY:
            self.terms.check_finite()
        if last:
            self._update()

    def _logs(self, update: int, batch: int) -> bool:
        """Whether the log gets a row after so many optimizer steps, and batches of the epoch."""
        return update % self.run.settings.log_every == 0 or batch == self.batches

    def _piece(self, piece: Batch, share: float, batches: int, *, sync: bool) -> None:
        """Gradients of what a process computes at once: a share of one of so many batches of an optimizer step."""
        where = f"{self.folder.name}, epoch {self.at.epoch + 1}, batch {self.at.batch + 1}"
        with self.fabric.no_backward_sync(self.model, enabled=not sync):
            with counting_together(self.world, share), watched_features(self.task, on=self.measures) as features:
                terms: dict[str, Tensor] = self.model(piece)
            updates = -(-self.batches // self.schedule.accumulate)
            self.factors = self.balance.factors(where, list(terms), self.at.update, updates)
            if self.measures:
                self.balance.measure(where, terms, features, share / batches)
            self.terms.add(where, piece.ids, self.balance.logged(terms, self.factors), share)
            weighted = [self.factors[name] * value for name, value in terms.items()]
            self.fabric.backward(torch.stack(weighted).sum() / batches * share)

    def _update(self) -> None:
        """One optimizer step, and what follows it."""
        at, schedule = self.at, self.schedule
        if schedule.clip:
            self.fabric.clip_gradients(self.model, self.stepper, max_norm=schedule.clip, error_if_nonfinite=False)
        rate = schedule.rate(at.update, -(-self.batches // schedule.accumulate))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.stepper.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(at.update)
        self.task.after_step()
        shares = self.balance.shares(self.factors)
        at.update += 1
        self._keep_time()
        self.run.screen.advance(self._done())
        if self._logs(at.update, at.batch):
            self._log_terms(rate, shares)
        asked, due = self._asked()
        if asked or due:
            self._save()
        if asked:
            raise KeyboardInterrupt

    def _keep_time(self) -> None:
        now = time.monotonic()
        self.at.seconds, self.clock = self.at.seconds + now - self.clock, now

    def _log_terms(self, rate: float, shares: dict[str, float]) -> None:
        means, (seconds, images) = self.terms.means(), self.logged
        loss = sum(value for name, value in means.items() if not name.endswith(RAW))
        self.logged = self.at.seconds, self.at.images
        speed = (self.at.images - images) / max(self.at.seconds - seconds, 1e-9)
        more = {"learning_rate": rate, "images_per_second": speed, "memory_gb": peak_memory_gb(self.run.device)}
        self._log(means | shares | {"loss": loss} | more)
        self.run.screen.note(speed, loss)
        self.shown["loss"] = loss

    def _log(self, values: dict[str, float]) -> None:
        if self.log:
            self.log.write(self.at, values)

    def _asked(self) -> tuple[bool, bool]:
        """Whether a signal came to any process, and whether it is time to save for any; all do the same at the same step."""
        here = self.interrupt.asked, time.monotonic() - self.saved >= self.run.settings.checkpoint_minutes * 60
        if self.world == 1:
            return here
        asked, due = self.fabric.all_reduce(torch.tensor(here, device=self.run.device).float(), reduce_op="sum")
        return bool(asked > 0), bool(due > 0)

    def _validate(self, part: Part | None) -> None:
        """Scores the validation images where the epoch is due, and keeps the weights of the best epoch."""
        at, schedule = self.at, self.schedule
        epoch = at.epoch + 1
        if part is None or (epoch % schedule.validate_every and epoch < schedule.epochs):
            return
        self.task.eval()
        try:
            with self.average.in_place() if self.average else nullcontext():
                values = self._scores(part)
                score = values.get(f"validation_{schedule.measure}", math.nan) * (-1 if schedule.select == "loss" else 1)
                at.stale += 1
                if schedule.select != "last" and (at.best is None or score > at.best):
                    at.best, at.best_epoch, at.stale = score, epoch, 0
                    at.best_sha256 = save_weights(self.task, self._best_file()) if self.run.first else ""
        except KeyboardInterrupt:
            self._save()
            raise
        trained = at.seconds
        self._keep_time()
        self.logged = self.logged[0] + at.seconds - trained, self.logged[1]
        self._log(values)
        self.shown |= {name: value for name, value in values.items() if name in {"validation_auc", "validation_loss"}}
        self.run.observe(self.folder.name, epoch, score)

    def _show_epoch(self) -> None:
        at, epochs = self.at, self.schedule.epochs
        left = at.seconds / (at.epoch + 1) * (epochs - at.epoch - 1)
        values, self.shown = self.shown, {}
        self.run.screen.epoch(
            Epoch(step=self.folder.name, number=at.epoch + 1, of=epochs, values=values, best=at.best, left=left)
        )

    def _scores(self, part: Part) -> dict[str, float]:
        if len(part) < self.world:
            raise BadInput(f"{part.name}: {len(part)} images for {self.world} processes; use fewer processes")
        batches = self._until_asked(self._loader(part, shuffle=False))
        if self.schedule.select == "loss":
            return validation_loss(self.fabric, self.task, batches)
        measure = validation_iou if self.schedule.select == "iou" else validation_auc
        try:
            return measure(self.fabric, self.task, batches, len(part), len(part.findings))
        except NothingToRank:
            if self.schedule.select != "last":  # the last weights need no score
                raise
            return {}

    def _until_asked(self, loader: Loader) -> Iterator[Batch]:
        for batch in loader.epoch(0):
            if self.interrupt.asked and self.world == 1:
                raise KeyboardInterrupt
            yield batch.to(self.run.device, non_blocking=True)

    def _best_file(self) -> Path:
        return self.folder / f"best-{self.at.best_epoch:05d}.safetensors"

    def _go_on(self) -> None:
        self.state.load(self.folder, self.run.screen.tell)
        self.logged = self.at.seconds, self.at.images
        self.clock = time.monotonic()

    def _save(self) -> None:
        self.saved = time.monotonic()
        self.state.save(self.folder)
        if self.run.first:
            for old in self.folder.glob("best-*"):
                if old != self._best_file():
                    old.unlink()

    def _finish(self) -> dict[str, Any]:
        """Writes the weights that are kept, and the marker of the finished step."""
        at, weights = self.at, self.folder / "weights.safetensors"
        done = {
            "epochs": at.epoch,
            "measure": self.schedule.select if at.best is not None else "",
            "score": -at.best if at.best is not None and self.schedule.select == "loss" else at.best,
            "seconds": round(at.seconds, 1),
            "images_per_second": round(at.images / max(at.seconds, 1e-9), 1),
            "peak_memory_gb": round(peak_memory_gb(self.run.device), 3),
            "sha256": at.best_sha256,
        }
        if self.run.first:
            if at.best is None:
                with self.average.in_place() if self.average else nullcontext():
                    done["sha256"] = save_weights(self.task, weights)
            elif self._best_file().exists():
                self._best_file().replace(weights)
            write_done(self.folder, done)
            for left in [*resume_files(self.folder), *self.folder.glob("best-*")]:
                left.unlink()
        return done
