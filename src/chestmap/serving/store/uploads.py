"""Adds studies that came by HTTP: those of several threads in one transaction, with the promise to predict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from chestmap.serving.store.arrivals import fill
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import SHOWN, File, Study
from chestmap.serving.store.results import file_row, queue_missing
from chestmap.serving.store.row_digests import digest_of

if TYPE_CHECKING:
    from chestmap.serving.store.store import NewStudy, Store


@dataclass(frozen=True)
class Upload:
    """Holds a study in a received folder, and the models that it is for: sha256 to id."""

    new: NewStudy
    received: Path
    models: Mapping[str, str]


def add_together(store: Store, uploads: Sequence[Upload]) -> list[bool | OSError]:
    """Gives whether each was new, or what hindered its files. The files of all are in place before the one commit."""
    with store.moving:
        troubles = store.folders.move_all_in({one.received: one.new.id for one in uploads})
        safe = [one for one in uploads if one.received not in troubles]
        try:
            added = _insert(store, safe)
        except IntegrityError:  # another service on the same database was faster with one of them
            added = [_insert_one(store, one) for one in safe]
    found = dict(zip((one.received for one in safe), added, strict=True))
    return [found[one.received] if one.received in found else troubles[one.received] for one in uploads]


def _insert_one(store: Store, one: Upload) -> bool:
    """Inserts one alone, after all together failed."""
    try:
        return _insert(store, [one])[0]
    except IntegrityError:
        return False


def _insert(store: Store, uploads: Sequence[Upload]) -> list[bool]:
    """Gives False where a study is there already: another request brought the same file at the same time."""
    with store.writing() as session:
        wanted = select(Study).where(Study.id.in_({one.new.id for one in uploads}))
        there, added = {row.id: row for row in session.scalars(wanted)}, []
        fresh: dict[str, Upload] = {}
        for one in uploads:
            row = there.get(one.new.id)
            if one.new.id in fresh or (row is not None and row.state in SHOWN):
                added.append(False)
                continue
            added.append(True)
            if row is not None and row.state == "received":
                fill(store, session, row, one.new, dict(one.models))
                continue
            if row is not None:
                session.delete(row)
            fresh[one.new.id] = one
        session.flush()
        if fresh:
            session.execute(insert(Study), [_study_row(store, one.new) for one in fresh.values()])
            files = [file_row(store.folders, name, file) for name, one in fresh.items() for file in one.new.files]
            if files:
                session.execute(insert(File), files)
            queue_missing(store, session, {name: one.models for name, one in fresh.items()})
    return added


def _study_row(store: Store, new: NewStudy) -> dict[str, Any]:
    """Makes a row of `Study` with its digest."""
    row = {
        "id": new.id, "sha256": new.sha256, "received": now(), "name": new.name, "patient": new.patient,
        "shown_patient": new.shown_patient, "taken": new.taken, "shown_taken": store.shifted(new), "instance": new.instance,
        "content": new.content, "exam": new.exam, "age": new.age, "sex": new.sex, "view": new.view, "image": new.image,
        "accession": new.accession, "indication": new.indication, "position": new.position,
        "state": "queued", "revision": 0, "suspicion": 0.0, "teaches": 0.0, "top": [],
    }  # fmt: skip
    return {**row, "digest": digest_of(Study(**row))}
