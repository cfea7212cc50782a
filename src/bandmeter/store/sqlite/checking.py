"""Law 5, looked at: an hour is the sum of its 5-minute buckets, a day of its hours; its hosts are a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.domain import errors, grid, usage
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.store.sqlite import sums
from bandmeter.store.sqlite.schema import TABLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

_COUNTERS = ", ".join(usage.ROW_COUNTERS)
_SUMS = ", ".join(f"sum({counter})" for counter in usage.ROW_COUNTERS)
_PAIRS = ((Resolution.FIVE_MINUTES, Resolution.HOUR), (Resolution.HOUR, Resolution.DAY))
_DAY_WHERE = "WHERE zone = :zone AND bucket >= :day * {0} AND bucket < (:day + 1) * {0}"


def identity_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that takes its place; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_there(path: Path, identity: tuple[int, int] | None) -> None:
    """Raise `unavailable` when an open store is not at its path any more: SQLite would go on where nobody finds it."""
    if identity_of(path) != identity:
        sentence = f"{path.name} was moved or deleted while in use: bring it back, and start this process again."
        raise BandmeterError(errors.UNAVAILABLE, sentence)


def faults_of_file(db: sqlite3.Connection) -> Iterator[str]:
    """What SQLite says of its own pages and indexes."""
    return (fault for (fault,) in db.execute("PRAGMA integrity_check") if fault != "ok")


def disagreements(db: sqlite3.Connection) -> list[str]:
    """All buckets that are not the sums of the finer ones. Reads the whole store, at one moment."""
    return [_sentence(*row) for row in db.execute(_DISAGREEING)]


def disagreements_of_day(db: sqlite3.Connection, zone: int, day: int) -> list[str]:
    """The same of one zone and day (from Unix second `day` on): one statement, so of one moment."""
    return [_sentence(*row) for row in db.execute(_DISAGREEING_DAY, {"zone": zone, "day": day // Resolution.DAY})]


def number_ends(db: sqlite3.Connection) -> tuple[int, int] | None:
    """The lowest and the highest number that has usage, by the key."""
    low, high = db.execute("SELECT min(zone), (SELECT max(zone) FROM usage_day) FROM usage_day").fetchone()
    return None if low is None else (low, high)


def highest_number(db: sqlite3.Connection) -> int:
    """As `contracts.Store.highest_number`, by the keys."""
    used, claimed = db.execute("SELECT max(zone), (SELECT max(zone) FROM freshness) FROM usage_day").fetchone()
    return max(used or 0, claimed or 0)


def numbers(db: sqlite3.Connection, at_most: int) -> Iterator[int]:
    """Those up to a number that have usage, the highest first, each found by the key: not a row more is read."""
    found = db.execute("SELECT max(zone) FROM usage_day WHERE zone <= ?", [at_most]).fetchone()[0]
    while found is not None:
        yield found
        found = db.execute("SELECT max(zone) FROM usage_day WHERE zone < ?", [found]).fetchone()[0]


def extent(db: sqlite3.Connection, zone: int) -> Span | None:
    """Whole days, from the first with usage to the last, in whichever table; found by the keys."""
    ends = []
    for resolution, table in TABLES.items():
        first, last = db.execute(f"SELECT min(bucket), max(bucket) FROM {table} WHERE zone = ?", [zone]).fetchone()
        if first is not None:
            ends += [grid.day_start(first * resolution), grid.day_start(last * resolution) + Resolution.DAY]
    return Span(min(ends), max(ends)) if ends else None


def _disagreeing(*, of_day: bool) -> str:
    """SQL for (table, seconds of a bucket, zone, bucket) of whatever is not what the finer rows say."""
    parts = []
    for finer, coarser in _PAIRS:
        wheres = [_DAY_WHERE.format(Resolution.DAY // resolution) if of_day else "" for resolution in (finer, coarser)]
        fine = (
            f"SELECT zone, bucket / {coarser // finer} AS b, dimensions, {_SUMS} FROM {TABLES[finer]} {wheres[0]} "
            "GROUP BY 1, 2, 3"
        )
        coarse = f"SELECT zone, bucket AS b, dimensions, {_COUNTERS} FROM {TABLES[coarser]} {wheres[1]}"
        parts += [
            f"SELECT '{TABLES[coarser]}', {int(coarser)}, zone, b FROM ({one} EXCEPT {other})"
            for one, other in ((fine, coarse), (coarse, fine))
        ]
    return " UNION ".join([*parts, _beyond(of_day=of_day)])


def _beyond(*, of_day: bool) -> str:
    """SQL for the same of the days whose target hosts sum up to more than the day."""
    wheres = ("WHERE zone = :zone AND day = :day", "WHERE zone = :zone AND bucket = :day") if of_day else ("", "")
    less = ", ".join(f"-{c}" for c in usage.ROW_COUNTERS)
    rows = (
        f"SELECT zone, day, 1 AS is_host, {_COUNTERS} FROM usage_host {wheres[0]} "
        f"UNION ALL SELECT zone, bucket, 0, {less} FROM {TABLES[Resolution.DAY]} {wheres[1]}"
    )
    halves = ", ".join(sums.halves(counter, counter) for counter in usage.ROW_COUNTERS)
    is_beyond = " OR ".join(map(sums.is_positive, usage.ROW_COUNTERS))
    return (
        f"SELECT 'usage_host', {int(Resolution.DAY)}, zone, day FROM (SELECT zone, day, max(is_host) AS has_host, "
        f"{halves} FROM ({rows}) GROUP BY 1, 2) WHERE has_host AND ({is_beyond})"
    )


def _sentence(table: str, seconds: int, zone: int, bucket: int) -> str:
    what = "has more than the day" if table == "usage_host" else "is not the sum of the finer table"
    return f"zone {zone}, {grid.format_time(bucket * seconds)}: {table} {what}."


_DISAGREEING = _disagreeing(of_day=False)
_DISAGREEING_DAY = _disagreeing(of_day=True)
