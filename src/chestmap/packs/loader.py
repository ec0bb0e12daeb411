"""Loads batches from a pack. What an epoch holds, and in which order, is a pure function of (seed, epoch).

A `Loader` yields `Batch`es: images in [0, 1], labels with NaN for unknown, boxes in image pixels, and the frames. Any
number of workers or processes yields the same batches in the same order.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from chestmap.errors import BadInput, Refused
from chestmap.packs.augment import AugmentSettings, Change, augmented, counted, draw
from chestmap.packs.part import Part
from chestmap.settings import Settings
from chestmap.tensors import Batch

__all__ = ["Loader", "LoaderSettings", "Part"]


class LoaderSettings(Settings):
    """`batch_size` is that of all ranks together. `boxed_share`: the least share of each training batch that carries boxes, for
    the few boxed images among many; `most_boxed`: the greatest, for many boxed ones that would drown the rest. `workers` is the number of processes that read and augment; 0 does it in the process that trains.
    """

    batch_size: int = Field(default=16, ge=1)
    workers: int = Field(default=0, ge=0)
    boxed_share: float | None = Field(default=None, ge=0, le=1)
    most_boxed: float | None = Field(default=None, gt=0, le=1)


class Picks(NamedTuple):
    """The images of one batch: positions in the part, and how often each came before in this epoch."""

    epoch: int
    positions: tuple[int, ...]
    repeats: tuple[int, ...]


@dataclass(eq=False, kw_only=True)
class Loader:
    """Batches of a part. Without `drop_last` every image comes once; by default training alone drops a short last batch.

    With `boxed_share` or `most_boxed` an epoch is once through the images without boxes, while the boxed ones come round as often
    as needed, or a part of them, in every epoch another.
    Ranks share out each batch, so that together they see the batches of one rank. Only one epoch runs at a time.
    """

    part: Part
    settings: LoaderSettings
    seed: int = 0
    augment: AugmentSettings | None = None
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    drop_last: bool | None = None

    def __post_init__(self) -> None:
        self._turn = 0
        self._drops = self.shuffle if self.drop_last is None else self.drop_last
        if not 0 <= self.rank < self.world:
            raise BadInput(f"rank {self.rank} of {self.world} processes: expected 0 to {self.world - 1}")
        if self.shuffle and self.world > 1 and not self._drops:
            raise Refused("training over several processes without drop_last: one would wait for the others; leave it out")
        if self._drops and len(self.part) < self.world:
            raise BadInput(f"{self.part.name}: {len(self.part)} images for {self.world} processes; use fewer processes")
        if self.settings.batch_size % self.world:
            raise BadInput(
                f"{self.part.name}: a batch of {self.settings.batch_size} images cannot be shared out evenly over "
                f"{self.world} processes; use a number of processes that divides it"
            )
        if self._boxed_each and not self.part.boxed.any():
            raise BadInput(
                f"{self.part.name}: boxed_share {self.settings.boxed_share}, but no image has a box; leave it out"
            )
        if self._boxed_each and self._boxed_each < self.settings.batch_size and self.part.boxed.any(axis=1).all():
            raise BadInput(
                f"{self.part.name}: most_boxed {self.settings.most_boxed}, but every image has a box; leave it out, or train "
                "on images without boxes too"
            )

    def __len__(self) -> int:
        return len(self._bounds)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `start` on; those before it are not read."""
        self._turn += 1
        picks = self.picks(epoch)[start:]
        for pick, images in zip(picks, self._read(picks, self._turn), strict=True):
            batch = self._batch(pick, images)
            yield batch if self.part.through is None else self.part.through(batch)

    @cached_property
    def _boxed_each(self) -> int:
        """Images with boxes that each batch must hold; 0 where they come as they come, because they are as many as asked for."""
        least, most = self.settings.boxed_share or 0.0, self.settings.most_boxed or 1.0
        if not self.shuffle or not len(self.part) or (not least and most == 1):
            return 0
        natural = self.part.boxed.any(axis=1).mean()
        if least <= natural <= most:
            return 0
        return max(1, round((least if natural < least else most) * self.settings.batch_size))

    @cached_property
    def _streams(self) -> tuple[Int64[np.ndarray, "few"], Int64[np.ndarray, "many"]]:
        """Positions that come round, and those that come once in an epoch."""
        everything = np.arange(len(self.part))
        if not self._boxed_each:
            return everything[:0], everything
        boxed = self.part.boxed.any(axis=1)
        only_boxed = self._boxed_each >= self.settings.batch_size
        return (everything[:0], everything[boxed]) if only_boxed else (everything[boxed], everything[~boxed])

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        """Of the epoch's order, the slice for each batch. A part that does not fill one batch is not dropped."""
        few, many = self._streams
        count = self.settings.batch_size - (self._boxed_each if len(few) else 0)
        full, rest = divmod(len(many), count)
        bounds = [(batch * count, batch * count + count) for batch in range(full)]
        if rest and not (self._drops and full):
            bounds.append((full * count, len(many)))
        around = self._boxed_each if len(few) else 0
        return [(start, stop) for start, stop in bounds if self._mine(stop - start + around).stop]

    def _mine(self, count: int) -> slice:
        """The rank's share of a batch of `count` images; what does not divide goes to the first ranks, or is dropped."""
        size, rest = divmod(count, self.world)
        extra = 0 if self._drops else rest
        start = self.rank * size + min(self.rank, extra)
        stop = start + size + (self.rank < extra)
        return slice(start, stop) if stop > start else slice(0, 0)

    def picks(self, epoch: int) -> list[Picks]:
        """What each batch of an epoch holds for this rank."""
        few, many = self._streams
        order = self._order(epoch, many) if self.shuffle else many
        each, bounds = self._boxed_each, self._bounds
        if not len(few):
            shares = [order[start:stop][self._mine(stop - start)].tolist() for start, stop in bounds]
            return [Picks(epoch, tuple(share), (0,) * len(share)) for share in shares]
        turns = -(-each * len(bounds) // len(few))
        around = np.concatenate([few[self._shuffled(epoch, 1 + turn, len(few))] for turn in range(turns)])
        chosen = []
        for batch, (start, stop) in enumerate(bounds):
            first = batch * each
            positions = np.concatenate([order[start:stop], around[first : first + each]])
            repeats = [0] * (stop - start) + [index // len(few) for index in range(first, first + each)]
            mixed = self._shuffled(epoch, first + 2**32, len(positions))[self._mine(len(positions))].tolist()
            chosen.append(Picks(epoch, tuple(positions[mixed].tolist()), tuple(repeats[index] for index in mixed)))
        return chosen

    def _order(self, epoch: int, many: Int64[np.ndarray, "many"]) -> Int64[np.ndarray, "many"]:
        """Mixed by the pack's walk; the images of each stream lie together in a batch, where the ranks cut it."""
        order, walk = many[self._shuffled(epoch, 0, len(many))], self.part.pack.walk
        if not walk.window:
            return order
        shards = self.part.pack_rows[order] // walk.rows
        turns = self._shuffled(epoch, 2**34, int(shards.max(initial=0)) + 1)
        order = order[np.argsort(turns[shards] // walk.window, kind="stable")]
        count = self.settings.batch_size - (self._boxed_each if len(self._streams[0]) else 0)
        full, streams = len(order) // count, math.gcd(walk.streams, count)
        mixed = order[: full * count].reshape(streams, full, count // streams).swapaxes(0, 1).ravel()
        return np.concatenate([mixed, order[full * count :]])

    def _shuffled(self, epoch: int, stream: int, count: int) -> Int64[np.ndarray, "count"]:
        """A permutation, from sorted raw numbers: NumPy promises those, not its own shuffle, to stay the same."""
        return np.argsort(counted((self.seed, 1), (epoch, stream, 0), count), kind="stable")

    def _batch(self, picks: Picks, images: Tensor) -> Batch:
        """Joins pixels that a worker read with labels, boxes and the frames after augmentation."""
        part, positions = self.part, list(picks.positions)
        frames = tuple(part.base_frame(part.ids[position]) for position in positions)
        if part.views is not None:
            numbers = self._reader.numbers(picks)
            frames = tuple(
                part.views.frame(*pair) for pair in zip(frames, (part.ids[one] for one in positions), numbers, strict=True)
            )
        elif self.augment is not None:
            changes = self._reader.changes(picks)
            frames = tuple(frame.then(change.matrix) for frame, change in zip(frames, changes, strict=True))
        boxes = tuple(part.boxes(position) for position in positions)
        ids = tuple(part.ids[position] for position in positions)
        return Batch(
            images=images,
            labels=torch.from_numpy(part.labels[positions]),
            frames=frames,
            boxes=boxes,
            ids=ids,
            findings=part.findings,
        )

    @cached_property
    def _reader(self) -> _Reader:
        return _Reader(self.part, self.augment, self.seed)

    def _read(self, picks: list[Picks], turn: int) -> Iterator[Tensor]:
        """Pixels of each batch, from processes that stay alive between epochs where there are any."""
        if not self.settings.workers:
            yield from map(self._reader.__getitem__, picks)
            return
        self._queue.picks = picks
        with warnings.catch_warnings():  # Python 3.12 warns of a fork with threads; ours only read a file and compute
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            batches = iter(self._processes)
        for _ in picks:
            if turn != self._turn:
                raise Refused("another epoch of this loader was begun; finish one epoch before the next")
            yield next(batches)

    @cached_property
    def _queue(self) -> _Queue:
        return _Queue()

    @cached_property
    def _processes(self) -> DataLoader[Tensor]:
        """Starts the workers; they live for all epochs and end with this process."""
        fork = "fork" in multiprocessing.get_all_start_methods()
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._queue,
            num_workers=self.settings.workers,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=partial(_end_without, os.getpid()),
            multiprocessing_context="fork" if fork else None,  # a worker is there at once; it starts no threads
        )


def _end_without(parent: int, worker: int) -> None:  # noqa: ARG001 -- torch passes the worker's number
    """Torch's own watch misses a parent that was killed before the watch began, and the worker would wait forever."""
    if os.getppid() != parent:
        os._exit(1)


class _Queue(Sampler[Picks]):
    """What the processes are to read next: they outlive an epoch, so that its picks come through here."""

    def __init__(self) -> None:
        self.picks: Sequence[Picks] = ()

    def __iter__(self) -> Iterator[Picks]:
        return iter(self.picks)

    def __len__(self) -> int:
        return len(self.picks)


class _Reader(Dataset[Tensor]):
    """Reads and augments the pixels of one batch; what a worker process holds.

    It sends floats, four times the bytes: turned into floats by the receiver they broke up its heap, 2 GB within some epochs.
    """

    def __init__(self, part: Part, augment: AugmentSettings | None, seed: int) -> None:
        self.pack, self.rows, self.ids = part.pack, part.pack_rows, part.ids
        self.augment, self.seed, self.views = augment, seed, part.views

    def changes(self, picks: Picks) -> list[Change]:
        """Draws the change of each image from seed, epoch and id alone, so that workers need no state."""
        assert self.augment is not None
        canvas = self.pack.settings.canvas
        pairs = zip(picks.positions, picks.repeats, strict=True)
        return [draw(self.augment, canvas, self.seed, (picks.epoch, repeat), self.ids[place]) for place, repeat in pairs]

    def numbers(self, picks: Picks) -> list[int]:
        """Of the views that the batch shows; without augmentation the plain one."""
        assert self.views is not None
        if self.augment is None:
            return [0] * len(picks.positions)
        pairs = zip(picks.positions, picks.repeats, strict=True)
        return [self.views.number(self.seed, (picks.epoch, repeat), self.ids[place]) for place, repeat in pairs]

    def __getitem__(self, picks: Picks) -> Tensor:
        if self.views is not None:
            return torch.from_numpy(self.views.read(self.rows[list(picks.positions)], self.numbers(picks))).float()
        pixels = self.pack.pixels(self.rows[list(picks.positions)])
        images = torch.from_numpy(pixels).unsqueeze(1).float().div_(255.0)
        return images if self.augment is None else augmented(images, self.changes(picks), self.augment)
