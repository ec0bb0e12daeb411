"""Takes images in, has them predicted, and stops without losing any. Doors are elsewhere.

HTTP reads an image before it answers (`take_in`); DICOM keeps it first and reads it later (`accept`).
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

from chestmap.errors import BadImage, BadInput, ChestmapError, Refused
from chestmap.serving.engine.archive_objects import MadeObjects, made_result
from chestmap.serving.engine.batches import Batches, under_way
from chestmap.serving.engine.decoder_pool import DecoderPool
from chestmap.serving.engine.prometheus import Metrics
from chestmap.serving.engine.reading import ImageReading
from chestmap.serving.engine.served_model import ServedModel
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.arrivals import Arrival, arrive, take_place
from chestmap.serving.store.node_folder import old_images, pieces, retire
from chestmap.serving.store.results import NewFile, PendingResult, ask, resume
from chestmap.serving.store.store import NewStudy, Store

log = logging.getLogger(__name__)
PIECE = 1 << 20
NAME = 96


class ServiceFull(ChestmapError):
    """No room for now; `seconds` later there may be."""

    def __init__(self, message: str, reason: str, seconds: int) -> None:
        super().__init__(message)
        self.reason, self.seconds = reason, seconds


@runtime_checkable
class Readable(Protocol):
    """A file, or what a request's upload lies in."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class AcceptedUpload:
    """An upload that is safe: its study, and whether it was new."""

    study_id: str
    new: bool


class Service:
    """Owns the store folder from the time it is made until `stop`.

    Between `start` and `stop` a thread predicts; everything else is done by the caller. For any number of threads.
    """

    def __init__(
        self,
        served: Sequence[ServedModel],
        store: Store,
        settings: ServeSettings | None = None,
        readers: DecoderPool | None = None,
    ):
        """`readers` may be shared by several services; without them it has its own. `delivers` is set where results go somewhere."""
        self.settings, self.store = settings or ServeSettings(), store
        self.served = {one.sha256: one for one in served}
        self.metrics, self.draining, self._receiving = Metrics(), False, 0
        self.by_id = {one.id: one for one in self.served.values()}
        store.folders.lock()
        self._own_readers = readers is None
        self.readers = readers or DecoderPool(self.settings, store.folders.key())
        self.batches = Batches(store, self.served, self.readers, self.settings, self.metrics)
        self.reading = ImageReading(self.batches, self._read, self.models(), self.settings.readers)
        self.delivers = False
        self.metrics.watch("queue_studies", "Studies without result", lambda: len(self.batches))
        self.metrics.watch("free_bytes", "Disk that is left", store.folders.free)

    def start(self) -> None:
        """Takes up what an earlier service left."""
        self._take_over()
        orphans = self.store.folders.sweep(self.store.known_ids(with_files=True))
        suspects = under_way(self.store)
        asked = resume(self.store, {sha: one.id for sha, one in self.served.items()}, suspects)
        log.info("%d results to go, %d uploads that were never acknowledged set aside", len(asked), orphans)
        self.batches.start(asked, suspects)
        self.reading.start()

    def drain(self) -> None:
        """From now on nothing is taken in, and nobody waits for a result."""
        self.draining = True

    def stop(self) -> None:
        """Ends after the batches that are under way. What is left over is queued in the store, and goes on at the next start."""
        self.drain()
        self.reading.stop()
        self.batches.stop()
        if self._own_readers:
            self.readers.close()
        self.store.close()

    def check_room(self) -> None:
        """Before an upload is read."""
        if self.draining:
            raise ServiceFull("the service is stopping; try again later", "stopping", 5)
        if len(self.batches) >= self.settings.queue:
            wait = min(60, max(1, round(len(self.batches) * self.batches.seconds / 4)))
            raise ServiceFull(
                f"{len(self.batches)} studies wait; at most {self.settings.queue} may: try again later", "queue", wait
            )
        if self.store.folders.free() < self.settings.free_bytes:
            raise ServiceFull("the disk is full; make room, then try again", "disk", 60)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """While an upload is on its way; slow clients may hold so many places and no more."""
        if self._receiving >= self.settings.receiving:
            raise ServiceFull(f"{self._receiving} uploads are on their way; try again later", "queue", 2)
        self._receiving += 1
        try:
            with self.batches.coming():
                yield
        finally:
            self._receiving -= 1

    def models(self, wanted: str = "") -> dict[str, str]:
        """sha256 to id of one model, or of all."""
        if wanted and wanted not in self.by_id:
            raise BadInput(f"model: no such model; served are {', '.join(self.by_id)}")
        return {one.sha256: one.id for one in self.served.values() if wanted in {"", one.id}}

    def take_in(self, upload: Readable, name: str, models: dict[str, str], patient: str = "") -> AcceptedUpload:
        """Returns when the upload is safe on disk. `name` and `patient` are a client's words; bad images are `BadImage`."""
        received = self.store.folders.new()
        try:
            sha = self._receive(upload, received)
            if (there := self.store.with_sha(sha)) is None:
                new = self._read(received / "original", received, sha, _label(name), patient)
                if self.store.add(new, received, models):
                    self.batches.submit(PendingResult(new.id, sha) for sha in models)
                    return AcceptedUpload(new.id, new=True)
                there = new.id
            self.batches.submit(ask(self.store, there, models))
            return AcceptedUpload(there, new=False)
        except OSError as problem:
            if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise ServiceFull("the disk is full; make room, then try again", "disk", 60) from None
            raise
        finally:
            shutil.rmtree(received, ignore_errors=True)

    def accept(self, sop_instance_uid: str, parts: Iterable[bytes | bytearray | memoryview], origin: str = "c-store") -> str:
        """Returns when the image is safe and promised; it is read later. The id of its study, which may be there already."""
        return self._accept(self.store.folders.instance_of(sop_instance_uid), parts, origin, deliver=self.delivers)

    def _accept(self, instance: str, parts: Iterable[bytes | bytearray | memoryview], origin: str, *, deliver: bool) -> str:
        received, hashed = self.store.folders.new(), sha256()
        try:
            with self.metrics.stage("receive"):
                with (received / "original").open("xb") as file:
                    for part in parts:
                        hashed.update(part)
                        file.write(part)
                    size = file.tell()
                sha = hashed.hexdigest()
                arrival = Arrival(
                    id=f"s-{sha[:24]}", sha256=sha, instance=instance, bytes=size, origin=origin, deliver=deliver,
                    served=list(self.served),
                )  # fmt: skip
                known = arrive(self.store, arrival, received)
        finally:
            shutil.rmtree(received, ignore_errors=True)
        if known:  # perhaps a model that came later has not seen it
            self.batches.submit(ask(self.store, arrival.id, self.models()))
        self.reading.arrived.set()
        return arrival.id

    def _take_over(self) -> None:
        """The folder of an older node: what it had promised goes on here."""
        root = self.store.folders.root
        old = old_images(root)
        if waiting := sum(not one.finished and one.path is not None for one in old):
            if not self.delivers:
                raise Refused(
                    f"{root}: an older `chestmap node` left {waiting} images for an archive; start "
                    "`chestmap node MODEL --store DIR --to ARCHIVE` on it once, with the archive that takes their results"
                )
            log.info("taking over %d images of an older node", waiting)
        for one in old:
            if one.path is not None:
                self._accept(one.instance, pieces(one.path), "c-store", deliver=not one.finished)
                shutil.rmtree(one.path.parent)
        take_place(self.store, [one.instance for one in old if one.path is None])
        retire(root)

    def made_objects(self, study_id: str, model_sha: str, kinds: Sequence[str] = ("sr",)) -> MadeObjects:
        """DICOM objects of a stored result, for the caller to remove."""
        return made_result(self, study_id, model_sha, kinds)

    def _receive(self, upload: Readable, received: Path) -> str:
        """Copies an upload, and its sha256."""
        hashed, most = sha256(), self.settings.bounds.file_bytes
        with (received / "original").open("xb") as file:
            while piece := upload.read(PIECE):
                if file.tell() + len(piece) > most:
                    raise BadImage(f"more than {most:,} bytes: resize or compress the image")
                hashed.update(piece)
                file.write(piece)
        return hashed.hexdigest()

    def _read(self, path: Path, out: Path, sha: str, name: str = "", patient: str = "") -> NewStudy:
        """Decodes, in a process that may die of it; what it wrote lies in `out`."""
        canvases = {one.canvas_name: one.predictor.model.canvas for one in self.served.values()}
        found = self.readers.read(path, out, canvases, name=name, patient=patient)
        made = (NewFile(kind, *about) for kind, about in found["files"].items())
        files = (NewFile("original", "original", sha, path.stat().st_size), *made)
        study_id = f"s-{sha[:24]}"
        label = found["shown"] or found["label"] or study_id
        return NewStudy(
            id=study_id, sha256=sha, name=label[:128], image=found["image"], patient=found["patient"], shown_patient=found["shown"], taken=found["taken"], instance=found["instance"],
            content=found["content"], exam=found["exam"], age=found["age"], sex=found["sex"], view=found["view"], files=files,
            accession=found["accession"], indication=found["indication"], position=found["position"],
        )  # fmt: skip


def _label(name: str) -> str:
    """A file's name as people see it: its last part, printable, without direction marks."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(letter for letter in last if letter.isprintable())
    return plain[:NAME].strip()
