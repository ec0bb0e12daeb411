"""Run by Alembic; the connection is given by `database.py`, never by a file."""

from alembic import context

from chestmap.serving.store.database_tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
