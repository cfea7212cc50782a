"""A usage store of schema 1 opens, and its zones have the newest times that they had."""

from __future__ import annotations

import contextlib
import sqlite3
from array import array

from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.usage import Outcomes
from bandmeter.store import SqliteStore
from bandmeter.store.sqlite.schema import FRESHNESS, SCHEMA

NEW = SourceState(0, "files", "jsonl", "/log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
OLD = "CREATE TABLE newest (zone INTEGER PRIMARY KEY, newest_ms INTEGER NOT NULL) STRICT"


def test_schema_1_becomes_schema_2(tmp_path):
    db = sqlite3.connect(tmp_path / "usage.db")
    for statement in SCHEMA:
        db.execute(OLD if statement == FRESHNESS else statement)
    db.execute("INSERT INTO newest VALUES (1, 1000), (2, 3000)")
    db.execute("INSERT INTO usage_day (zone, bucket, dimensions) VALUES (1, 0, 0)")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    store = SqliteStore(tmp_path / "usage.db")
    assert store.freshness([1]) == (0, 1_000, None)
    row = array("q", [1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    assert store.write(Batch(NEW, NEW._replace(head=b"x", position=1), row, {1: 2_000}, [], 9))
    assert store.freshness([1, 2, 3]) == (1, 3_000, 9)
    store.close()
    with contextlib.closing(SqliteStore(tmp_path / "usage.db")) as store:  # and once only
        assert store.freshness([1]) == (1, 2_000, 9)
