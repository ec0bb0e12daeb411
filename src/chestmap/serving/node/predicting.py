"""From images in the queue to result files: decoded by processes that may die of it, predicted in batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from chestmap.errors import BadImage, ChestmapError
from chestmap.reports.dicom import Kind
from chestmap.serving.node.settings import NodeSettings
from chestmap.serving.node.spool import TROUBLE, Spool
from chestmap.serving.readers import Busy, Readers
from chestmap.serving.results import Answer
from chestmap.serving.served import Served
from chestmap.types import Frame

log = logging.getLogger(__name__)
PAUSE = 5.0
"""Seconds until another try, where the disk or the database is at fault."""


class Predicting:
    """A thread that predicts whatever is new."""

    def __init__(
        self, served: Served, spool: Spool, readers: Readers, kinds: Sequence[Kind], settings: NodeSettings
    ) -> None:
        self.served, self.spool, self.readers, self.kinds, self.settings = served, spool, readers, tuple(kinds), settings
        self._stopping, self._unsure = threading.Event(), False
        self._pool = ThreadPoolExecutor(settings.readers, "decode")
        self._thread = threading.Thread(target=self._run, name="predicting", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the batch that is under way."""
        self._stopping.set()
        self.spool.arrived.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.spool.arrived.clear()
            try:
                if self._unsure:
                    self.spool.queue.recover()
                    self._unsure = False
                claimed = self.spool.queue.claim(self.settings.batch_size)
                if claimed:
                    self.work(claimed)
                else:
                    self.spool.arrived.wait(PAUSE)
            except Exception as problem:  # a node goes on, whatever one batch ran into
                log.warning("predicting: %s; trying again", type(problem).__name__)
                self._unsure = True
                self._stopping.wait(PAUSE)

    def work(self, image_ids: Sequence[str]) -> None:
        """Each of them is ready, failed or new again afterwards."""
        decoded = [one for one in self._pool.map(self._decoded, image_ids) if one is not None]
        answers = self._answers(decoded)
        for _ in self._pool.map(self._write, answers):
            pass

    def _decoded(self, image_id: str) -> tuple[str, np.ndarray, Frame] | None:
        """On the model's canvas."""
        folder, model = self.spool.place(image_id), self.served.predictor.model
        name, (width, height) = self.served.canvas_name, model.canvas.canvas
        try:
            found = self.readers.canvases(folder / "image.dcm", folder, {name: model.canvas})
            pixels = np.fromfile(folder / name, dtype=np.uint8).reshape(height, width)
            (folder / name).unlink()
        except BadImage as problem:
            self._fail(image_id, str(problem))
        except (*TROUBLE, Busy, ValueError) as problem:
            self._later(image_id, problem)
        else:
            return image_id, pixels, Frame.from_list(found["frames"][name])
        return None

    def _answers(self, decoded: Sequence[tuple[str, np.ndarray, Frame]]) -> list[Answer]:
        """A batch that fails is tried again image by image, so that one image fails no other."""
        if not decoded:
            return []
        ids = [image_id for image_id, _, _ in decoded]
        canvases, frames = np.stack([pixels for _, pixels, _ in decoded]), [frame for _, _, frame in decoded]
        try:
            return self.served.answers(canvases, frames, [(one, self.spool.place(one)) for one in ids])
        except TROUBLE as problem:
            for image_id in ids:
                self._later(image_id, problem)
            return []
        except Exception as problem:
            if len(ids) > 1:
                return [answer for one in decoded for answer in self._answers([one])]
            said = str(problem) if isinstance(problem, ChestmapError) else type(problem).__name__
            self._fail(ids[0], f"cannot be predicted: {said}")
            return []

    def _write(self, answer: Answer) -> None:
        """Result files, all or none."""
        image_id, place = answer.study_id, self.spool.place(answer.study_id)
        assert answer.file is not None
        maps, out = place / answer.file.name, self.spool.folders.new()
        request: dict[str, Any] = {
            "id": image_id, "findings": answer.findings, "grid": answer.maps, "maps": str(maps), "kinds": self.kinds,
            "about": self.served.dicom_about(),
        }  # fmt: skip
        try:
            self.readers.results(place / "image.dcm", out, request)
            maps.unlink()
            self.spool.keep_results(image_id, out)
        except BadImage as problem:
            self._fail(image_id, str(problem))
        except (*TROUBLE, Busy) as problem:
            self._later(image_id, problem)

    def _fail(self, image_id: str, reason: str) -> None:
        log.warning("image %s cannot be predicted; `chestmap node --status` says why", image_id)
        self.spool.queue.fail(image_id, reason)

    def _later(self, image_id: str, problem: Exception) -> None:
        log.warning("image %s: %s; trying again", image_id, type(problem).__name__)
        self._stopping.wait(PAUSE)
        self.spool.queue.put_back(image_id)
