"""Makes one part of a predictions folder from the canvases of its block, while a thread writes.

One thread runs the network and another writes, so that neither waits for the other. A part that was not committed leaves
nothing behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chestmap.errors import Diverged
from chestmap.models.predictor import Predictor, images_of
from chestmap.prediction.decoding import Decoded, Failed, Input
from chestmap.prediction.part_inputs import Outcome, inputs_of, write_inputs
from chestmap.predictions.folder import Chunk, GrowingPart
from chestmap.storage.manifest import is_sealed

PENDING = 2
"""Batches that wait to be written."""

OnPart = Callable[[Path, Sequence[Input]], None]
"""Called with each finished part and its inputs, in the order of its rows, from a thread of its own."""


class PartWriterThread:
    """One thread, which few batches wait for; what goes wrong there comes up here."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> PartWriterThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)  # what was predicted is kept, whatever ends the call

    def submit(self, action: Callable[..., None], *words: Any) -> None:
        """Hands an action to the writing thread.

        Waits while too many are pending, which bounds memory; raises what an earlier one raised.
        """
        self._pending.append(self._pool.submit(action, *words))
        while len(self._pending) > PENDING:
            self._pending.popleft().result()

    def finish(self) -> None:
        """Waits for all pending actions and raises the first error among them."""
        while self._pending:
            self._pending.popleft().result()


@dataclass(eq=False, kw_only=True)
class GrowingBlock:
    """A part while it is made."""

    predictor: Predictor
    batch_size: int
    writing: PartWriterThread
    growing: GrowingPart
    block: list[Input]
    seen: int = 0
    added: bool = False
    batch: list[tuple[Input, Decoded]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def take(self, source: Input, found: Decoded | Failed) -> None:
        """Takes the next decoded input; runs the network when the batch is full or the block ends."""
        self.seen += 1
        if isinstance(found, Decoded):
            self.batch.append((source, found))
        else:
            self.outcomes.append(Outcome(source, found.identity, found))
        if self.batch and (len(self.batch) == self.batch_size or self.seen == len(self.block)):
            chunk, outcomes = scored(self.predictor, self.batch)
            self.outcomes += outcomes
            self.batch, self.added = [], True
            self.writing.submit(self._add, chunk)
        if self.seen == len(self.block) and not self.added:
            self.writing.submit(self._add, _nothing_of(self.predictor))

    def _add(self, chunk: Chunk) -> None:
        with self._unless_there():
            self.growing.add(chunk)

    def commit(self, on_part: OnPart) -> None:
        """Gives the part its final name, then calls `on_part`; a part that another process made meanwhile is kept."""
        with self._unless_there():
            write_inputs(self.growing.made, self.block, self.outcomes)
            self.growing.commit()
        final = self.growing.final
        on_part(final, inputs_of(final.parent, self.growing.number, self.block))

    @contextmanager
    def _unless_there(self) -> Iterator[None]:
        """Another process may have made the same part, completed the folder, and removed this one."""
        try:
            yield
        except FileNotFoundError:
            if not is_sealed(self.growing.final):
                raise


def scored(predictor: Predictor, batch: list[tuple[Input, Decoded]]) -> tuple[Chunk, list[Outcome]]:
    """An image without finite scores is set aside; where all are such, the weights are to blame."""
    scores, maps = predictor.raw(images_of(np.stack([one.canvas for _, one in batch])))
    good = [bool(np.isfinite(row).all()) for row in scores]
    if not any(good) and not _sees_an_empty_canvas(predictor):
        raise Diverged(f"{predictor.model.folder}: no score of {len(batch)} images is a finite number; check the weights")
    outcomes = [
        Outcome(
            source, one.identity, None if fine else Failed(one.image_id, "its scores are no finite numbers: check the image")
        )
        for (source, one), fine in zip(batch, good, strict=True)
    ]
    kept = [one for (_, one), fine in zip(batch, good, strict=True) if fine]
    ids, patients = tuple(one.image_id for one in kept), tuple(one.patient_id for one in kept)
    return Chunk(
        image_ids=ids, patient_ids=patients, frames=tuple(one.frame for one in kept), scores=scores[good], maps=maps[good]
    ), outcomes


def _sees_an_empty_canvas(predictor: Predictor) -> bool:
    """Whether an empty canvas has finite scores, so that it is the images that are wrong."""
    return bool(np.isfinite(_of_an_empty_canvas(predictor)[0]).all())


def _of_an_empty_canvas(predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    width, height = predictor.model.canvas.canvas
    return predictor.raw(images_of(np.zeros((1, height, width), np.uint8)))


def _nothing_of(predictor: Predictor) -> Chunk:
    """No image, but maps of the right size."""
    scores, maps = _of_an_empty_canvas(predictor)
    return Chunk(image_ids=(), patient_ids=(), frames=(), scores=scores[:0], maps=maps[:0])
