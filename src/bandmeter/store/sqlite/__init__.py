"""The usage store on one machine: SQLite in WAL mode.

Law 3: writing a batch twice equals writing it once; also if the process dies between any two steps. The source's
position moves in the same transaction as its usage, and a batch is written only where the source stands where the
batch begins.
Law 5: the three resolutions always agree, because one function here derives hours and days from the 5-minute rows.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

import msgspec

from bandmeter.domain import errors, grid, usage
from bandmeter.domain.contracts import Batch, Freshness, Receipt, Reject, SourceState, Unattributed
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.usage import ZERO, Columns, Counters, HostRow, Measure, Selection, Side
from bandmeter.store.sqlite import checking, hosts, migrations, sums, writing
from bandmeter.store.sqlite.hosts import HostTable
from bandmeter.store.sqlite.schema import SOURCE_COLUMNS, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bandmeter.domain.contracts import Rejects
    from bandmeter.domain.tenancy import Zone

BUSY_TIMEOUT_MS = 30_000  # how long a writer waits for another process's transaction
CACHE_KIB = 65_536
NUMBER_MAX = 2**63 - 1
JOURNAL_BYTES = 64 * 2**20  # that the journal keeps on the disk once it is read; it grows while a backup reads


def _select(side: Side, table: str) -> str:
    """A zone's rows as one JSON array a column: half the cost of a row at a time, in Python."""
    seconds = next(int(r) for r, t in TABLES.items() if t == table)
    columns = (f"bucket * {seconds}", "dimensions", *usage.SIDE_COLUMNS[side])
    arrays = ", ".join(f"json_group_array({column})" for column in columns)
    present = " OR ".join(usage.SIDE_COLUMNS[side])
    # Within a zone the table itself is in the order of bucket and dimensions; the arrays follow the scan.
    return f"SELECT {arrays} FROM {table} WHERE zone = ? AND bucket >= ? AND bucket < ? AND ({present})"


def _select_series(side: Side, resolution: Resolution, measure: Measure, *, is_filtered: bool) -> str:
    """As `_select`, of two columns and without a look at the others: half of its time again."""
    requests, _, up, down = usage.SIDE_COLUMNS[side]
    value = requests if measure is Measure.REQUESTS else f"{up} + {down}"
    wanted = " AND dimensions & ? = ?" if is_filtered else ""
    return (
        f"SELECT json_group_array(bucket), json_group_array({value}) FROM {TABLES[resolution]} "
        f"WHERE zone = ? AND bucket >= ? AND bucket < ?{wanted}"
    )


# Of all zones together: no zone's count goes back, so equal sums are equal counts. In one statement, so of one moment.
_FRESHNESS = (
    "SELECT coalesce(sum(changes), 0), max(newest_ms), (SELECT committed_ms FROM state) "
    "FROM json_each(?) JOIN freshness ON zone = value"
)
# Of each kind: the text, and the condition.
_REJECTS = {
    "kept": ("text", "mended IS NULL"),
    "counted": ("text", "mended IS NOT NULL"),
    "mended": ("mended", "mended <> x''"),
}
_ENCODE = msgspec.json.encode
_INTEGERS = msgspec.json.Decoder(list[int])
_SELECTS = {(side, resolution): _select(side, table) for side in Side for resolution, table in TABLES.items()}
_SERIES = {
    (side, resolution, measure, is_filtered): _select_series(side, resolution, measure, is_filtered=is_filtered)
    for side in Side
    for resolution in TABLES
    for measure in Measure
    for is_filtered in (False, True)
}


class _Availability:
    """Turns what SQLite says into our errors: locked, full or unreadable is `unavailable`, which clients may retry."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        is_too_large = isinstance(error, sqlite3.IntegrityError) and "REAL" in str(error)
        if is_too_large or isinstance(error, OverflowError):
            sentence = "A sum would pass 64 bits, and was not stored: a record of this batch is wrong."
            raise BandmeterError(errors.SUM_TOO_LARGE, sentence) from error
        if isinstance(error, sqlite3.OperationalError):
            sentence = f"The usage store cannot be used now ({error}): look at the disk with `bandmeter doctor`."
            raise BandmeterError(errors.UNAVAILABLE, sentence) from error


_AVAILABLE = _Availability()


class SqliteStore:
    """Implements `contracts.Store` on one file. Reads come from any thread, each on a connection of its own."""

    def __init__(self, path: Path, identities_per_day: int = 10_000, hosts_per_day: int = 100) -> None:
        self.path = path
        self.identities_per_day = identities_per_day
        self._hosts = HostTable(hosts_per_day)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._write_lock = threading.Lock()
        path.touch(mode=0o600, exist_ok=True)
        self._identity = checking.identity_of(path)
        self._writer = self._connect()
        try:
            self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ connections

    def _connect(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=rw"  # who deletes the file while we run gets no new one
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
        self._connections.append(connection)
        return connection

    @property
    def _reader(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            with _AVAILABLE:
                self._local.connection = self._connect()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _bring_up_to_date(self) -> None:
        if migrations.version(self._writer) != migrations.newest():  # a store that is, is opened without a lock
            with self._transaction(is_opening=True) as db:
                if not migrations.version(db):
                    self.path.chmod(0o600)  # who made an empty file may have made it for all to read
                migrations.bring_up_to_date(db, self.path)

    @contextlib.contextmanager
    def _transaction(self, *, is_opening: bool = False) -> Iterator[sqlite3.Connection]:
        with self._write_lock, _AVAILABLE:
            checking.check_there(self.path, self._identity)
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                if not is_opening:
                    migrations.check_current(self._writer, self.path)
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                self._hosts.forget()  # while nobody else can write
                raise

    # ------------------------------------------------------------ writing

    def find_sources(self, name: str, head: bytes) -> list[SourceState]:
        with _AVAILABLE:
            return writing.find_sources(self._reader, name, head)

    def has_path(self, name: str, path: str) -> bool:
        with _AVAILABLE:
            found = self._reader.execute("SELECT 1 FROM source WHERE name = ? AND path = ? LIMIT 1", [name, path])
            return found.fetchone() is not None

    def sources_of_head(self, head: bytes) -> list[SourceState]:
        with _AVAILABLE:
            return writing.find_sources_of_head(self._reader, head)

    def write(self, batch: Batch) -> int:
        return next(iter(self.write_together([batch])), 0)

    def write_together(self, batches: Sequence[Batch]) -> list[int]:
        try:
            with self._transaction() as db:
                return writing.write(db, self._hosts, batches)
        except writing.StaleError:
            return []

    def receipt(self, key: bytes) -> Receipt | None:
        sql = "SELECT key, body, expires_s, answer FROM receipt WHERE key = ?"
        with _AVAILABLE:
            row = self._reader.execute(sql, [key]).fetchone()
        return Receipt(*row) if row else None

    def last_expiry_s(self) -> int | None:
        sql = "SELECT max(expires_s) FROM receipt WHERE expires_s IS NOT NULL"
        with _AVAILABLE:
            last_s: int | None = self._reader.execute(sql).fetchone()[0]
        return last_s

    def cover(self, heard_ms: Mapping[str, int], gap_ms: int) -> None:
        with self._transaction() as db:
            for name, ms in heard_ms.items():
                writing.cover(db, name, ms, gap_ms)

    def coverage(self, start_ms: int, end_ms: int) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {}
        for name, *stretch in self._reader.execute(
            "SELECT source, start_ms, end_ms FROM coverage WHERE end_ms >= ? AND start_ms < ? ORDER BY 1, 2",
            [start_ms, end_ms],
        ):
            found.setdefault(name, []).append((stretch[0], stretch[1]))
        return found

    def touch(self) -> None:
        with self._transaction() as db:
            db.execute("UPDATE state SET committed_ms = committed_ms")

    def note_duplicates(self, source: int, lines: int) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE source SET received = received + ?, duplicate = duplicate + ? WHERE number = ?",
                [lines, lines, source],
            )

    def note_path(self, source: int, name: str, path: str) -> None:
        with self._transaction() as db:
            writing.note_path(db, source, name, path)

    def number_identities(self, wanted: Sequence[tuple[str, str]], day: int) -> dict[tuple[str, str], int]:
        with self._transaction() as db:
            (new,) = db.execute("SELECT count(*) FROM identity WHERE first_day = ?", [day]).fetchone()
            numbers = {}
            for key in wanted:
                found = writing.find_identity(db, key)
                if found is None and new < self.identities_per_day and key[0] != usage.OTHERS:
                    found, new = writing.add_identity(db, key, day), new + 1
                numbers[key] = found if found is not None else writing.find_or_add_identity(db, (usage.OTHERS, key[1]))
            return numbers

    def claim(self, identity: str, zone: Zone) -> Counters:
        with self._transaction() as db:
            return writing.claim(db, identity, zone)

    def release(self, identity: str) -> None:
        with self._transaction() as db:
            writing.release(db, identity)

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

    def read_series(
        self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span, selection: Selection
    ) -> dict[int, tuple[list[int], list[int]]]:
        measure, mask, bits = selection
        statement = _SERIES[side, resolution, measure, mask != 0]
        edges = (span.start // resolution, grid.ceil_to(span.end, resolution) // resolution)
        arguments = (*edges, mask, bits) if mask else edges
        db = self._reader
        found = {}
        decoded: dict[str, list[int]] = {}  # busy zones have the same buckets, and comparing texts costs nothing
        with _AVAILABLE:
            for zone in zones:
                buckets, values = db.execute(statement, (zone, *arguments)).fetchone()
                if buckets == "[]":
                    continue
                if buckets not in decoded:
                    decoded[buckets] = [bucket * resolution for bucket in _INTEGERS.decode(buckets)]
                found[zone] = (decoded[buckets], _INTEGERS.decode(values))
        return found

    def read_hosts(self, zones: Sequence[int], side: Side, span: Span, limit: int) -> dict[int, list[HostRow]]:
        with _AVAILABLE:
            return hosts.read(self._reader, zones, side, span, limit)

    def total(self, zone: int, side: Side, span: Span) -> Counters:
        columns = ", ".join(map(sums.halves, usage.SIDE_COLUMNS[side]))
        total = ZERO
        with _AVAILABLE:
            for resolution, piece in grid.pieces(span):
                row = self._reader.execute(
                    f"SELECT {columns} FROM {TABLES[resolution]} WHERE zone = ? AND bucket >= ? AND bucket < ?",
                    (zone, piece.start // resolution, piece.end // resolution),
                ).fetchone()
                total = total.plus(Counters(*sums.joined(row)))
        return total

    def freshness(self, zones: Sequence[int]) -> Freshness:
        with _AVAILABLE:
            found = self._reader.execute(_FRESHNESS, (_ENCODE(zones).decode(),)).fetchone()
        return Freshness._make(found)

    def committed_ms(self) -> int | None:
        checking.check_there(self.path, self._identity)  # who asks whether all is well hears of it
        committed_ms: int | None = self._reader.execute("SELECT committed_ms FROM state").fetchone()[0]
        return committed_ms

    def sources(self) -> list[SourceState]:
        return [
            writing.to_source(row)
            for row in self._reader.execute(f"SELECT {SOURCE_COLUMNS} FROM source ORDER BY number")
        ]

    def rejects(self, source: int, limit: int, after: int = 0, which: Rejects = "kept") -> list[Reject]:
        text, wanted = _REJECTS[which]
        rows = self._reader.execute(
            f"SELECT line, byte, field, reason, detail, {text} FROM reject WHERE source = ? AND line > ? AND {wanted} "
            "ORDER BY line LIMIT ?",
            [source, after, limit],
        )
        return [Reject(*row) for row in rows]

    def count_rejects(self, source: int, lines: int) -> int:
        statement = "SELECT count(*) FROM reject WHERE source = ? AND line <= ? AND mended IS NULL"
        with _AVAILABLE:
            return int(self._reader.execute(statement, [source, lines]).fetchone()[0])

    def sources_with_rejects(self, name: str) -> list[SourceState]:
        has_some = "EXISTS (SELECT 1 FROM reject WHERE source = number)"
        statement = f"SELECT {SOURCE_COLUMNS} FROM source WHERE name = ? AND {has_some} ORDER BY number"
        with _AVAILABLE:
            return list(map(writing.to_source, self._reader.execute(statement, [name])))

    def unattributed(self) -> list[Unattributed]:
        columns = ", ".join(map(sums.halves, usage.ROW_COUNTERS))
        rows = self._reader.execute(
            f"SELECT i.number, i.identity, i.side, {columns}, "
            "(SELECT newest_ms FROM freshness f WHERE f.zone = i.number) "
            "FROM identity i LEFT JOIN usage_day u ON u.zone = i.number WHERE i.zone IS NULL GROUP BY i.number",
        )
        waiting = []
        for number, identity, side, *halves, newest_ms in rows:
            counters = sums.joined(halves)
            target, client = Counters(*counters[: len(ZERO)]), Counters(*counters[len(ZERO) :])
            waiting.append(Unattributed(number, identity, side, target, client, newest_ms))
        return sorted(waiting, key=lambda u: (-sum(u.target[2:] + u.client[2:]), u.identity, u.side))

    def number_ends(self) -> tuple[int, int] | None:
        with _AVAILABLE:
            return checking.number_ends(self._reader)

    def highest_number(self) -> int:
        return checking.highest_number(self._reader)

    def numbers(self, at_most: int = NUMBER_MAX) -> Iterator[int]:
        return checking.numbers(self._reader, at_most)

    def extent(self, number: int) -> Span | None:
        with _AVAILABLE:
            return checking.extent(self._reader, number)

    def check(self) -> list[str]:
        faults = [f"{self.path.name}: {fault}" for fault in checking.faults_of_file(self._reader)]
        return faults + checking.disagreements(self._reader)

    def check_day(self, number: int, day: int) -> list[str]:
        with _AVAILABLE:
            return checking.disagreements_of_day(self._reader, number, day)

    @contextlib.contextmanager
    def at_one_moment(self) -> Iterator[None]:
        db = self._reader
        with _AVAILABLE:
            db.execute("BEGIN")
            try:
                db.execute("SELECT committed_ms FROM state").fetchone()  # from here on all is of this moment
                yield
            finally:
                db.execute("ROLLBACK")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
