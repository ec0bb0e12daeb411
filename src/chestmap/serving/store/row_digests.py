"""Hashes rows with SHA-256, so that a study, result, review or read that was damaged is never used."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TypeVar

from sqlalchemy import inspect

from chestmap.serving.store.database_tables import Read, Result, Review, Study
from chestmap.serving.store.store_files import DamagedFile

COLUMNS: dict[type, tuple[str, ...]] = {
    Result: ("study_id", "model_sha", "findings", "maps"),
    Read: ("study_id", "reader", "version", "state", "stage", "at", "findings", "note"),
    Review: ("study_id", "version", "state", "stage", "by", "at", "findings", "note"),
    Study: (
        "id", "sha256", "name", "patient", "shown_patient", "taken", "shown_taken", "instance", "revision", "content", "exam",
        "age", "sex", "view", "image", "suspicion", "teaches", "top",
    ),
}  # fmt: skip
"""What a digest covers: all but states, and what follows from other rows."""
WHERE_SET: dict[type, tuple[str, ...]] = {
    Read: ("measures", "key"),
    Review: ("measures", "key"),
    Study: ("accession", "indication", "position"),
}
"""Columns that a digest covers where they hold something: rows from before these came keep theirs."""

AnyRow = Read | Result | Review | Study
Row = TypeVar("Row", bound=AnyRow)


def digest_of(row: AnyRow) -> str:
    """Hashes the columns of a row that must not change, as sorted JSON."""
    values = [getattr(row, name) for name in COLUMNS[type(row)]]
    values += [[name, value] for name in WHERE_SET.get(type(row), ()) if (value := getattr(row, name))]
    text = json.dumps(values, sort_keys=True)
    return sha256(text.encode()).hexdigest()


def is_whole(row: AnyRow) -> bool:
    """A row without a digest was not written by a service, or holds nothing yet."""
    return not row.digest or row.digest == digest_of(row)


def checked(row: Row) -> Row:
    """The same row; refused where it was damaged."""
    if not is_whole(row):
        raise DamagedFile(f"{_name(row)} is damaged: restore the database from a backup")
    return row


def shown(study: Study) -> Study:
    """The same study; of a damaged row a line of the worklist that reports it, and nothing else of it."""
    if is_whole(study):
        return study
    empty = {"str": "", "int": 0, "float": 0.0, "bool": False, "dict": {}, "list": []}
    kinds = {column.key: column.type.python_type.__name__ for column in inspect(Study).columns}
    line = Study(**{name: empty.get(kind) for name, kind in kinds.items()})
    line.id, line.name, line.received, line.state, line.review_state = study.id, study.id, study.received, "failed", "no"
    line.image, line.top, line.shown_patient, line.review_at = {}, [], None, None
    line.error = f"{_name(study)} is damaged: restore the database from a backup"
    return line


def _name(row: AnyRow) -> str:
    if isinstance(row, Study):
        return f"the row of study {row.id}"
    if isinstance(row, Result):
        return f"the result of {row.model_id} for study {row.study_id}"
    return f"version {row.version} of the {'read' if isinstance(row, Read) else 'review'} of study {row.study_id}"
