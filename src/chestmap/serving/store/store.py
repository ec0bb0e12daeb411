"""Keeps studies and results: what was accepted is there after any crash, and each result once.

An upload is acknowledged after its files are synced and its rows, the results still `queued`, are committed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, delete, func, select, tuple_
from sqlalchemy.orm import Session

from chestmap.errors import BadInput
from chestmap.serving.store.clock import Clock
from chestmap.serving.store.database import open_database
from chestmap.serving.store.database_tables import SHOWN, Delivery, File, Result, Study
from chestmap.serving.store.film_dates import shown_date
from chestmap.serving.store.group_commit import GroupCommit
from chestmap.serving.store.node_folder import NAME
from chestmap.serving.store.results import NewFile
from chestmap.serving.store.row_digests import checked, shown
from chestmap.serving.store.store_files import StoreFolder
from chestmap.serving.store.uploads import Upload, add_together
from chestmap.serving.store.worklist.worklist_filters import Query
from chestmap.serving.store.worklist.worklist_page import page_of

OF_SHA = select(Study.id, Study.state).where(Study.sha256 == bindparam("sha256"))
STUDY = select(Study).where(Study.id == bindparam("study"))
RESULTS = select(Result).where(Result.study_id == bindparam("study")).order_by(Result.number)
"""What every upload and every answer asks: building a statement takes longer than running it."""


@dataclass(frozen=True, kw_only=True)
class NewStudy:
    """What reading an upload found; `image` is as the API gives it."""

    id: str
    sha256: str
    name: str
    image: dict[str, Any]
    patient: str = ""
    shown_patient: str | None = None
    taken: str = ""
    instance: str = ""
    content: str = ""
    exam: str = ""
    age: str = ""
    sex: str = ""
    view: str = ""
    accession: str = ""
    indication: str = ""
    position: str = ""
    files: tuple[NewFile, ...] = ()


class Store:
    """Keeps studies, results and their files in one folder, for any number of threads.

    `models` maps the sha256 of what is served to its id. `moving` is held while a study's row and folder come or go.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folders = StoreFolder(folder)
        self.engine = open_database(self.folders.root, url)
        self._writer = self.engine.execution_options(writes=True)
        self._open = threading.local()
        self.moving = threading.Lock()  # a study's row and folder come and go together
        with self.reading() as session:
            self.clock = Clock(session.scalar(select(func.max(Delivery.since))) or 0.0)
            self.numbers = count((session.scalar(select(func.max(Result.number))) or 0) + 1)  # the order of asking
        self._uploads = GroupCommit[Upload, bool](lambda uploads: add_together(self, uploads))

    def close(self) -> None:
        """Closes the connections to the database and lets another process open the store."""
        self.engine.dispose()
        self.folders.unlock()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Opens a session for reading, or takes that of `one_look`; rows stay usable after it ends."""
        if (there := getattr(self._open, "session", None)) is not None:
            yield there
            return
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Lets all that this thread reads be of one time, in one transaction. Do not write meanwhile."""
        with self.reading() as session:
            self._open.session = session
            try:
                yield
            finally:
                self._open.session = None

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction. In SQLite writers wait for each other here, up to 30 seconds."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def add(self, new: NewStudy, received: Path, models: dict[str, str]) -> bool:
        """Keeps a received study and promises its predictions; returns whether it was new.

        Files are made durable and moved to their place before the row is written. The promise is in the same commit as
        the study; threads that come at the same time share it.
        """
        self.folders.make_durable(received)
        return self._uploads.do(Upload(new, received, models))

    def shifted(self, new: NewStudy) -> str:
        """When the film was taken, as it is shown without true dates."""
        return shown_date(new.taken, new.patient, self.folders.key(), true=False)

    def queued(self) -> int:
        """Counts studies that wait for a prediction."""
        with self.reading() as session:
            return session.scalar(select(func.count()).select_from(Study).where(Study.state == "queued")) or 0

    def known_ids(self, *, with_files: bool = False) -> set[str]:
        """Ids of all studies, or of those whose files were not removed: 100 bytes each, at a start only."""
        wanted = select(Study.id)
        with self.reading() as session:
            return set(session.scalars(wanted.where(Study.state != "removed") if with_files else wanted))

    def with_sha(self, sha256: str) -> str | None:
        """Finds the shown study with these bytes, by the SHA-256 of the uploaded file."""
        with self.reading() as session:
            found = session.execute(OF_SHA, {"sha256": sha256}).one_or_none()
        return None if found is None or found.state not in SHOWN else found.id

    def study(self, study_id: str) -> tuple[Study, list[Result]] | None:
        """A study with its results; None where there is none."""
        with self.reading() as session:
            study = session.scalar(STUDY, {"study": study_id})
            found = () if study is None else session.scalars(RESULTS, {"study": study_id})
            return None if study is None else (checked(study), [checked(one) for one in found])

    def images(self, study_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """What is known of the images of those studies that are there."""
        with self.reading() as session:
            found = session.scalars(select(Study).where(Study.id.in_(study_ids)))
            return {one.id: checked(one).image for one in found}

    def result(self, study_id: str, model_id: str) -> Result | None:
        """Finds the finished result of one model for a study, by both ids; None where there is none."""
        with self.reading() as session:
            wanted = select(Result).where(Result.study_id == study_id, Result.model_id == model_id, Result.state == "done")
            found = session.scalar(wanted)
            return None if found is None else checked(found)

    def file(self, study_id: str, kind: str) -> Path | None:
        """A file of a study as it was written; None where there is none. It may be gone a moment later."""
        with self.reading() as session:
            row = session.get(File, (study_id, kind))
        if row is None:
            return None
        try:
            return self.folders.checked(self.folders.root / row.path, row.sha256)
        except FileNotFoundError:
            return None

    def priors(self, study: Study) -> list[tuple[str, str]]:
        """Ids and dates of earlier images of the patient, newest first; other images of the same exam are none."""
        if not study.patient:
            return []
        with self.reading() as session:
            mine = (study.taken or "", study.received, study.id)
            earlier = tuple_(Study.taken, Study.received, Study.id) < mine
            chosen = (Study.patient == study.patient) & earlier & Study.state.in_(SHOWN)
            other = (Study.exam != study.exam) | (Study.exam == "")
            order = (Study.taken.desc(), Study.received.desc(), Study.id.desc())
            found = session.execute(select(Study.id, Study.taken).where(chosen, other).order_by(*order))
            return [(study_id, taken) for study_id, taken in found]

    def exam_images(self, study: Study) -> list[str]:
        """The other images of its exam, in the order in which they were taken."""
        if not study.exam:
            return []
        with self.reading() as session:
            mine = (Study.exam == study.exam) & (Study.id != study.id) & Study.state.in_(SHOWN)
            return list(session.scalars(select(Study.id).where(mine).order_by(Study.taken, Study.received, Study.id)))

    def page(self, query: Query) -> tuple[int, list[Study]]:
        """Counts the studies that match, up to `most_counted`, and gives those of one page; see `worklist_page.py`."""
        with self.reading() as session:
            total, rows = page_of(session, query)
            return total, [shown(one) for one in rows]

    def delete(self, study_id: str) -> bool:
        """Deletes a study with its files; returns whether there was one.

        The row goes before the files. After a crash in between, the next start finds the mark of `doom` and removes
        them.
        """
        with self.moving:
            self.folders.doom(study_id)
            with self.writing() as session:
                gone = session.execute(delete(Study).where(Study.id == study_id).returning(Study.id)).all()
            self.folders.remove(study_id)
        return bool(gone)


def existing(folder: Path, url: str | None = None) -> Store:
    """Opens a store that is there already, perhaps with its service at work.

    Refuses a folder of an older `chestmap node`, and, without `url`, one that has no database: none is made here.
    """
    if (folder / NAME).exists():
        raise BadInput(f"{folder}: is of an older `chestmap node`; start `chestmap node` on it once, which takes it over")
    if url is None and not (folder / "store.sqlite").is_file():
        raise BadInput(f"{folder}: holds no store.sqlite; give the --store of `chestmap node` or `chestmap serve`")
    return Store(folder, url)
