"""The store as a dictionary: the reference that the others are tested against. It keeps nothing on disk."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from operator import add
from typing import TYPE_CHECKING

from bandmeter.domain import usage
from bandmeter.domain.contracts import (
    STRETCHES_MAX,
    Batch,
    Freshness,
    Receipt,
    Reject,
    SourceState,
    Unattributed,
    overlaps,
)
from bandmeter.domain.grid import Resolution, Span, floor_to
from bandmeter.domain.usage import (
    SIDED,
    UNSIDED,
    ZERO,
    Columns,
    Counters,
    HostRow,
    Measure,
    Outcomes,
    Row,
    Selection,
    Side,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bandmeter.domain.contracts import Rejects
    from bandmeter.domain.tenancy import Zone

WIDTH, HOST_WIDTH = len(usage.ROW), len(usage.HOST_ROW)
SLICES = {Side.TARGET: slice(0, 4), Side.CLIENT: slice(4, 8)}


class MemoryStore:
    """Implements `contracts.Store` in the plainest way there is."""

    def __init__(self, identities_per_day: int = 10_000, hosts_per_day: int = 100) -> None:
        self.identities_per_day = identities_per_day
        self.hosts_per_day = hosts_per_day
        self._hosts: dict[tuple[int, int], dict[str, list[int]]] = defaultdict(dict)
        self._lock = threading.RLock()
        self._usage: dict[Resolution, dict[tuple[int, int, int], list[int]]] = {r: {} for r in Resolution}
        self._sources: dict[int, SourceState] = {}
        self._rejects: dict[int, list[Reject]] = defaultdict(list)
        self._newest: dict[int, int] = {}
        self._changes: dict[int, int] = defaultdict(int)
        self._identities: dict[tuple[str, str], int] = {}
        self._identities_of_day: dict[int, int] = defaultdict(int)
        self._claims: dict[int, tuple[int, Side, str]] = {}
        self._receipts: dict[bytes, Receipt] = {}
        self._counted: dict[int, list[tuple[Reject, bytes]]] = defaultdict(list)
        self._covered: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._committed_ms: int | None = None

    def find_sources(self, name: str, head: bytes) -> list[SourceState]:
        return [s for s in self._sources.values() if s.name == name and overlaps(s.head, head)]

    def has_path(self, name: str, path: str) -> bool:
        return any((s.name, s.path) == (name, path) for s in self._sources.values())

    def sources_of_head(self, head: bytes) -> list[SourceState]:
        return [s for s in self._sources.values() if overlaps(s.head, head)]

    def write(self, batch: Batch) -> int:
        return next(iter(self.write_together([batch])), 0)

    def write_together(self, batches: Sequence[Batch]) -> list[int]:
        with self._lock:
            for batch in batches:
                before = self._sources.get(batch.before.number)
                if (before.position if before else 0) != batch.before.position or self._has_newcomer(batch):
                    return []
                if not batch.retried.keys() <= {reject.line for reject in self._rejects[batch.before.number]}:
                    return []
            self._add_hosts(batches)
            for owner in {self._owner(zone) for batch in batches for zone in (*batch.newest_ms, *batch.rows[::WIDTH])}:
                self._changes[owner] += 1
            return [self._write(batch) for batch in batches]

    def _write(self, batch: Batch) -> int:
        before = self._sources.get(batch.before.number)
        number = batch.before.number or len(self._sources) + 1
        outcomes = batch.after.outcomes
        if before:
            outcomes = before.outcomes.plus(batch.after.outcomes.minus(batch.before.outcomes))
        self._sources[number] = batch.after._replace(
            number=number,
            outcomes=outcomes,
            committed_ms=batch.committed_ms,
        )
        for reject in self._rejects[number]:
            if reject.line in batch.retried:
                self._counted[number].append((reject, batch.retried[reject.line]))
        kept = [reject for reject in self._rejects[number] if reject.line not in batch.retried]
        self._rejects[number] = [*kept, *batch.rejects]
        for start in range(0, len(batch.rows), WIDTH):
            self._add(tuple(batch.rows[start : start + WIDTH]))
        for zone, newest_ms in batch.newest_ms.items():
            owner = self._owner(zone)
            self._newest[owner] = max(newest_ms, self._newest.get(owner, newest_ms))
        self._receipts |= {receipt.key: receipt for receipt in batch.receipts}
        self._committed_ms = batch.committed_ms
        return number

    def receipt(self, key: bytes) -> Receipt | None:
        return self._receipts.get(key)

    def _add_hosts(self, batches: Sequence[Batch]) -> None:
        sums: dict[tuple[int, int, str], list[int]] = {}
        for names, rows in (batch.hosts for batch in batches):
            for n, name in enumerate(names):
                zone, day, *counters = rows[n * HOST_WIDTH : (n + 1) * HOST_WIDTH]
                total = sums.setdefault((zone, day, name), [0] * 8)
                total[:] = map(add, total, counters)
        largest_first = sorted(sums.items(), key=lambda item: (-sum(item[1][2:4] + item[1][6:8]), item[0]))
        for (zone, day, name), counters in largest_first:
            kept = self._hosts[zone, day]
            if name in kept or len(kept) < self.hosts_per_day:
                kept[name] = list(map(add, kept.get(name, [0] * 8), counters))

    def read_hosts(self, zones: Sequence[int], side: Side, span: Span, limit: int) -> dict[int, list[HostRow]]:
        found: dict[int, list[HostRow]] = {}
        for wanted in zones:
            rows = [
                HostRow(day, name, *counters[SLICES[side]])
                for (zone, day), kept in sorted(self._hosts.items())
                for name, counters in sorted(kept.items())
                if zone == wanted and span.holds(day) and any(counters[SLICES[side]])
            ][: limit - sum(map(len, found.values()))]
            if rows:
                found[wanted] = rows
        return found

    def _has_newcomer(self, batch: Batch) -> bool:
        known = self.find_sources(batch.before.name, batch.after.head)
        return not batch.before.number and any(s.number > batch.considered for s in known)

    def _owner(self, zone: int) -> int:
        return self._claims[zone][0] if zone in self._claims else zone

    def _add(self, row: tuple[int, ...]) -> None:
        if row[0] in self._claims:
            row = usage.claimed(row, self._identity(row[0])[1], *self._claims[row[0]])
        zone, bucket, dimensions, *counters = row
        for resolution, table in self._usage.items():
            sums = table.setdefault((zone, floor_to(bucket, resolution), dimensions), [0] * 8)
            for i, value in enumerate(counters):
                sums[i] += value

    def last_expiry_s(self) -> int | None:
        expiries = (receipt.expires_s for receipt in self._receipts.values())
        return max((expiry for expiry in expiries if expiry is not None), default=None)

    def cover(self, heard_ms: Mapping[str, int], gap_ms: int) -> None:
        with self._lock:
            for name, ms in heard_ms.items():
                known = self._covered[name]
                known[:] = [stretch for stretch in known if stretch[0] <= ms]
                if known and ms - known[-1][1] <= gap_ms:
                    known[-1] = (known[-1][0], max(ms, known[-1][1]))
                else:
                    known.append((ms, ms))
                del known[:-STRETCHES_MAX]

    def coverage(self, start_ms: int, end_ms: int) -> dict[str, list[tuple[int, int]]]:
        found = {
            name: [s for s in known if s[1] >= start_ms and s[0] < end_ms] for name, known in self._covered.items()
        }
        return {name: stretches for name, stretches in found.items() if stretches}

    def touch(self) -> None:
        pass

    def note_duplicates(self, source: int, lines: int) -> None:
        with self._lock:
            state = self._sources[source]
            outcomes = state.outcomes.plus(Outcomes(received=lines, duplicate=lines))
            self._sources[source] = state._replace(outcomes=outcomes)

    def note_path(self, source: int, name: str, path: str) -> None:
        with self._lock:
            before = self._sources[source].name
            self._sources[source] = self._sources[source]._replace(name=name, path=path)
            if before not in {state.name for state in self._sources.values()}:
                moved = dict(self._covered[name]) | dict(self._covered.pop(before, []))
                self._covered[name] = sorted(moved.items())

    def number_identities(self, wanted: Sequence[tuple[str, str]], day: int) -> dict[tuple[str, str], int]:
        with self._lock:
            return {key: self._number(key, day) for key in wanted}

    def _number(self, key: tuple[str, str], day: int) -> int:
        if key not in self._identities:
            if self._identities_of_day[day] >= self.identities_per_day:
                key = (usage.OTHERS, key[1])
            elif key[0] != usage.OTHERS:
                self._identities_of_day[day] += 1
        return self._identities.setdefault(key, -len(self._identities) - 1)

    def _identity(self, number: int) -> tuple[str, str]:
        return next(key for key, n in self._identities.items() if n == number)

    def read(self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span) -> dict[int, Columns]:
        with self._lock:
            found: dict[int, list[Row]] = {}
            for (zone, bucket, dimensions), counters in sorted(self._usage[resolution].items()):
                one_side = counters[SLICES[side]]
                if zone in zones and span.holds(bucket) and any(one_side):
                    found.setdefault(zone, []).append(Row(bucket, dimensions, *one_side))
            return {zone: Columns._make(map(list, zip(*rows, strict=True))) for zone, rows in found.items()}

    def read_series(
        self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span, selection: Selection
    ) -> dict[int, tuple[list[int], list[int]]]:
        measure, mask, bits = selection
        found = {}
        for zone, columns in self.read(zones, side, resolution, span).items():
            rows = [row for row in columns.rows if row.dimensions & mask == bits]
            values = [row.requests if measure is Measure.REQUESTS else row.bytes_up + row.bytes_down for row in rows]
            if rows:
                found[zone] = ([row.bucket for row in rows], values)
        return found

    def total(self, zone: int, side: Side, span: Span) -> Counters:
        columns = self.read([zone], side, Resolution.FIVE_MINUTES, span).get(zone, Columns())
        return Counters(*map(sum, columns[2:]))

    def freshness(self, zones: Sequence[int]) -> Freshness:
        with self._lock:
            version = sum(self._changes.get(zone, 0) for zone in zones)
            newest_ms = max((self._newest[z] for z in zones if z in self._newest), default=None)
            return Freshness(version, newest_ms, self._committed_ms)

    def committed_ms(self) -> int | None:
        return self._committed_ms

    def sources(self) -> list[SourceState]:
        return list(self._sources.values())

    def rejects(self, source: int, limit: int, after: int = 0, which: Rejects = "kept") -> list[Reject]:
        counted = self._counted[source]
        found = {
            "kept": self._rejects[source],
            "counted": [reject for reject, _ in counted],
            "mended": [reject._replace(text=text) for reject, text in counted if text],
        }[which]
        return sorted(reject for reject in found if reject.line > after)[:limit]

    def count_rejects(self, source: int, lines: int) -> int:
        return sum(reject.line <= lines for reject in self._rejects[source])

    def sources_with_rejects(self, name: str) -> list[SourceState]:
        named = [(number, source) for number, source in self._sources.items() if source.name == name]
        return [source for number, source in named if self._rejects[number] or self._counted[number]]

    def unattributed(self) -> list[Unattributed]:
        waiting = []
        everything = Span(-(2**62), 2**62)
        for (identity, side), number in self._identities.items():
            target, client = (self.total(number, s, everything) for s in (Side.TARGET, Side.CLIENT))
            if number not in self._claims:
                waiting.append(Unattributed(number, identity, side, target, client, self._newest.get(number)))
        return sorted(waiting, key=lambda u: (-sum(u.target[2:] + u.client[2:]), u.identity, u.side))

    def claim(self, identity: str, zone: Zone) -> Counters:
        with self._lock:
            moved = ZERO
            for side in (UNSIDED, SIDED):
                number = self._identities.setdefault((identity, side), -len(self._identities) - 1)
                self._claims[number] = (zone.number, zone.side, zone.network)
                rows = [(k, v) for k, v in self._usage[Resolution.FIVE_MINUTES].items() if k[0] == number]
                for table in self._usage.values():
                    for key in [k for k in table if k[0] == number]:
                        del table[key]
                for key, counters in rows:
                    self._add((*key, *counters))
                    row = usage.claimed((*key, *counters), side, *self._claims[number])
                    moved = moved.plus(Counters(*row[3:][SLICES[zone.side]]))
                newest_ms = self._newest.pop(number, None)
                if newest_ms is not None:
                    self._newest[zone.number] = max(newest_ms, self._newest.get(zone.number, newest_ms))
                self._changes[zone.number] += self._changes.pop(number, 0) > 0
            self._changes[zone.number] += 1
            return moved

    def release(self, identity: str) -> None:
        with self._lock:
            for side in (UNSIDED, SIDED):
                self._claims.pop(self._identities.get((identity, side), 0), None)

    def highest_number(self) -> int:
        return max([0, *self.numbers(), *(zone for zone, changes in self._changes.items() if changes)])

    def number_ends(self) -> tuple[int, int] | None:
        known = list(self.numbers())
        return (known[-1], known[0]) if known else None

    def numbers(self, at_most: int = 2**63 - 1) -> Iterator[int]:
        with self._lock:
            return iter(sorted({zone for zone, _, _ in self._usage[Resolution.DAY] if zone <= at_most}, reverse=True))

    def extent(self, number: int) -> Span | None:
        with self._lock:
            days = [floor_to(b, Resolution.DAY) for table in self._usage.values() for z, b, _ in table if z == number]
            return Span(min(days), max(days) + Resolution.DAY) if days else None

    def check(self) -> list[str]:
        return []  # it derives nothing that could disagree

    def check_day(self, number: int, day: int) -> list[str]:  # noqa: ARG002 - the same
        return []

    @contextlib.contextmanager
    def at_one_moment(self) -> Iterator[None]:
        with self._lock:
            yield

    def close(self) -> None:
        pass
