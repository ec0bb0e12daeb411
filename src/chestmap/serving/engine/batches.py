"""Batches waiting images: one thread runs the models, another keeps their answers and wakes the waiting requests.

So a network is not idle while the disk syncs. No more than one batch waits to be kept.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadInput, BadModel, ChestmapError
from chestmap.imaging.canvas import canvas_frame
from chestmap.serving.engine.decoder_pool import DecoderPool, DecodersBusy
from chestmap.serving.engine.prometheus import Metrics
from chestmap.serving.engine.served_model import BatchOutputs, ServedModel
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.results import ModelAnswer, PendingResult, answer
from chestmap.serving.store.store import Store
from chestmap.storage.atomic import PART
from chestmap.storage.json_file import read_json

log = logging.getLogger(__name__)
PAUSE = 1.0
"""Seconds until another try, where the disk or the database is at fault."""


class Batches:
    """`submit` returns at once; `expect` gives a future that is done when nothing of a study is queued any more."""

    def __init__(
        self,
        store: Store,
        served: Mapping[str, ServedModel],
        readers: DecoderPool,
        settings: ServeSettings,
        metrics: Metrics,
    ):
        self.store, self.served, self.readers, self.settings, self.metrics = store, served, readers, settings, metrics
        self._waiting: dict[str, deque[str]] = {sha: deque() for sha in served}
        self._queued: set[tuple[str, str]] = set()  # study and model, as in `_waiting`
        self._open: Counter[str] = Counter()  # study: results that wait or are under way
        self._futures: dict[str, Future[None]] = {}
        self._alone: set[str] = set()  # with one of these the service stopped, or a batch failed
        self._under_way: list[tuple[str, str]] = []
        self._coming = 0  # images that are being received or read
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="batches")
        self.seconds = 0.0  # of the last image, for Retry-After
        self.broken = threading.Event()  # the model answers nothing at all any more
        self.problem = ""  # the reason then

    def start(self, asked: Iterable[PendingResult], suspects: Iterable[PendingResult] = ()) -> None:
        """`suspects` were under way when the service stopped: each goes by itself, so that the one to blame is found."""
        self._alone = {one.study_id for one in suspects}
        self.submit(asked)
        self._thread.start()

    def stop(self) -> None:
        """Ends after what is under way is kept; the rest stays queued in the store."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        with self._changed:
            for future in self._futures.values():
                future.cancel()
            self._futures.clear()

    @property
    def alive(self) -> bool:
        """Whether what is submitted will be predicted."""
        return self._thread.is_alive() and not self._stopping

    def __len__(self) -> int:
        """Studies that wait or are under way."""
        return len(self._open)

    @property
    def has_room(self) -> bool:
        """Whether images of an archive are read; the other half of the queue is for uploads."""
        return len(self) <= self.settings.queue // 2

    def submit(self, asked: Iterable[PendingResult]) -> None:
        """What waits already is not added. What is under way is: its study may have been deleted and come again since."""
        with self._changed:
            for one in asked:
                if (pair := (one.study_id, one.model_sha)) not in self._queued:
                    self._queued.add(pair)
                    self._open[one.study_id] += 1
                    self._waiting[one.model_sha].append(one.study_id)
            self._changed.notify_all()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """An image is on its way: a batch waits a moment for it. Where none is, a batch goes at once."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def expect(self, study_id: str) -> Future[None]:
        """Gives a future that is done when every model has answered the study, or failed.

        A study that nobody waits for is done at once.
        """
        with self._changed:
            if study_id not in self._open:
                done: Future[None] = Future()
                done.set_result(None)
                return done
            return self._futures.setdefault(study_id, Future())

    def _run(self) -> None:
        """The thread: one batch after the other, for whichever model has most to do. Who is to be alone meets no other's results."""
        with ThreadPoolExecutor(1, "results") as keeping:
            kept = keeping.submit(lambda: None)
            while (batch := self._next()) is not None:
                sha, studies = batch
                if alone := not self._alone.isdisjoint(studies):
                    kept.result()
                start = time.monotonic()
                self._note(begun=[(one, sha) for one in studies])
                said = self._predict(self.served[sha], studies)
                self.metrics.batch(self.served[sha].id, len(studies), time.monotonic() - start)
                kept.result()
                kept = keeping.submit(self._keep, self.served[sha], studies, said)
                if alone:
                    kept.result()
                self.seconds = (time.monotonic() - start) / len(studies)

    def _note(self, begun: Iterable[tuple[str, str]] = (), ended: Iterable[tuple[str, str]] = ()) -> None:
        """What `under_way` reads after a crash of this process; not synced, since a crash of the machine is not the image's fault."""
        with self._changed, suppress(OSError):
            self._under_way = [*(one for one in self._under_way if one not in ended), *begun]
            path = self.store.folders.root / "under-way"
            path.with_suffix(PART).write_text(json.dumps(self._under_way))
            path.with_suffix(PART).replace(path)

    def _next(self) -> tuple[str, list[str]] | None:
        """Up to `batch_size` images for one model: the one with the longest waiting image."""
        with self._changed:
            while not self._stopping and not any(self._waiting.values()):
                self._changed.wait()
            if self._stopping:
                return None
            sha = max(self._waiting, key=lambda one: len(self._waiting[one]))
            queue, most = self._waiting[sha], self.settings.batch_size
            end = time.monotonic() + self.settings.wait_ms / 1000
            while self._coming and len(queue) < most and not self._stopping and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            batch = [queue.popleft()]
            while queue and len(batch) < most and not self._alone & {batch[0], queue[0]}:
                batch.append(queue.popleft())
            self._queued.difference_update((one, sha) for one in batch)
            return sha, batch

    def _done(self, studies: Sequence[str]) -> None:
        finished = []
        with self._changed:
            for study_id in studies:
                self._open[study_id] -= 1
                if not self._open[study_id]:
                    finished.append(study_id)
                    del self._open[study_id]
                    self._alone.discard(study_id)
                    if future := self._futures.pop(study_id, None):
                        future.set_result(None)
        for study_id in finished:
            for path in self.store.folders.folder_of(study_id).glob("canvas-*"):
                path.unlink(missing_ok=True)

    def _predict(self, model: ServedModel, studies: Sequence[str]) -> BatchOutputs | Exception | None:
        """None where every study was deleted."""
        try:
            return self._outputs(model, studies)
        except Exception as problem:
            return problem

    def _keep(self, model: ServedModel, studies: Sequence[str], said: BatchOutputs | Exception | None) -> None:
        """The other thread: files, then the database, then waiting requests. What failed is asked for again only when it is over."""
        problem = said if isinstance(said, Exception) else None
        try:
            if isinstance(said, BatchOutputs):
                answers = model.kept(said)
                answer(self.store, answers)
                for _ in answers:
                    self.metrics.result(model.id, "done")
        except Exception as caught:
            problem = caught
        self._note(ended={(one, model.sha256) for one in studies})
        if problem is not None:
            self._failed(model, studies, problem)
        if not self.broken.is_set():
            self._done(studies)

    def _failed(self, model: ServedModel, studies: Sequence[str], problem: Exception) -> None:
        """A batch that fails is tried again image by image, so that one image fails no other."""
        if isinstance(problem, (SQLAlchemyError, OSError, DecodersBusy)):  # no fault of the images
            log.warning("store: %s; trying again", type(problem).__name__)
            self._later(model, studies)
        elif len(studies) > 1:
            with self._changed:
                self._alone.update(studies)
            self.submit(PendingResult(one, model.sha256) for one in studies)
        else:
            log.warning("model %s: %s", model.id, type(problem).__name__)
            said = str(problem) if isinstance(problem, ChestmapError) else type(problem).__name__
            if not model.predicts:
                self._break(said)
                return
            self.metrics.result(model.id, "failed")
            failed = ModelAnswer(study_id=studies[0], model_sha=model.sha256, error=f"cannot be predicted: {said}")
            try:
                answer(self.store, [failed])
            except Exception:
                self._later(model, studies)

    def _break(self, said: str) -> None:
        """A graphics card that is lost fails every image, and none is at fault: they stay queued in the store."""
        with self._changed:
            self._stopping, self.problem = True, said
            self._changed.notify_all()
        self.broken.set()

    def _later(self, model: ServedModel, studies: Sequence[str]) -> None:
        """Back into the queue, after a pause."""
        self.submit(PendingResult(one, model.sha256) for one in studies)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, PAUSE)

    def _outputs(self, model: ServedModel, studies: Sequence[str]) -> BatchOutputs | None:
        """Where several models share a canvas they share its file; a deleted study is passed over."""
        images, canvases, frames, places = self.store.images(studies), [], [], []
        for study_id in studies:
            if (image := images.get(study_id)) is None:  # deleted
                continue
            folder = self.store.folders.folder_of(study_id)
            canvases.append(self._canvas(model, study_id, folder))
            frames.append(canvas_frame((float(image["width"]), float(image["height"])), model.predictor.model.canvas))
            places.append((study_id, folder))
        return model.run_network(np.stack(canvases), frames, places) if places else None

    def _canvas(self, model: ServedModel, study_id: str, folder: Path) -> np.ndarray:
        """As the upload left it, or made again from the original: after a restart, or for a model that is new."""
        settings, path = model.predictor.model.canvas, folder / model.canvas_name
        if not path.exists():
            original = self.store.file(study_id, "original") or folder / "original"
            self.readers.canvases(original, folder, {model.canvas_name: settings})
        pixels = np.fromfile(path, dtype=np.uint8)
        if pixels.size != settings.width * settings.height:
            raise BadInput("its canvas is damaged")
        return pixels.reshape(settings.height, settings.width)


def under_way(store: Store) -> list[PendingResult]:
    """What the service was at when it last stopped; nothing after an orderly end."""
    try:
        found = read_json(store.folders.root / "under-way", "")
        return [PendingResult(str(one), str(sha)) for one, sha in found]
    except (OSError, BadModel, ValueError, TypeError):
        return []
