"""From images in the queue to result files: decoded by processes that may die of it, predicted in batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from chestmap.errors import BadImage, ChestmapError
from chestmap.models.predictor import tensor_of
from chestmap.reports.dicom import Kind
from chestmap.serving.dicom.settings import NodeSettings
from chestmap.serving.dicom.spool import TROUBLE, Spool
from chestmap.serving.engine.decoder_pool import Busy, Ended, Readers
from chestmap.serving.engine.served_model import Served
from chestmap.serving.store.results import Answer
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
        self._stopping, self._unsure, self.broken = threading.Event(), False, ""
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
        while not self._stopping.is_set() and not self.broken:
            self.spool.arrived.clear()
            try:
                if self._unsure:
                    self.spool.queue.recover(deaths=0)
                    self._unsure = False
                claimed = self.spool.queue.claim(self.settings.batch_size)
                if claimed:
                    self.work(claimed)
                else:
                    self.spool.arrived.wait(PAUSE)
            except Exception as problem:  # a node goes on, whatever one batch ran into
                self.spool.metrics.say("predicting", f"predicting: {_said(problem)}; trying again")
                self._unsure = True
                self._stopping.wait(PAUSE)

    def work(self, image_ids: Sequence[str]) -> None:
        """Each of them is ready, failed or new again afterwards."""
        decoded = [one for one in self._pool.map(self._decoded, image_ids) if one is not None]
        with self._timed("predict"):
            answers = self._answers(decoded)
        for _ in self._pool.map(self._write, answers):
            pass

    def _timed(self, stage: str) -> AbstractContextManager[object]:
        return self.spool.metrics.seconds.labels(stage).time()

    def _decoded(self, image_id: str) -> tuple[str, np.ndarray, Frame] | None:
        """On the model's canvas."""
        folder, model = self.spool.place(image_id), self.served.predictor.model
        name, (width, height) = self.served.canvas_name, model.canvas.canvas
        try:
            with self._timed("decode"):
                found = self.readers.canvases(folder / "image.dcm", folder, {name: model.canvas})
            pixels = np.fromfile(folder / name, dtype=np.uint8).reshape(height, width)
            (folder / name).unlink()
        except Ended as problem:
            self._again(image_id, problem)
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
            if not self._predicts():
                self.broken = self.broken or said
                self.spool.queue.put_back(ids[0])
                return []
            self._fail(ids[0], f"cannot be predicted: {said}")
            return []

    def _predicts(self) -> bool:
        """Whether the model still answers at all: a graphics card that is lost fails every image, and none is at fault."""
        width, height = self.served.predictor.model.canvas.canvas
        try:
            self.served.predictor.arrays(tensor_of(np.zeros((1, height, width), np.uint8)), ["an empty canvas"])
        except Exception:
            return False
        return True

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
            with self._timed("write"):
                self.readers.results(place / "image.dcm", out, request)
            maps.unlink()
            self.spool.keep_results(image_id, out)
        except Ended as problem:
            self._again(image_id, problem)
        except BadImage as problem:
            self._fail(image_id, str(problem))
        except (*TROUBLE, Busy) as problem:
            self._later(image_id, problem)

    def _fail(self, image_id: str, reason: str) -> None:
        log.warning("image %s cannot be predicted; `chestmap node --status` says why", image_id)
        self.spool.queue.fail(image_id, reason)
        self.spool.metrics.failed.inc()

    def _again(self, image_id: str, problem: Ended) -> None:
        """Alone and later, when the machine may have less to do; a few times."""
        if self.spool.queue.again(image_id, str(problem)):
            self.spool.metrics.say("again", f"image {image_id}: its reader died or was too slow; trying again later")
        else:
            self._fail(image_id, str(problem))

    def _later(self, image_id: str, problem: Exception) -> None:
        self.spool.metrics.say("later", f"image {image_id}: {_said(problem)}; trying again")
        self._stopping.wait(PAUSE)
        self.spool.queue.put_back(image_id)


def _said(problem: Exception) -> str:
    """Errors of the system in its words, which name nothing; others by their type."""
    return (isinstance(problem, OSError) and problem.strerror) or type(problem).__name__
