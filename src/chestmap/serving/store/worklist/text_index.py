"""Indexes names, ids and accession numbers of studies by their runs of three letters, so that a search does not read every row.

The index follows from the table of studies: triggers keep it, and a store that has none gets it when it is opened. SQLite needs
FTS5 with trigrams (3.34), PostgreSQL the extension pg_trgm; without them, and for less than three letters, rows are looked through.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, TextClause, column, false, func, literal_column, table, text
from sqlalchemy.exc import DatabaseError

from chestmap.serving.store.database_tables import Study

SHORTEST = 3
"""Letters of a search that the index answers."""
TABLE = "study_text"
ALL = "lower(study.name || ' ' || study.id || ' ' || study.patient || ' ' || coalesce(study.shown_patient, '') || ' ' || study.accession)"
SQLITE = (
    "CREATE VIRTUAL TABLE study_text USING fts5(id, name, patient, shown, tokenize='trigram')",
    "INSERT INTO study_text SELECT id, name, patient, coalesce(shown_patient, '') || ' ' || accession FROM study",
    """
    CREATE TRIGGER study_text_new AFTER INSERT ON study BEGIN
        INSERT INTO study_text VALUES (new.id, new.name, new.patient, coalesce(new.shown_patient, '') || ' ' || new.accession);
    END
    """,
    """
    CREATE TRIGGER study_text_gone AFTER DELETE ON study BEGIN
        DELETE FROM study_text WHERE study_text MATCH 'id : "' || old.id || '"';
    END
    """,
    """
    CREATE TRIGGER study_text_changed AFTER UPDATE OF name, patient, shown_patient, accession ON study
    WHEN new.name <> old.name OR new.patient <> old.patient OR new.shown_patient IS NOT old.shown_patient OR new.accession <> old.accession BEGIN
        DELETE FROM study_text WHERE study_text MATCH 'id : "' || old.id || '"';
        INSERT INTO study_text VALUES (new.id, new.name, new.patient, coalesce(new.shown_patient, '') || ' ' || new.accession);
    END
    """,
)
POSTGRESQL = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"CREATE INDEX IF NOT EXISTS ix_{TABLE} ON study USING gin (({ALL}) gin_trgm_ops)",
)


def ensure(connection: Connection) -> None:
    """Makes the index where there is none; a database that cannot have one is left as it is."""
    lite = connection.dialect.name == "sqlite"
    if is_there(connection):
        return
    try:
        with connection.begin_nested():
            for statement in SQLITE if lite else POSTGRESQL:
                connection.exec_driver_sql(statement)
    except DatabaseError:
        return


def is_there(connection: Connection) -> bool:
    """Whether the database has the index."""
    look = {
        "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'study_text'",
        "postgresql": "SELECT 1 FROM pg_indexes WHERE indexname = 'ix_study_text'",
    }
    return connection.exec_driver_sql(look[connection.dialect.name]).first() is not None


def drop(connection: Connection) -> None:
    """Removes the index and what keeps it, before many rows come at once."""
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS ix_{TABLE}")
        return
    for end in ("new", "gone", "changed"):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {TABLE}_{end}")
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {TABLE}")


def answers(search: str, *, lite: bool, there: bool) -> bool:
    """Whether SQLite's own table answers a search."""
    return lite and there and len(search) >= SHORTEST


def matching(search: str, *, index: bool) -> list[ColumnElement[bool] | TextClause]:
    """Conditions for studies with a text in their name, id, patient or accession number; with `index`, SQLite finds them first."""
    if "\0" in search:  # no database keeps one
        return [false()]
    if index:
        found = table(TABLE, column("id"))
        return [Study.id == found.c.id, text(f"{TABLE} MATCH :searched").bindparams(searched=quoted(search))]
    return [literal_column(ALL).like(func.lower(f"%{escaped(search)}%"), escape="/")]


def quoted(search: str) -> str:
    """A string of FTS5: every letter stands for itself."""
    return '"' + search.replace('"', '""') + '"'


def escaped(search: str) -> str:
    """Text for LIKE, in which every letter stands for itself."""
    return search.replace("/", "//").replace("%", "/%").replace("_", "/_")
