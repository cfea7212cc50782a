"""What happens inside a transaction of the usage store."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bandmeter.domain import usage
from bandmeter.domain.contracts import REMEMBERED_SECONDS, STRETCHES_MAX, SourceState, overlaps
from bandmeter.domain.grid import Resolution
from bandmeter.domain.usage import DIMENSION_BITS, SIDED, UNSIDED, ZERO, Counters, Outcomes, Side
from bandmeter.store.sqlite.schema import INDEXED_HEAD_BYTES, SOURCE_COLUMNS, STATE_COLUMNS, TABLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from bandmeter.domain.contracts import Batch, Receipt
    from bandmeter.domain.tenancy import Zone
    from bandmeter.store.sqlite.hosts import HostTable

RECEIPTS_FORGOTTEN_AT_ONCE = 10  # old ones, with each new one: so they never pile up, and no batch waits for many
ROWS_A_STATEMENT = 100  # of one INSERT: more than that gains nothing measurable, and 11 x 100 parameters stay bounded
WIDTH = len(usage.ROW)
KEY_WIDTH = len(usage.ROW_KEY)
# A row's key in one 64-bit number, for sorting: 5-minute buckets until the year 2600, 134 million zones.
BUCKET_BITS = 26
SUM_MAX = 2**63 - 1  # of a column


def to_source(row: tuple[Any, ...]) -> SourceState:
    """A row of `SOURCE_COLUMNS`."""
    return SourceState._make((*row[:9], Outcomes(*row[9:15]), *row[15:]))


def find_sources(db: sqlite3.Connection, name: str, head: bytes) -> list[SourceState]:
    """Those whose first bytes are the same, by index, and the few that are too short for that."""
    rows = db.execute(
        f"SELECT {SOURCE_COLUMNS} FROM source WHERE name = ? AND substr(head, 1, {INDEXED_HEAD_BYTES}) = ? UNION "
        f"SELECT {SOURCE_COLUMNS} FROM source WHERE name = ? AND length(head) < {INDEXED_HEAD_BYTES}",
        [name, head[:INDEXED_HEAD_BYTES], name],
    )
    if len(head) < INDEXED_HEAD_BYTES:
        rows = db.execute(f"SELECT {SOURCE_COLUMNS} FROM source WHERE name = ?", [name])
    return [state for state in map(to_source, rows) if overlaps(state.head, head)]


def find_sources_of_head(db: sqlite3.Connection, head: bytes) -> list[SourceState]:
    """The same, of any name: by the same two indexes."""
    found = f"""SELECT number FROM source WHERE length(head) < {INDEXED_HEAD_BYTES} UNION ALL
        SELECT number FROM source WHERE name IN (SELECT DISTINCT name FROM source)
        AND substr(head, 1, {INDEXED_HEAD_BYTES}) = substr(:head, 1, {INDEXED_HEAD_BYTES})"""
    if len(head) < INDEXED_HEAD_BYTES:
        found = "SELECT number FROM source"
    rows = db.execute(
        f"""SELECT {SOURCE_COLUMNS} FROM source WHERE number IN ({found}) AND (
            substr(:head, 1, length(head)) = head OR substr(head, 1, length(:head)) = :head) ORDER BY number""",
        {"head": head},
    )
    return list(map(to_source, rows))


class StaleError(Exception):
    """A source no longer stands where its batch begins, or keeps no more what that counts."""


def write(db: sqlite3.Connection, hosts: HostTable, batches: Sequence[Batch]) -> list[int]:
    """Write the batches; the numbers of their sources. Raises `StaleError`."""
    numbers = []
    for batch in batches:
        number = _move_source(db, batch)
        if not number:
            raise StaleError
        numbers.append(number)
        if batch.rejects:
            rejects = ((number, *reject) for reject in batch.rejects)
            db.executemany("INSERT INTO reject VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", rejects)
        if batch.retried:
            _take_out(db, number, batch.retried)
        if batch.receipts:
            _keep_receipts(db, batch.receipts)
    rows, newest_ms = _redirect_claimed(db, batches)
    note_change(db, add_rows(db, rows), newest_ms)
    hosts.add(db, [batch.hosts for batch in batches])
    db.execute("UPDATE state SET committed_ms = ?", [batches[-1].committed_ms])
    return numbers


def _take_out(db: sqlite3.Connection, source: int, retried: Mapping[int, bytes]) -> None:
    rows = [(text, source, line) for line, text in retried.items()]
    found = db.executemany("UPDATE reject SET mended = ? WHERE source = ? AND line = ? AND mended IS NULL", rows)
    if found.rowcount != len(rows):
        raise StaleError  # another process has counted one of them


def _keep_receipts(db: sqlite3.Connection, receipts: Sequence[Receipt]) -> None:
    expiries = [receipt.expires_s for receipt in receipts if receipt.expires_s is not None]
    if expiries:  # made now, so what expires before this is too old now
        db.execute(
            "DELETE FROM receipt WHERE key IN (SELECT key FROM receipt WHERE expires_s < ? LIMIT ?)",
            [max(expiries) - REMEMBERED_SECONDS, RECEIPTS_FORGOTTEN_AT_ONCE * len(receipts)],
        )
    db.executemany("INSERT OR REPLACE INTO receipt (key, body, expires_s, answer) VALUES (?, ?, ?, ?)", receipts)


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
        columns = ", ".join(f"{name} = ?" for name in STATE_COLUMNS)
        added = state.outcomes.minus(batch.before.outcomes)
        db.execute(f"UPDATE source SET {columns}, {sums} WHERE number = ?", [*values, *added, number])
        return number
    if any(s.number > batch.considered for s in find_sources(db, state.name, state.head)):
        return 0
    columns = ", ".join((*STATE_COLUMNS, *Outcomes._fields))
    marks = ", ".join("?" * (len(values) + len(Outcomes._fields)))
    cursor = db.execute(f"INSERT INTO source ({columns}) VALUES ({marks})", [*values, *state.outcomes])
    return cursor.lastrowid or 0


def _redirect_claimed(db: sqlite3.Connection, batches: Sequence[Batch]) -> tuple[Any, dict[int, int]]:
    """The batches' rows and newest times; those of identities claimed since they were attributed go to their zone."""
    rows = np.concatenate([np.frombuffer(batch.rows, dtype=np.int64) for batch in batches]).reshape(-1, WIDTH)
    newest_ms: dict[int, int] = {}
    for batch in batches:
        newest_ms |= {zone: max(ms, newest_ms.get(zone, ms)) for zone, ms in batch.newest_ms.items()}
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


def add_rows(db: sqlite3.Connection, rows: Any) -> set[int]:
    """Add 5-minute rows (Unix seconds, any order, keys may repeat) to all three tables; the numbers of their zones."""
    # A counter that is 0 in the whole batch, as the client's are where a log has only the target's, is left out.
    used = [i for i in range(KEY_WIDTH, WIDTH) if rows[:, i].any()]
    if not used:
        return set(rows[:, 0].tolist())
    rows, finer = rows[:, [*range(KEY_WIDTH), *used]], 1
    for resolution in Resolution:
        rows[:, 1] //= resolution // finer
        finer = int(resolution)
        rows = _fold(rows)
        _add_folded(db, TABLES[resolution], tuple(usage.ROW[i] for i in used), rows)
    return set(rows[:, 0].tolist())  # few by now: one a day and kind of traffic


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
    counters = rows[:, KEY_WIDTH:]
    if int(counters.max()) > SUM_MAX // len(rows):
        counters = counters.astype(object)  # numpy would wrap around silently; SQLite refuses what is too large
    return np.concatenate([rows[starts, :KEY_WIDTH], np.add.reduceat(counters, starts)], axis=1)


def _add_folded(db: sqlite3.Connection, table: str, counters: tuple[str, ...], rows: Any) -> None:
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        part = rows[start : start + ROWS_A_STATEMENT]
        db.execute(_upsert(table, counters, len(part)), part.ravel().tolist())


def note_change(db: sqlite3.Connection, zones: set[int], newest_ms: dict[int, int]) -> None:
    """Count one change of each zone that got rows or a newest time; keep the later of what is there and what came.

    Law of kept answers: whatever changes a zone's rows calls this in the same transaction.
    """
    db.executemany(
        "INSERT INTO freshness VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET changes = changes + 1, newest_ms = "
        "max(coalesce(newest_ms, excluded.newest_ms), coalesce(excluded.newest_ms, newest_ms))",
        [(zone, newest_ms.get(zone)) for zone in sorted(zones | newest_ms.keys())],
    )


def cover(db: sqlite3.Connection, name: str, ms: int, gap_ms: int) -> None:
    """Lengthen a source's last stretch of coverage, or begin one after a gap."""
    db.execute("DELETE FROM coverage WHERE source = ? AND start_ms > ?", [name, ms])  # by a clock that was ahead
    last = db.execute("SELECT max(start_ms), end_ms FROM coverage WHERE source = ?", [name]).fetchone()
    if last[0] is not None and ms - last[1] <= gap_ms:
        db.execute("UPDATE coverage SET end_ms = max(end_ms, ?) WHERE source = ? AND start_ms = ?", [ms, name, last[0]])
        return
    db.execute("INSERT INTO coverage VALUES (?, ?, ?)", [name, ms, ms])
    db.execute(
        "DELETE FROM coverage WHERE source = ? AND start_ms <= "
        "(SELECT start_ms FROM coverage WHERE source = ? ORDER BY start_ms DESC LIMIT 1 OFFSET ?)",
        [name, name, STRETCHES_MAX],
    )


def note_path(db: sqlite3.Connection, source: int, name: str, path: str) -> None:
    """Call a source so, and say that it was seen there; when none has its old name any more, nor has its coverage."""
    (before,) = db.execute("SELECT name FROM source WHERE number = ?", [source]).fetchone()
    db.execute("UPDATE source SET name = ?, path = ? WHERE number = ?", [name, path, source])
    if not db.execute("SELECT 1 FROM source WHERE name = ? LIMIT 1", [before]).fetchone():
        db.execute("UPDATE OR REPLACE coverage SET source = ? WHERE source = ?", [name, before])


def find_identity(db: sqlite3.Connection, key: tuple[str, str]) -> int | None:
    """The number of an unattributed (identity, side), None when it is new."""
    row = db.execute("SELECT number FROM identity WHERE identity = ? AND side = ?", key).fetchone()
    return row[0] if row else None


def add_identity(db: sqlite3.Connection, key: tuple[str, str], day: int) -> int:
    """Number a new (identity, side), below all others: zones have the numbers above 0."""
    (number,) = db.execute("SELECT coalesce(min(number), 0) - 1 FROM identity").fetchone()
    db.execute("INSERT INTO identity (number, identity, side, first_day) VALUES (?, ?, ?, ?)", [number, *key, day])
    return int(number)


def find_or_add_identity(db: sqlite3.Connection, key: tuple[str, str]) -> int:
    """An identity's number; a new one counts in no day's bound."""
    return find_identity(db, key) or add_identity(db, key, day=-1)


def take_rows(db: sqlite3.Connection, number: int, side: str, zone: Zone) -> Any:
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


def claim(db: sqlite3.Connection, identity: str, zone: Zone) -> Counters:
    """Give what an identity has, and what was attributed to it and is still to come, to a zone; what moved."""
    moved = ZERO
    for side in (UNSIDED, SIDED):
        number = find_or_add_identity(db, (identity, side))
        db.execute(
            "UPDATE identity SET zone = ?, zone_side = ?, zone_network = ? WHERE number = ?",
            [zone.number, zone.side, zone.network, number],
        )
        rows = take_rows(db, number, side, zone)
        zones = add_rows(db, rows)
        first = usage.ROW.index(usage.SIDE_COLUMNS[zone.side][0])
        moved = moved.plus(Counters(*(sum(rows[:, first + i].tolist()) for i in range(len(ZERO)))))
        for (ms,) in db.execute("DELETE FROM freshness WHERE zone = ? RETURNING newest_ms", [number]):
            note_change(db, zones, {} if ms is None else {zone.number: ms})
    note_change(db, {zone.number}, {})  # also where nothing waited: the zone's number is in use
    return moved


def release(db: sqlite3.Connection, identity: str) -> None:
    """Let what is attributed to an identity from now on wait."""
    db.execute("UPDATE identity SET zone = NULL, zone_side = NULL, zone_network = NULL WHERE identity = ?", [identity])


@functools.lru_cache(maxsize=1_024)
def _upsert(table: str, counters: tuple[str, ...], rows: int) -> str:
    columns = (*usage.ROW_KEY, *counters)
    values = ", ".join(["(" + ", ".join("?" * len(columns)) + ")"] * rows)
    sums = ", ".join(f"{c} = {c} + excluded.{c}" for c in counters)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values} ON CONFLICT DO UPDATE SET {sums}"
