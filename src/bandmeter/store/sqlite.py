"""The usage store on one machine: SQLite in WAL mode.

Law 3: writing a batch twice equals writing it once; also if the process dies between any two steps. The source's
position moves in the same transaction as its usage, and a batch is written only where the source stands where the
batch begins.
Law 5: the three resolutions always agree, because one function here derives hours and days from the 5-minute rows.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bandmeter.domain import errors, grid, usage
from bandmeter.domain.contracts import Batch, Reject, SourceState, Unattributed, overlaps
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.usage import SIDED, UNSIDED, ZERO, Columns, Counters, Outcomes, Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bandmeter.domain.tenancy import Zone

SCHEMA_VERSION = 1
ROWS_A_STATEMENT = 100  # of one INSERT: more than that gains nothing measurable, and 11 x 100 parameters stay bounded
BUSY_TIMEOUT_MS = 30_000  # how long a writer waits for another process's transaction
CACHE_KIB = 65_536
INDEXED_HEAD_BYTES = 64  # of a source's beginning: a time to the ms and an address, enough to tell most logs apart
WIDTH = len(usage.ROW)
KEY_WIDTH = len(usage.ROW_KEY)
# A row's key in one 64-bit number, for sorting: 5-minute buckets until the year 2600, 134 million zones.
BUCKET_BITS, DIMENSION_BITS = 26, 11
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
_SCHEMA = (
    *(_USAGE_TABLE.format(table=table) for table in TABLES.values()),
    """CREATE TABLE source (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL, format TEXT NOT NULL, path TEXT NOT NULL, head BLOB NOT NULL,
        position INTEGER NOT NULL, "check" BLOB NOT NULL, lines INTEGER NOT NULL, columns TEXT NOT NULL,
        received INTEGER NOT NULL, counted INTEGER NOT NULL, duplicate INTEGER NOT NULL, no_target INTEGER NOT NULL,
        unattributed INTEGER NOT NULL, rejected INTEGER NOT NULL,
        newest_ms INTEGER, committed_ms INTEGER, note TEXT NOT NULL,
        CHECK (received = counted + duplicate + no_target + unattributed + rejected)) STRICT""",
    f"CREATE INDEX source_head ON source (name, substr(head, 1, {INDEXED_HEAD_BYTES}))",
    f"CREATE INDEX source_short ON source (name) WHERE length(head) < {INDEXED_HEAD_BYTES}",
    """CREATE TABLE reject (
        source INTEGER NOT NULL, line INTEGER NOT NULL, byte INTEGER NOT NULL, field TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, text BLOB NOT NULL, PRIMARY KEY (source, line)) STRICT""",
    """CREATE TABLE identity (
        number INTEGER PRIMARY KEY, identity TEXT NOT NULL, side TEXT NOT NULL, first_day INTEGER NOT NULL,
        zone INTEGER, zone_side TEXT, zone_network TEXT, UNIQUE (identity, side)) STRICT""",
    "CREATE INDEX identity_first_day ON identity (first_day)",
    "CREATE TABLE newest (zone INTEGER PRIMARY KEY, newest_ms INTEGER NOT NULL) STRICT",
    "CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 1), committed_ms INTEGER) STRICT",
    "INSERT INTO state VALUES (1, NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_SOURCE_COLUMNS = (
    'number, name, format, path, head, position, "check", lines, columns, received, counted, duplicate, no_target, '
    "unattributed, rejected, newest_ms, committed_ms, note"
)


_STATE_COLUMNS = (
    *("name", "format", "path", "head", "position", '"check"', "lines", "columns"),
    *("newest_ms", "committed_ms", "note"),
)


@functools.lru_cache(maxsize=1_024)
def _upsert(table: str, counters: tuple[str, ...], rows: int) -> str:
    columns = (*usage.ROW_KEY, *counters)
    values = ", ".join(["(" + ", ".join("?" * len(columns)) + ")"] * rows)
    sums = ", ".join(f"{c} = {c} + excluded.{c}" for c in counters)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values} ON CONFLICT DO UPDATE SET {sums}"


def _select(side: Side, table: str) -> str:
    """A zone's rows as one JSON array a column: half the cost of a row at a time, in Python."""
    seconds = next(int(r) for r, t in TABLES.items() if t == table)
    columns = (f"bucket * {seconds}", "dimensions", *usage.SIDE_COLUMNS[side])
    arrays = ", ".join(f"json_group_array({column})" for column in columns)
    present = " OR ".join(usage.SIDE_COLUMNS[side])
    # Within a zone the table itself is in the order of bucket and dimensions; the arrays follow the scan.
    return f"SELECT {arrays} FROM {table} WHERE zone = ? AND bucket >= ? AND bucket < ? AND ({present})"


_INTEGERS = msgspec.json.Decoder(list[int])
_SELECTS = {(side, resolution): _select(side, table) for side in Side for resolution, table in TABLES.items()}


class _Availability:
    """Turns SQLite's operational errors (locked, full, unreadable) into `unavailable`, which clients may retry."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            sentence = f"The usage store cannot be used now ({error}): look at the disk with `bandmeter doctor`."
            raise BandmeterError(errors.UNAVAILABLE, sentence) from error


_AVAILABLE = _Availability()


class SqliteStore:
    """Implements `contracts.Store` on one file. Reads come from any thread, each on a connection of its own."""

    def __init__(self, path: Path, identities_per_day: int = 10_000) -> None:
        self.path = path
        self.identities_per_day = identities_per_day
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._write_lock = threading.Lock()
        path.touch(mode=0o600, exist_ok=True)
        self._writer = self._connect()
        self._create()

    # ------------------------------------------------------------ connections

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=64)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._connections.append(connection)
        return connection

    @property
    def _reader(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _create(self) -> None:
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA:
                    db.execute(statement)
            elif version != SCHEMA_VERSION:
                raise BandmeterError(
                    errors.INPUT_INVALID,
                    f"{self.path} has schema {version}, this Bandmeter reads {SCHEMA_VERSION}: use the newer release.",
                )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, _AVAILABLE:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------ writing

    def find_sources(self, name: str, head: bytes) -> list[SourceState]:
        return _find_sources(self._reader, name, head)

    def write(self, batch: Batch) -> int:
        with self._transaction() as db:
            number = _move_source(db, batch)
            if not number:
                return 0
            rows, newest_ms = _redirect_claimed(db, batch)
            _add_rows(db, rows)
            _add_newest(db, newest_ms)
            db.executemany(
                "INSERT INTO reject VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((number, *reject) for reject in batch.rejects),
            )
            db.execute("UPDATE state SET committed_ms = ?", [batch.committed_ms])
            return number

    def note_duplicates(self, source: int, lines: int) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE source SET received = received + ?, duplicate = duplicate + ? WHERE number = ?",
                [lines, lines, source],
            )

    def number_identities(self, wanted: Sequence[tuple[str, str]], day: int) -> dict[tuple[str, str], int]:
        with self._transaction() as db:
            (new,) = db.execute("SELECT count(*) FROM identity WHERE first_day = ?", [day]).fetchone()
            numbers = {}
            for key in wanted:
                found = _find_identity(db, key)
                if found is None and new < self.identities_per_day:
                    found, new = _add_identity(db, key, day), new + 1
                numbers[key] = found if found is not None else _others(db, key[1])
            return numbers

    def claim(self, identity: str, zone: Zone) -> Counters:
        with self._transaction() as db:
            moved = ZERO
            for side in (UNSIDED, SIDED):
                number = _find_identity(db, (identity, side)) or _add_identity(db, (identity, side), day=-1)
                db.execute(
                    "UPDATE identity SET zone = ?, zone_side = ?, zone_network = ? WHERE number = ?",
                    [zone.number, zone.side, zone.network, number],
                )
                rows = _take_rows(db, number, side, zone)
                _add_rows(db, rows)
                first = usage.ROW.index(usage.SIDE_COLUMNS[zone.side][0])
                moved = moved.plus(Counters(*(int(rows[:, first + i].sum()) for i in range(len(ZERO)))))
                for (newest_ms,) in db.execute("DELETE FROM newest WHERE zone = ? RETURNING newest_ms", [number]):
                    _add_newest(db, {zone.number: newest_ms})
            return moved

    # ------------------------------------------------------------ reading

    def read(self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span) -> dict[int, Columns]:
        statement = _SELECTS[side, resolution]
        db = self._reader
        edges = (span.start // resolution, grid.ceil_to(span.end, resolution) // resolution)
        found = {}
        with _AVAILABLE:
            for zone in zones:
                arrays = db.execute(statement, (zone, *edges)).fetchone()
                if arrays[0] != "[]":
                    found[zone] = Columns._make(map(_INTEGERS.decode, arrays))
        return found

    def total(self, zone: int, side: Side, span: Span) -> Counters:
        sums = ", ".join(f"coalesce(sum({c}), 0)" for c in usage.SIDE_COLUMNS[side])
        total = ZERO
        with _AVAILABLE:
            for resolution, piece in grid.pieces(span):
                row = self._reader.execute(
                    f"SELECT {sums} FROM {TABLES[resolution]} WHERE zone = ? AND bucket >= ? AND bucket < ?",
                    (zone, piece.start // resolution, piece.end // resolution),
                ).fetchone()
                total = total.plus(Counters(*row))
        return total

    def newest_ms(self, zones: Sequence[int]) -> int | None:
        db = self._reader
        with _AVAILABLE:
            found = [db.execute("SELECT newest_ms FROM newest WHERE zone = ?", (zone,)).fetchone() for zone in zones]
        return max((row[0] for row in found if row), default=None)

    def committed_ms(self) -> int | None:
        committed_ms: int | None = self._reader.execute("SELECT committed_ms FROM state").fetchone()[0]
        return committed_ms

    def sources(self) -> list[SourceState]:
        return [_source(row) for row in self._reader.execute(f"SELECT {_SOURCE_COLUMNS} FROM source ORDER BY number")]

    def rejects(self, source: int, limit: int) -> list[Reject]:
        rows = self._reader.execute(
            "SELECT line, byte, field, reason, detail, text FROM reject WHERE source = ? ORDER BY line LIMIT ?",
            [source, limit],
        )
        return [Reject(*row) for row in rows]

    def unattributed(self) -> list[Unattributed]:
        sums = ", ".join(f"coalesce(sum({c}), 0)" for c in usage.ROW_COUNTERS)
        rows = self._reader.execute(
            f"SELECT i.number, i.identity, i.side, {sums}, (SELECT newest_ms FROM newest n WHERE n.zone = i.number) "
            "FROM identity i LEFT JOIN usage_day u ON u.zone = i.number WHERE i.zone IS NULL GROUP BY i.number",
        )
        waiting = [Unattributed(r[0], r[1], r[2], Counters(*r[3:7]), Counters(*r[7:11]), r[11]) for r in rows]
        return sorted(waiting, key=lambda u: (-sum(u.target[2:] + u.client[2:]), u.identity, u.side))

    def check(self) -> list[str]:
        faults = [
            f"{self.path.name}: {fault}" for (fault,) in self._reader.execute("PRAGMA integrity_check") if fault != "ok"
        ]
        day = Resolution.DAY
        sums = ", ".join(f"sum({c})" for c in usage.ROW_COUNTERS)
        for resolution in (Resolution.FIVE_MINUTES, Resolution.HOUR):
            day_index = f"bucket * {int(resolution)} / {int(day)} b"
            finer = f"SELECT zone, {day_index}, dimensions, {sums} FROM {TABLES[resolution]}"
            coarse = f"SELECT {', '.join(usage.ROW)} FROM {TABLES[day]}"
            for zone, bucket in self._reader.execute(
                f"SELECT zone, b FROM ({finer} GROUP BY 1, 2, 3 EXCEPT {coarse}) UNION "
                f"SELECT zone, bucket FROM ({coarse} EXCEPT {finer} GROUP BY 1, 2, 3)",
            ):
                faults.append(f"zone {zone}, day {bucket}: {TABLES[resolution]} and {TABLES[day]} disagree.")
        return faults

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()


# ---------------------------------------------------------------- inside a transaction


def _source(row: tuple[Any, ...]) -> SourceState:
    return SourceState._make((*row[:9], Outcomes(*row[9:15]), *row[15:]))


def _find_sources(db: sqlite3.Connection, name: str, head: bytes) -> list[SourceState]:
    """Those whose first bytes are the same, by index, and the few that are too short for that."""
    rows = db.execute(
        f"SELECT {_SOURCE_COLUMNS} FROM source WHERE name = ? AND substr(head, 1, {INDEXED_HEAD_BYTES}) = ? UNION "
        f"SELECT {_SOURCE_COLUMNS} FROM source WHERE name = ? AND length(head) < {INDEXED_HEAD_BYTES}",
        [name, head[:INDEXED_HEAD_BYTES], name],
    )
    if len(head) < INDEXED_HEAD_BYTES:
        rows = db.execute(f"SELECT {_SOURCE_COLUMNS} FROM source WHERE name = ?", [name])
    return [state for state in map(_source, rows) if overlaps(state.head, head)]


def _move_source(db: sqlite3.Connection, batch: Batch) -> int:
    """Store the source's new state; its number, or 0 when it no longer stands where the batch begins."""
    number, state = batch.before.number, batch.after
    values = [*state[1:9], state.newest_ms, batch.committed_ms, state.note]
    if number:
        row = db.execute("SELECT position FROM source WHERE number = ?", [number]).fetchone()
        if row is None or row[0] != batch.before.position:
            return 0
        # What was added: another process may have noted duplicates meanwhile.
        sums = ", ".join(f"{name} = {name} + ?" for name in Outcomes._fields)
        columns = ", ".join(f"{name} = ?" for name in _STATE_COLUMNS)
        added = state.outcomes.minus(batch.before.outcomes)
        db.execute(f"UPDATE source SET {columns}, {sums} WHERE number = ?", [*values, *added, number])
        return number
    if any(s.number > batch.considered for s in _find_sources(db, state.name, state.head)):
        return 0
    columns = ", ".join((*_STATE_COLUMNS, *Outcomes._fields))
    marks = ", ".join("?" * (len(values) + len(Outcomes._fields)))
    cursor = db.execute(f"INSERT INTO source ({columns}) VALUES ({marks})", [*values, *state.outcomes])
    return cursor.lastrowid or 0


def _redirect_claimed(db: sqlite3.Connection, batch: Batch) -> tuple[Any, dict[int, int]]:
    """The batch's rows and newest times; those of identities claimed since they were attributed go to their zone."""
    rows = np.frombuffer(batch.rows, dtype=np.int64).reshape(-1, WIDTH)
    newest_ms = dict(batch.newest_ms)
    for number in [zone for zone in newest_ms if zone < 0]:
        side, zone, zone_side, network = db.execute(
            "SELECT side, zone, zone_side, zone_network FROM identity WHERE number = ?",
            [number],
        ).fetchone()
        if zone is not None:
            mine = rows[:, 0] == number
            moved = [usage.claimed(tuple(r), side, zone, Side(zone_side), network) for r in rows[mine].tolist()]
            rows = np.concatenate([rows[~mine], np.array(moved, dtype=np.int64).reshape(-1, WIDTH)])
            newest_ms[zone] = max(newest_ms.pop(number), newest_ms.get(zone, 0))
    return rows, newest_ms


def _add_rows(db: sqlite3.Connection, rows: Any) -> None:
    """Add 5-minute rows (Unix seconds, any order, keys may repeat) to all three tables."""
    # A counter that is 0 in the whole batch, as the client's are where a log has only the target's, is left out.
    used = [i for i in range(KEY_WIDTH, WIDTH) if rows[:, i].any()]
    if not used:
        return
    rows, finer = rows[:, [*range(KEY_WIDTH), *used]], 1
    for resolution in Resolution:
        rows[:, 1] //= resolution // finer
        finer = int(resolution)
        rows = _fold(rows)
        _add_folded(db, TABLES[resolution], tuple(usage.ROW[i] for i in used), rows)


def _fold(rows: Any) -> Any:
    """Rows with equal keys added up, ordered by key."""
    keys = (rows[:, 0] << (BUCKET_BITS + DIMENSION_BITS)) | (rows[:, 1] << DIMENSION_BITS) | rows[:, 2]
    order = np.argsort(keys)
    rows, keys = rows[order], keys[order]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    if len(starts) == len(rows):
        return rows
    return np.concatenate([rows[starts, :KEY_WIDTH], np.add.reduceat(rows[:, KEY_WIDTH:], starts)], axis=1)


def _add_folded(db: sqlite3.Connection, table: str, counters: tuple[str, ...], rows: Any) -> None:
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        part = rows[start : start + ROWS_A_STATEMENT]
        db.execute(_upsert(table, counters, len(part)), part.ravel().tolist())


def _add_newest(db: sqlite3.Connection, newest_ms: dict[int, int]) -> None:
    db.executemany(
        "INSERT INTO newest VALUES (?, ?) ON CONFLICT DO UPDATE SET newest_ms = max(newest_ms, excluded.newest_ms)",
        sorted(newest_ms.items()),
    )


def _find_identity(db: sqlite3.Connection, key: tuple[str, str]) -> int | None:
    row = db.execute("SELECT number FROM identity WHERE identity = ? AND side = ?", key).fetchone()
    return row[0] if row else None


def _add_identity(db: sqlite3.Connection, key: tuple[str, str], day: int) -> int:
    (number,) = db.execute("SELECT coalesce(min(number), 0) - 1 FROM identity").fetchone()
    db.execute("INSERT INTO identity (number, identity, side, first_day) VALUES (?, ?, ?, ?)", [number, *key, day])
    return int(number)


def _others(db: sqlite3.Connection, side: str) -> int:
    key = (usage.OTHERS, side)
    return _find_identity(db, key) or _add_identity(db, key, day=-1)


def _take_rows(db: sqlite3.Connection, number: int, side: str, zone: Zone) -> Any:
    """Delete an identity's rows from all tables; its 5-minute rows, as rows of the zone."""
    step = int(Resolution.FIVE_MINUTES)
    taken = db.execute(
        f"SELECT zone, bucket * {step}, {', '.join(usage.ROW[2:])} FROM usage_5m WHERE zone = ?",
        [number],
    ).fetchall()
    for table in TABLES.values():
        db.execute(f"DELETE FROM {table} WHERE zone = ?", [number])
    moved = [usage.claimed(row, side, zone.number, zone.side, zone.network) for row in taken]
    return np.array(moved, dtype=np.int64).reshape(-1, WIDTH)
