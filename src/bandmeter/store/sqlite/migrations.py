"""How the usage store's schema has grown, step by step, and how an older store is brought up to date.

A store is brought up to date when it is opened, in one transaction: whoever stops in the middle leaves the old schema,
whole, and of several processes one does it while the others wait. The transaction is kept only when every zone has the
sums that it had.

To change the schema: change `schema.SCHEMA`, add the step that makes the same of an older store here, and write down
what the new schema looks like with `python tests/schema_states/dump_usage.py`. A step that was released is never
changed again. It may be long, but its tables and columns must be ones that an older `serve`, still running, reads
rightly or cannot read at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bandmeter.domain import errors, usage
from bandmeter.domain.errors import BandmeterError
from bandmeter.store.sqlite.schema import SCHEMA, TABLES

# SQL statements, or what SQL cannot say: a function of the connection, which is in the transaction.
Step = Sequence[str] | Callable[[sqlite3.Connection], None]

FIRST = 1  # the schema of release 0.1.0
STEPS: tuple[Step, ...] = (
    (  # to schema 2: usage by host, what was said of batches that were posted, how often a zone changed, coverage
        """CREATE TABLE usage_host (zone INTEGER NOT NULL, day INTEGER NOT NULL, host TEXT NOT NULL,
        target_requests INTEGER NOT NULL DEFAULT 0, target_successes INTEGER NOT NULL DEFAULT 0,
        target_bytes_up INTEGER NOT NULL DEFAULT 0, target_bytes_down INTEGER NOT NULL DEFAULT 0,
        client_requests INTEGER NOT NULL DEFAULT 0, client_successes INTEGER NOT NULL DEFAULT 0,
        client_bytes_up INTEGER NOT NULL DEFAULT 0, client_bytes_down INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (zone, day, host)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE receipt (
        key BLOB PRIMARY KEY, body BLOB NOT NULL, expires_s INTEGER, answer BLOB NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE INDEX receipt_expires_s ON receipt (expires_s) WHERE expires_s IS NOT NULL",
        "CREATE TABLE freshness (zone INTEGER PRIMARY KEY, newest_ms INTEGER, changes INTEGER NOT NULL) STRICT",
        """CREATE TABLE coverage (source TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
        PRIMARY KEY (source, start_ms)) STRICT, WITHOUT ROWID""",
        "INSERT INTO freshness SELECT zone, newest_ms, 0 FROM newest",
        "DROP TABLE newest",
    ),
    ("ALTER TABLE reject ADD COLUMN mended BLOB",),  # to schema 3: what counts in a reject's place, and that it counts
)


def newest() -> int:
    """The schema that this release makes and reads; SQLite keeps it in the file as `user_version`."""
    return FIRST + len(STEPS)


def version(db: sqlite3.Connection) -> int:
    """The schema of an open store; 0: it is empty."""
    (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)


def version_of(path: Path) -> int:
    """The schema of a store's file, which is not changed; 0: it is not there. Raises sqlite3.Error for another file."""
    if not path.exists():
        return 0
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return version(db)
    finally:
        db.close()


def check_current(db: sqlite3.Connection, path: Path) -> None:
    """Raise `unavailable` when a newer release has changed the schema since this process opened the store."""
    if version(db) != newest():
        sentence = f"{path} was brought to schema {version(db)} by another release meanwhile: start this process again."
        raise BandmeterError(errors.UNAVAILABLE, sentence)


def bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    """Make or migrate the tables; to be called in a transaction that holds the write lock.

    Raises `input_invalid` for a store of a newer release, `failure` when a step would change a number.
    """
    stored = version(db)
    if stored > newest():
        sentence = f"{path} has schema {stored}, this Bandmeter knows {newest()} and older: use the newer release."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    if stored == newest():
        return
    if stored:
        before = _sums(db)
        for step in STEPS[stored - FIRST :]:
            _take(db, step)
        if _sums(db, before) != before:
            sentence = f"{path} was left as it was: bringing it to schema {newest()} would have changed its sums."
            raise BandmeterError(errors.FAILURE, sentence)
    else:
        _take(db, SCHEMA)
    db.execute(f"PRAGMA user_version = {newest()}")


def _take(db: sqlite3.Connection, step: Step) -> None:
    if callable(step):
        step(db)
        return
    for statement in step:
        db.execute(statement)


# Table → its counters → each zone's number and sums.
_Sums = dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]


def _sums(db: sqlite3.Connection, like: _Sums | None = None) -> _Sums:
    """Each zone's sums in each table; of the counters that `like` has, else of all."""
    found: _Sums = {}
    for table in TABLES.values():
        columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", [table])]
        counters = like[table][0] if like else tuple(name for name in columns if name not in usage.ROW_KEY)
        sums = ", ".join(f"sum({counter})" for counter in counters)
        found[table] = counters, db.execute(f"SELECT zone, {sums} FROM {table} GROUP BY zone ORDER BY zone").fetchall()
    return found
