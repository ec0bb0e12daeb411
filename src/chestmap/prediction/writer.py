"""The thread that writes what the network gave, part by part."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import polars as pl

from chestmap.prediction.decoding import Input
from chestmap.predictions.folder import Chunk, GrowingPart, PredictionsWriter

PENDING = 2
"""Batches that wait to be written."""

OnPart = Callable[[Path, Sequence[Input]], None]
"""Hears of a finished part and its inputs, in the order of its rows; may be called from any thread."""


class Writing:
    """The thread that writes, and the part that is being written."""

    def __init__(self, writer: PredictionsWriter, number: int, on_part: OnPart) -> None:
        self.writer, self.number, self.on_part = writer, number, on_part
        self.size = writer.header.part_size
        self.room, self.images = self.size, 0  # room is what the part takes in the thread of the network
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._part: GrowingPart | None = None
        self._inputs: list[Input] = []

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, chunk: Chunk, inputs: list[Input]) -> None:
        self.images += len(chunk)
        self.room -= len(chunk)
        full = self.room == 0
        if full:
            self.room = self.size
        self._pending.append(self._pool.submit(self._write, chunk, inputs, full=full))
        while len(self._pending) > PENDING:
            self._pending.popleft().result()

    def finish(self) -> None:
        self._pending.append(self._pool.submit(self._commit))
        while self._pending:
            self._pending.popleft().result()

    def _write(self, chunk: Chunk, inputs: list[Input], *, full: bool) -> None:
        if self._part is None:
            self._part = self.writer.grow(self.number)
        self._part.add(chunk)
        self._inputs += inputs
        if full:
            self._commit()

    def _commit(self) -> None:
        part, inputs = self._part, self._inputs
        if part is None:
            return
        pl.DataFrame({"key": [source.key for source in inputs]}).write_parquet(part.place / "inputs.parquet")
        part.commit()
        self._part, self._inputs, self.number = None, [], self.number + 1
        self.on_part(part.final, inputs)
