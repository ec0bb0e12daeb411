"""New radiographs of a DICOMweb archive: asked for by QIDO-RS on a schedule, fetched by WADO-RS, taken in as if they were sent."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from dicomweb_client import DICOMwebClient

from chestmap.errors import BadImage
from chestmap.reports.dicom.source import SINGLE
from chestmap.serving.node.destinations import Undelivered, failures_of_http
from chestmap.serving.node.receiver import IDENTIFIER
from chestmap.serving.node.settings import NodeSettings
from chestmap.serving.node.spool import TROUBLE, Spool

log = logging.getLogger(__name__)
MODALITIES = ("CR", "DX")
STUDY, SERIES, INSTANCE, STORAGE = "0020000D", "0020000E", "00080018", "00080016"
MODALITY, INSTANCES = "00080060", "00201208"
PAGE = 100
ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
PIECE = 1 << 16


class Pull:
    """A thread that looks every so many seconds. What the queue knows is not fetched again."""

    def __init__(self, client: DICOMwebClient, spool: Spool, settings: NodeSettings, every: float) -> None:
        self.client, self.spool, self.settings, self.every = client, spool, settings, every
        self._seen: dict[str, int] = {}  # study: how many instances it had when all of it was taken in
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pull", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if taken := self.look():
                    log.info("%d images were pulled", taken)
            except Undelivered as problem:
                log.warning("pulling: %s; looking again in %g seconds", problem, self.every)
            except Exception as problem:  # whatever an archive answers
                log.warning("pulling: %s; looking again in %g seconds", type(problem).__name__, self.every)
            self._stopping.wait(self.every)

    def look(self) -> int:
        """Takes in what is new; how many images that were."""
        taken = 0
        for study, count in self._studies():
            if self._seen.get(study) == count and count:
                continue
            whole = True
            for series, instance in self._images(study):
                if self._stopping.is_set() or not self._has_room():
                    return taken
                try:
                    self.spool.take(instance, [self._fetched(study, series, instance)])
                    taken += 1
                except (Undelivered, BadImage, *TROUBLE) as problem:
                    whole = False
                    said = str(problem) if isinstance(problem, Undelivered) else type(problem).__name__
                    log.warning("image %s was not pulled: %s", self.spool.id_of(instance), said)
            if whole:
                self._seen[study] = count
        return taken

    def _has_room(self) -> bool:
        free = self.spool.folders.free() >= self.settings.free_bytes
        return free and self.spool.queue.counts()["new"] < self.settings.pull_waiting

    def _studies(self) -> Iterator[tuple[str, int]]:
        """Of these days, with a radiograph; and how many instances each has, 0 where the archive does not say."""
        wanted: dict[str, Any] = {}
        if self.settings.pull_days:
            today = datetime.now()  # noqa: DTZ005 - a study's date is that of its place
            first = today - timedelta(days=self.settings.pull_days)
            wanted["StudyDate"] = f"{first:%Y%m%d}-{today:%Y%m%d}"
        found: dict[str, int] = {}
        for modality in MODALITIES:
            with failures_of_http():
                studies = self.client.search_for_studies(
                    search_filters={**wanted, "ModalitiesInStudy": modality}, limit=PAGE, get_remaining=True
                )
            found |= {uid: int(_value(one, INSTANCES) or 0) for one in studies if (uid := _identifier(one, STUDY))}
        yield from found.items()

    def _images(self, study: str) -> Iterator[tuple[str, str]]:
        """Series and instance of each radiograph that the queue does not know."""
        with failures_of_http():
            every = self.client.search_for_series(study)
        for one in every:
            series = _identifier(one, SERIES)
            if not series or _value(one, MODALITY) not in MODALITIES:
                continue
            with failures_of_http():
                instances = self.client.search_for_instances(study, series)
            for found in instances:
                instance = _identifier(found, INSTANCE)
                storage = _value(found, STORAGE)
                if instance and storage in {None, *SINGLE} and not self.spool.queue.knows(self.spool.id_of(instance)):
                    yield series, instance

    def _fetched(self, study: str, series: str, instance: str) -> bytes:
        """The file as the archive has it, within bounds; nothing is decoded here, which dicomweb-client would do."""
        url = f"{self.client.base_url}/studies/{study}/series/{series}/instances/{instance}"
        session, most, body = self.client._session, self.settings.object_bytes, bytearray()
        seconds = self.settings.network_seconds
        with failures_of_http(), session.get(url, headers={"Accept": ANY_SYNTAX}, stream=True, timeout=seconds) as answer:
            answer.raise_for_status()
            kind = answer.headers.get("Content-Type", "")
            for piece in answer.iter_content(PIECE):
                body += piece
                if len(body) > most:
                    raise BadImage(f"more than {most:,} bytes")
        return only_part(bytes(body), kind)


def only_part(body: bytes, kind: str) -> bytes:
    """The one part of a multipart answer; a body that is none is taken as it is."""
    if not kind.lower().startswith("multipart/"):
        return body
    border = re.search(r'boundary="?([^";,]{1,70})"?', kind, re.IGNORECASE)
    line = b"--" + border[1].strip().encode() if border else b""
    start, head, end = body.find(line), body.find(b"\r\n\r\n"), body.rfind(b"\r\n" + line)
    if not line or not 0 <= start < head < end:
        raise BadImage("an answer without a part")
    return body[head + 4 : end]


def _value(found: dict[str, Any], tag: str) -> Any:
    """The first value of an element in DICOM JSON."""
    try:
        return found[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return None


def _identifier(found: dict[str, Any], tag: str) -> str:
    """A UID that can stand in an address."""
    value = str(_value(found, tag) or "")
    return value if IDENTIFIER.fullmatch(value) else ""
