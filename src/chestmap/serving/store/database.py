"""Opens the database, SQLite in WAL mode or PostgreSQL by URL, and brings it to the newest tables.

One process writes; others may read. A database of a newer version is refused, an older one is migrated at the start.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from chestmap.errors import BadInput
from chestmap.serving.store.store_files import StoreFolder

BUSY_SECONDS = 30


def open_database(folder: Path, url: str | None = None) -> Engine:
    """`url` for PostgreSQL, such as postgresql+psycopg://user@host/name; without one, store.sqlite in the folder."""
    engine = _engine(_url(folder, url))
    try:
        with engine.begin() as connection:
            _migrate(connection, folder)
    except DatabaseError as error:
        engine.dispose()
        said = " ".join(str(error.orig).split())[:160]
        raise BadInput(
            f"database {engine.url.render_as_string()}: {said}; start it, check --database, or bring back its backup"
        ) from None
    return engine


def open_read_only(folder: Path, url: str | None = None) -> Engine:
    """For another process than the service, which may be running: takes no lock that the service would wait for.

    A transaction sees the store as it was at its first look.
    """
    found = _url(folder.resolve(), url)
    if found.get_backend_name() == "sqlite":
        path = Path(found.database or "")
        if not path.is_file():
            raise BadInput(f"{folder}: no {path.name} in it; give the folder of `chestmap serve --store`, or --database")
        where = f"{path.resolve().as_uri()}?mode=ro"
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(where, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        )
        event.listen(engine, "begin", _on_begin)
    else:
        engine = _engine(found).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except DatabaseError as error:
        engine.dispose()
        said = " ".join(str(error.orig).split())[:160]
        raise BadInput(f"{folder}: its database cannot be read ({said}); is it where the service has it?") from None
    if revision != _script().get_current_head():
        engine.dispose()
        raise BadInput(
            f"{folder}: its tables (revision {revision}) are of another version; start `chestmap serve` on it once"
        )
    return engine


def _url(folder: Path, url: str | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(folder / "store.sqlite"))
    try:
        found = make_url(url)
    except ArgumentError:
        raise BadInput("--database: expected a URL such as postgresql+psycopg://user@host/name") from None
    if found.get_backend_name() not in {"sqlite", "postgresql"}:
        raise BadInput(f"--database: {found.get_backend_name()}; sqlite and postgresql are supported")
    return found


def _engine(url: URL) -> Engine:
    """Refuses in our words where a driver is missing."""
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=16)
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=16)
    except NoSuchModuleError:
        raise BadInput(f"--database: no driver {url.drivername}; try postgresql+psycopg://…") from None
    except ImportError as error:
        raise BadInput(f"--database: its driver {error.name} is not installed; pip install 'psycopg[binary]'") from None
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:
    """`synchronous=FULL`: a commit outlives a power cut, which WAL's usual NORMAL does not promise."""
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, and late
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    """A writer takes its lock at once: one that read before it writes could not get it any more."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _migrate(connection: Connection, folder: Path) -> None:
    """Alembic, in the transaction of `connection`: a start that fails half-way leaves the tables as they were."""
    config = _config()
    folders = StoreFolder(folder)
    config.attributes |= {"connection": connection, "instance_of": folders.instance_of, "key": folders.key}
    current = MigrationContext.configure(connection).get_current_revision()
    known = ScriptDirectory.from_config(config)
    try:
        if current is not None:
            known.get_revision(current)
    except CommandError:
        raise BadInput(f"store: its tables (revision {current}) are newer than this version; update chestmap") from None
    if current != known.get_current_head():
        command.upgrade(config, "head")
