"""Opens the database, SQLite in WAL mode or PostgreSQL by URL, and brings it to the newest tables.

One process writes; others may read. A database of a newer version is refused, an older one is migrated at the start.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from chestmap.errors import BadInput
from chestmap.serving.store.database_tables import Base
from chestmap.serving.store.store_files import StoreFolder
from chestmap.serving.store.worklist.text_index import ensure

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""As Alembic makes it."""


def open_database(folder: Path, url: str | None = None) -> Engine:
    """`url` for PostgreSQL, such as postgresql+psycopg://user@host/name; without one, store.sqlite in the folder."""
    engine = _engine(_url(folder, url))
    try:
        with engine.begin() as connection:
            _migrate(connection, folder)
            ensure(connection)
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
            revision = _revision(connection)
    except DatabaseError as error:
        engine.dispose()
        said = " ".join(str(error.orig).split())[:160]
        raise BadInput(f"{folder}: its database cannot be read ({said}); is it where the service has it?") from None
    if revision != head():
        engine.dispose()
        raise BadInput(
            f"{folder}: its tables (revision {revision}) are of another version; start `chestmap serve` on it once"
        )
    return engine


def _url(folder: Path, url: str | None) -> URL:
    """Makes the URL of the database: store.sqlite in the folder, unless another is given.

    Refuses text that is no URL, and any database but SQLite and PostgreSQL.
    """
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
        raise BadInput(f'--database: its driver {error.name} is not installed; pip install "psycopg[binary]"') from None
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


def head() -> str:
    """Reads the newest revision off the names of the migrations: Alembic takes long to import."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(connection: Connection) -> str | None:
    """Reads the revision of the tables that are there; None where there are none."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))


def _migrate(connection: Connection, folder: Path) -> None:
    """Makes or changes tables in the transaction of `connection`: a start that fails leaves them as they were."""
    current = _revision(connection)
    if current == head():
        return
    if current is None and not inspect(connection).get_table_names():
        Base.metadata.create_all(connection)
        VERSION.create(connection)
        connection.execute(insert(VERSION).values(version_num=head()))
        return
    _upgrade(connection, folder, current)


def _config() -> Config:
    """Points Alembic to the migrations of this package, without an alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _upgrade(connection: Connection, folder: Path, current: str | None) -> None:
    """Runs the migrations from `current` to the newest, in the transaction of `connection`.

    They get the store's key and its pseudonyms. Tables newer than this version are refused.
    """
    from alembic import command
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = _config()
    folders = StoreFolder(folder)
    config.attributes |= {"connection": connection, "instance_of": folders.instance_of, "key": folders.key}
    try:
        if current is not None:
            ScriptDirectory.from_config(config).get_revision(current)
    except CommandError:
        raise BadInput(f"store: its tables (revision {current}) are newer than this version; update chestmap") from None
    command.upgrade(config, "head")
