"""Opening the database: its settings, its schema, and how a change by another process is noticed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bandmeter.catalog import tables
from bandmeter.domain import errors

SQLITE = "sqlite:///"
BUSY_SECONDS = 30  # how long a writer waits for another; an `apply` of 100,000 zones takes a third of that
SQLITE_SETTINGS = ("PRAGMA foreign_keys = ON", "PRAGMA synchronous = FULL")
MIGRATIONS = Path(__file__).parent / "migrations"


def open_engine(url: str) -> sa.Engine:
    """An engine whose transactions are real ones. With the option `begin="IMMEDIATE"` they take the write lock first.

    Raises `input_invalid` for a url that names no database, `unavailable` when it cannot be opened.
    """
    if url.startswith(SQLITE):
        return _open_sqlite(Path(url.removeprefix(SQLITE)))  # as it stands: a path may hold ? and %
    try:
        if url.startswith("sqlite"):
            raise sa.exc.ArgumentError  # noqa: TRY301 - in memory each connection would have a catalog of its own
        return sa.create_engine(sa.make_url(url), pool_pre_ping=True)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        raise errors.BandmeterError(
            errors.INPUT_INVALID, "The catalog has no usable url: write it as sqlite:////dir/catalog.db."
        ) from error


def _open_sqlite(path: Path) -> sa.Engine:
    _create_file(path)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", _set_up)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _create_file(path: Path) -> None:
    """Make the file readable for its owner only; SQLite gives its journals the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers never wait for a writer
    except (OSError, sqlite3.Error) as error:
        raise errors.BandmeterError(
            errors.UNAVAILABLE,
            f"The catalog {path} cannot be opened ({error}): check that the folder exists and is yours to write.",
        ) from error


def _set_up(connection: Any, _record: Any) -> None:
    # Python's own BEGIN comes too late (before the first write, not the first read): we send ours.
    connection.isolation_level = None
    for setting in SQLITE_SETTINGS:
        connection.execute(setting)


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to `tables.HEAD`. Raises `input_invalid` when it is newer than this program."""
    stored = _stored_revision(engine)
    if stored == tables.HEAD:
        return
    if stored and stored not in revisions():
        raise errors.BandmeterError(
            errors.INPUT_INVALID,
            f"The catalog has schema {stored[:40]}, which this Bandmeter does not know: use the newer one.",
        )
    # Alembic costs a third of a second, and is needed once in a schema's life.
    from alembic import command, config  # noqa: PLC0415

    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.execution_options(begin="IMMEDIATE").begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


def revisions() -> list[str]:
    """The schemas that this release knows, oldest first."""
    return sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def revision_of(path: Path) -> str:
    """The schema of a catalog's file, which is not changed; "" without one. Raises sqlite3.Error when it is none."""
    if not path.exists():
        return ""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return ""
        row = db.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def _stored_revision(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() or "")


def watch(engine: sa.Engine) -> tuple[Callable[[], int], Callable[[], None]]:
    """A function whose result changes whenever any process has committed to the catalog, and one that ends it.

    Thread-safe. On SQLite it costs under 2 µs, so it may be asked before each lookup; elsewhere a query.
    """
    if engine.dialect.name != "sqlite":
        return lambda: _read_counter(engine), lambda: None
    # PRAGMA data_version tells of commits by other connections: this one never writes, so it tells of all.
    connection = sqlite3.connect(str(engine.url.database), check_same_thread=False, isolation_level=None)
    execute = connection.cursor().execute
    lock = threading.Lock()

    def version() -> int:
        with lock:
            return int(next(execute("PRAGMA data_version"))[0])

    return version, connection.close


def _read_counter(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(tables.CHANGE.c.number)).scalar_one())
