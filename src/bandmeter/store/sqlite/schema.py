"""The tables of the usage store, as a new one has them. A change here needs a step in `migrations.py`."""

from __future__ import annotations

from bandmeter.domain import usage
from bandmeter.domain.grid import Resolution

INDEXED_HEAD_BYTES = 64  # of a source's beginning: a time to the ms and an address, enough to tell most logs apart
TABLES = {Resolution.FIVE_MINUTES: "usage_5m", Resolution.HOUR: "usage_hour", Resolution.DAY: "usage_day"}

# Buckets are stored as a number of buckets since 1970: smaller than seconds, so rows are smaller.
# STRICT: a sum beyond 64 bits fails loudly instead of turning into a floating point number.
_USAGE_TABLE = (
    "CREATE TABLE {table} ("
    + ", ".join(f"{column} INTEGER NOT NULL" for column in usage.ROW_KEY)
    + ", "
    + ", ".join(f"{column} INTEGER NOT NULL DEFAULT 0" for column in usage.ROW_COUNTERS)
    + f", PRIMARY KEY ({', '.join(usage.ROW_KEY)})) STRICT, WITHOUT ROWID"
)
# `changes`: in how many transactions the zone's rows or `newest_ms` changed, by which a kept answer is known as right.
FRESHNESS = "CREATE TABLE freshness (zone INTEGER PRIMARY KEY, newest_ms INTEGER, changes INTEGER NOT NULL) STRICT"
COVERAGE = """CREATE TABLE coverage (source TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
        PRIMARY KEY (source, start_ms)) STRICT, WITHOUT ROWID"""
SCHEMA = (
    *(_USAGE_TABLE.format(table=table) for table in TABLES.values()),
    """CREATE TABLE source (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL, format TEXT NOT NULL, path TEXT NOT NULL, head BLOB NOT NULL,
        position INTEGER NOT NULL, "check" BLOB NOT NULL, lines INTEGER NOT NULL, columns TEXT NOT NULL,
        received INTEGER NOT NULL, counted INTEGER NOT NULL, duplicate INTEGER NOT NULL, no_target INTEGER NOT NULL,
        unattributed INTEGER NOT NULL, rejected INTEGER NOT NULL,
        newest_ms INTEGER, committed_ms INTEGER, note TEXT NOT NULL,
        CHECK (received = counted + duplicate + no_target + unattributed + rejected)) STRICT""",
    f"CREATE INDEX source_head ON source (name, substr(head, 1, {INDEXED_HEAD_BYTES}))",
    "CREATE INDEX source_path ON source (path)",
    f"CREATE INDEX source_short ON source (name) WHERE length(head) < {INDEXED_HEAD_BYTES}",
    """CREATE TABLE reject (
        source INTEGER NOT NULL, line INTEGER NOT NULL, byte INTEGER NOT NULL, field TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, text BLOB NOT NULL, mended BLOB,
        PRIMARY KEY (source, line)) STRICT""",
    """CREATE TABLE identity (
        number INTEGER PRIMARY KEY, identity TEXT NOT NULL, side TEXT NOT NULL, first_day INTEGER NOT NULL,
        zone INTEGER, zone_side TEXT, zone_network TEXT, UNIQUE (identity, side)) STRICT""",
    "CREATE INDEX identity_first_day ON identity (first_day)",
    "CREATE TABLE usage_host (zone INTEGER NOT NULL, day INTEGER NOT NULL, host TEXT NOT NULL, "
    + ", ".join(f"{column} INTEGER NOT NULL DEFAULT 0" for column in usage.ROW_COUNTERS)
    + ", PRIMARY KEY (zone, day, host)) STRICT, WITHOUT ROWID",
    """CREATE TABLE receipt (
        key BLOB PRIMARY KEY, body BLOB NOT NULL, expires_s INTEGER, answer BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    "CREATE INDEX receipt_expires_s ON receipt (expires_s) WHERE expires_s IS NOT NULL",
    FRESHNESS,
    COVERAGE,
    "CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 1), committed_ms INTEGER) STRICT",
    "INSERT INTO state VALUES (1, NULL)",
)
SOURCE_COLUMNS = (
    'number, name, format, path, head, position, "check", lines, columns, received, counted, duplicate, no_target, '
    "unattributed, rejected, newest_ms, committed_ms, note"
)


STATE_COLUMNS = (
    *("name", "format", "path", "head", "position", '"check"', "lines", "columns"),
    *("newest_ms", "committed_ms", "note"),
)
