"""Runs the migrations on the connection that `connect.migrate` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from bandmeter.catalog import tables

# One transaction even on SQLite: a machine that stops in the middle leaves the old schema, whole.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=tables.METADATA, transactional_ddl=True
)
context.run_migrations()
