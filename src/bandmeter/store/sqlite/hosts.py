"""Usage by target host: so many hosts of each zone and day, the first that came.

What is not kept is not stored under another name either: an answer gives it as what is missing to the day's total, so
the two can never disagree.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from bandmeter.domain import usage
from bandmeter.domain.usage import HostRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from bandmeter.domain.contracts import Hosts
    from bandmeter.domain.grid import Span
    from bandmeter.domain.usage import Side

REMEMBERED_MAX = 500_000  # names of hosts in memory, some 100 bytes each; those used longest ago are read again
ROWS_A_STATEMENT = 100
WIDTH = len(usage.HOST_ROW)
KEY_WIDTH = 2
DAY_SECONDS = 86_400
DAY_BITS = 20  # days until the year 4840
_BYTES = [usage.HOST_ROW.index(name) for name in usage.HOST_ROW if "bytes" in name]


class HostTable:
    """Adds to the table, and remembers which hosts it keeps. Used inside of write transactions only."""

    def __init__(self, hosts_per_day: int) -> None:
        self._most = hosts_per_day
        self._kept: OrderedDict[int, set[str]] = OrderedDict()
        self._remembered = 0
        self._version = -1

    def forget(self) -> None:
        """After a transaction that was undone."""
        self._kept.clear()
        self._remembered = 0

    def add(self, db: sqlite3.Connection, hosts: Sequence[Hosts]) -> None:
        """Add a batch's hosts: those that are kept, and new ones while there is room, the largest first.

        What is kept is never let go of: so a host has all of its day's traffic, or none of it.
        """
        names = np.array([name for one in hosts for name in one.names], dtype=object)
        if not len(names) or not self._most:
            return
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:  # another process has written
            self.forget()
            self._version = version
        rows = np.concatenate([np.frombuffer(one.rows, dtype=np.int64) for one in hosts]).reshape(-1, WIDTH)
        keys = (rows[:, 0] << DAY_BITS) | (rows[:, 1] // DAY_SECONDS)
        order = np.argsort(keys, kind="stable")  # neighbours in the table are written one after another
        rows, names, keys = rows[order], names[order], keys[order]
        texts, sizes = names.tolist(), rows[:, _BYTES].sum(axis=1).tolist()
        edges = [0, *(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
        chosen: list[bool] = []
        for start, end in itertools.pairwise(edges):
            kept = self._kept_of(db, int(keys[start]))
            if len(kept) < self._most:
                self._let_in(kept, texts[start:end], sizes[start:end])
            chosen.extend(map(kept.__contains__, texts[start:end]))
        self._trim()
        _upsert(db, rows[chosen], names[chosen])

    def _kept_of(self, db: sqlite3.Connection, key: int) -> set[str]:
        """The names that a zone's day keeps."""
        kept = self._kept.get(key)
        if kept is None:
            found = db.execute(
                "SELECT host FROM usage_host WHERE zone = ? AND day = ?", divmod(key, 1 << DAY_BITS)
            ).fetchall()
            kept = self._kept[key] = {host for (host,) in found}
            self._remembered += len(kept)
        self._kept.move_to_end(key)
        return kept

    def _let_in(self, kept: set[str], names: Sequence[str], sizes: Sequence[int]) -> None:
        """Keep new names while there is room: those with the most bytes, of equal ones the first by name."""
        new: dict[str, int] = {}
        for name, size in zip(names, sizes, strict=True):
            if name not in kept:
                new[name] = new.get(name, 0) + size
        largest = sorted(new, key=lambda name: (-new[name], name))[: self._most - len(kept)]
        kept.update(largest)
        self._remembered += len(largest)

    def _trim(self) -> None:
        while self._remembered > REMEMBERED_MAX and len(self._kept) > 1:
            _, names = self._kept.popitem(last=False)
            self._remembered -= len(names)


def _upsert(db: sqlite3.Connection, rows: Any, names: Any) -> None:
    used = [i for i in range(KEY_WIDTH, WIDTH) if rows[:, i].any()]
    if not used:
        return
    rows[:, 1] //= DAY_SECONDS
    keys = rows[:, :KEY_WIDTH].T.tolist()
    counters = rows[:, used].T.tolist()
    values = list(zip(*keys, names.tolist(), *counters, strict=True))
    names_used = tuple(usage.HOST_ROW[i] for i in used)
    for start in range(0, len(values), ROWS_A_STATEMENT):
        part = values[start : start + ROWS_A_STATEMENT]
        db.execute(_statement(names_used, len(part)), [value for row in part for value in row])


@functools.lru_cache(maxsize=512)
def _statement(counters: tuple[str, ...], rows: int) -> str:
    columns = ("zone", "day", "host", *counters)
    values = ", ".join(["(" + ", ".join("?" * len(columns)) + ")"] * rows)
    sums = ", ".join(f"{c} = {c} + excluded.{c}" for c in counters)
    return f"INSERT INTO usage_host ({', '.join(columns)}) VALUES {values} ON CONFLICT DO UPDATE SET {sums}"


def read(db: sqlite3.Connection, zones: Sequence[int], side: Side, span: Span, limit: int) -> dict[int, list[HostRow]]:
    """As `contracts.Store.read_hosts`."""
    counters = usage.SIDE_COLUMNS[side]
    statement = (
        f"SELECT day * {DAY_SECONDS}, host, {', '.join(counters)} FROM usage_host "
        f"WHERE zone = ? AND day >= ? AND day < ? AND ({' OR '.join(counters)}) ORDER BY day, host LIMIT ?"
    )
    days = (-(-span.start // DAY_SECONDS), -(-span.end // DAY_SECONDS))
    found = {}
    for zone in zones:
        rows = [HostRow._make(row) for row in db.execute(statement, (zone, *days, limit))]
        if rows:
            found[zone] = rows
            limit -= len(rows)
    return found
