"""Stores: SQLite does what the dictionary does; a batch twice is a batch once; hours and days agree; sums never wrap."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.domain.contracts import Batch, Hosts, Reject, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import OTHERS, ROW, SIDED, UNSIDED, Outcomes, Side, pack
from bandmeter.store import MemoryStore, SqliteStore, sqlite

TIMES_MORE = 20 if os.environ.get("BANDMETER_SOAK") else 1
START = 1_795_132_800
EVER = Span(0, START + 10 * 86_400)
ZONES = [Zone(1, "acme", "res", "res"), Zone(2, "acme", "cdn", "cdn", side=Side.CLIENT)]
DIMENSIONS = [pack(), pack(scheme="https"), pack(scheme="http", network="res", ip_version="6"), pack(network="cdn")]
IDENTITIES = ["alice", "bob", "carol", OTHERS]
NEW = SourceState(0, "files", "jsonl", "/log", b"", 0, b"", 0, "", Outcomes(), None, None, "")

COUNTERS = st.lists(st.one_of(st.just(0), st.integers(0, 2**50)), min_size=8, max_size=8)
ROWS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, "alice", "bob", "carol", OTHERS]),
        st.sampled_from([UNSIDED, SIDED]),
        st.one_of(st.integers(0, 3), st.integers(0, 600)),  # 5-minute buckets, in two days
        st.sampled_from(DIMENSIONS),
        COUNTERS,
    ),
    max_size=12,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), ROWS, st.integers(1, 10_000)),
        st.tuples(st.just("again"), st.integers(0, 2)),
        st.tuples(st.just("stale"), st.integers(0, 2), ROWS),
        st.tuples(st.just("duplicates"), st.integers(0, 2), st.integers(0, 100)),
        st.tuples(st.just("number"), st.lists(st.sampled_from(IDENTITIES), min_size=1), st.integers(0, 1)),
        st.tuples(st.just("claim"), st.sampled_from(IDENTITIES), st.sampled_from(ZONES)),
        st.tuples(st.just("release"), st.sampled_from(IDENTITIES)),
        st.tuples(st.just("retry"), st.integers(0, 2), ROWS),
    ),
    min_size=1,
    max_size=14,
)


class Twins:
    """Two stores, to which the same is done, and which must answer the same."""

    def __init__(self, folder, bound=2):
        self.both = (MemoryStore(bound), SqliteStore(Path(folder) / "usage.db", bound))
        self.states: dict = {}
        self.last: dict = {}

    def do(self, name, *arguments):
        first, second = (getattr(store, name)(*arguments) for store in self.both)
        assert first == second
        return first

    def batch(self, source, rows, size):
        """The source's next batch, with rows of zones and of identities, which are numbered first."""
        before = self.states.get(source, NEW._replace(name=f"source{source}"))
        flat, newest = array("q"), {}
        for owner, side, bucket, dimensions, counters in rows:
            number = owner if isinstance(owner, int) else self.do("number_identities", [(owner, side)], 5)[owner, side]
            flat.extend((number, START + 300 * bucket, dimensions, *counters))
            newest[number] = max(newest.get(number, 0), (START + 300 * bucket) * 1000 + size % 300_000)
        rejects = [Reject(before.lines + 1, before.position, "time", "bad_time", "why", b"\xff" * (size % 3))] * (
            size % 2
        )
        after = before._replace(
            head=(before.head + b"h" * size)[:4096],
            position=before.position + size,
            check=size.to_bytes(4, "big"),
            lines=before.lines + 1 + len(rejects),
            outcomes=before.outcomes.plus(Outcomes(1 + len(rejects), counted=1, rejected=len(rejects))),
            newest_ms=max(newest.values(), default=before.newest_ms),
        )
        return Batch(before, after, flat, newest, rejects, 1_000 + size)

    def write(self, source, rows, size):
        batch = self.batch(source, rows, size)
        number = self.do("write", batch)
        assert number > 0
        (self.states[source],) = [s for s in self.both[0].sources() if s.number == number]
        self.last[source] = batch

    def retry(self, source, rows):
        """Some of its rejects count after all: once, and only while all of them are kept."""
        state = self.states[source]
        lines = [reject.line for reject in self.do("rejects", state.number, 2)]
        batch = self.batch(source, rows, 0)
        counted = Outcomes(counted=len(lines), rejected=-len(lines))
        batch = batch._replace(after=state._replace(outcomes=state.outcomes.plus(counted)), rejects=[])
        retried = {line: b"mended" * n for n, line in enumerate(lines)}
        assert self.do("write", batch._replace(retried=retried | {10**9: b""})) == 0
        assert self.do("write", batch._replace(retried=retried)) == state.number
        assert not lines or self.do("write", batch._replace(retried=retried)) == 0
        (self.states[source],) = [s for s in self.both[0].sources() if s.number == state.number]

    def step(self, name, *rest):
        if name == "write":
            self.write(*rest)
        elif name == "again" and rest[0] in self.last:
            assert self.do("write", self.last[rest[0]]) == 0
        elif name == "stale" and rest[0] in self.states:
            batch = self.batch(rest[0], rest[1], 7)
            late = batch.before._replace(position=batch.before.position + 1)
            assert self.do("write", batch._replace(before=late)) == 0
        elif name == "duplicates" and rest[0] in self.states:
            self.do("note_duplicates", self.states[rest[0]].number, rest[1])
            self.do("note_path", self.states[rest[0]].number, self.states[rest[0]].name, f"seen{rest[1]}.log")
            self.do("has_path", self.states[rest[0]].name, f"seen{rest[1]}.log")
        elif name == "number":
            self.do("number_identities", [(identity, SIDED) for identity in rest[0]], rest[1])
        elif name in {"claim", "release"}:
            self.do(name, *rest)
        elif name == "retry" and rest[0] in self.states:
            self.retry(*rest)

    def compare(self):
        """Every answer is the same, the resolutions agree, and law 2 holds for each source."""
        waiting = self.do("unattributed")
        numbers = [zone.number for zone in ZONES] + [u.number for u in waiting] + [99]
        self.do("committed_ms")
        self.do("freshness", numbers)
        for number in numbers:
            self.do("freshness", [number])
        for state in self.do("sources"):
            assert state.outcomes.adds_up
            self.do("rejects", state.number, 2)
            self.do("rejects", state.number, 2, 1)
            self.do("sources_with_rejects", state.name)
            for which in ("counted", "mended"):
                self.do("rejects", state.number, 9, 0, which)
            self.do("count_rejects", state.number, 2)
            for head in (state.head, state.head[:20], state.head + b"more", b"other"):
                self.do("find_sources", state.name, head)
                self.do("sources_of_head", head)
            self.do("cover", {state.name: 1_000 * state.number}, 5)
            self.do("note_path", state.number, f"taken {state.number}", "seen.log")
            self.do("coverage", 0, 10**9)
            self.do("find_sources", state.name, state.head)
            self.do("find_sources", f"taken {state.number}", state.head)
            self.do("note_path", state.number, state.name, state.path)
        for side in Side:
            found = [self.do("read", numbers, side, r, EVER) for r in Resolution]
            for number in numbers:
                total = self.do("total", number, side, EVER)
                for rows in found:
                    columns = rows.get(number)
                    assert tuple(total) == tuple(map(sum, columns[2:])) if columns else not any(total)
                assert total == self.do("total", number, side, Span(0, START + 300)).plus(
                    self.do("total", number, side, Span(START + 300, EVER.end))
                )
            for span in (Span(START + 3600, START + 86_400), Span(START, START), Span(START + 300, START + 900)):
                self.do("read", numbers, side, Resolution.FIVE_MINUTES, span)
                for number in numbers:
                    self.do("total", number, side, span)
        assert self.do("check") == []
        for store in self.both:
            known = list(store.numbers())  # and perhaps some whose rows hold nothing but zeros
            assert known == sorted(known, reverse=True)
            assert store.number_ends() == ((known[-1], known[0]) if known else None)
            for most in numbers:
                assert list(store.numbers(most)) == [number for number in known if number <= most]
            used = {number for number in numbers for side in Side if any(store.total(number, side, EVER))}
            assert used <= set(known) <= set(numbers)
            assert [number for number in numbers if store.extent(number)] == sorted(known, key=numbers.index)
            for number in known:
                extent = store.extent(number)
                whole = [store.total(number, side, EVER) for side in Side]
                assert [store.total(number, side, extent) for side in Side] == whole
                assert [store.check_day(number, day) for day in range(*extent, Resolution.DAY)] == [[]] * (
                    (extent.end - extent.start) // Resolution.DAY
                )

    def close(self):
        for store in self.both:
            store.close()


@settings(max_examples=100 * TIMES_MORE)
@given(steps=STEPS)
def test_sqlite_does_what_the_dictionary_does(steps):
    """Whatever is written, written again, written too late, numbered or claimed, in any order."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Twins(folder)) as twins:
        for step in steps:
            twins.step(*step)
        twins.compare()


@settings(max_examples=40 * TIMES_MORE)
@given(rows=ROWS, more=ROWS, zone=st.sampled_from(ZONES))
def test_a_claim_moves_the_history_and_what_comes_later(rows, more, zone):
    """Claimed before, between or after: the zone has the same in the end."""
    ends = []
    for when in (0, 1, 2):
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(Twins(folder, bound=9)) as twins:
            for i, part in enumerate((rows, more)):
                batch = twins.batch(0, part, 10 + i)  # attributed before the claim …
                if when == i:
                    for identity in ("alice", "bob"):
                        twins.do("claim", identity, zone)
                assert twins.do("write", batch)  # … and written after it
                (twins.states[0],) = twins.both[0].sources()
            if when == 2:
                for identity in ("alice", "bob"):
                    twins.do("claim", identity, zone)
            twins.compare()
            ends.append(
                [twins.do("read", [1, 2], side, r, EVER) for side in Side for r in Resolution]
                + [twins.do("freshness", [number]).newest_ms for number in (1, 2)]
            )
    assert ends[0] == ends[1] == ends[2]


@settings(max_examples=50 * TIMES_MORE)
@given(steps=STEPS, zones=st.lists(st.sampled_from([1, 2, 99]), unique=True))
def test_the_same_version_is_the_same_usage(steps, zones):
    """What a zone's usage rests on never changes without its version, and its version never goes back."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Twins(folder)) as twins:
        version, known = -1, None
        for step in steps:
            twins.step(*step)
            fresh = twins.do("freshness", zones)
            found = [twins.do("read", zones, side, r, EVER) for side in Side for r in Resolution], fresh.newest_ms
            assert fresh.version > version or (fresh.version == version and found == known)
            version, known = fresh.version, found


def test_another_zones_traffic_leaves_the_version_as_it_is(tmp_path):
    with contextlib.closing(Twins(tmp_path)) as twins:
        twins.write(0, [(1, "", 0, 0, [1] * 8)], 5)
        before = twins.do("freshness", [1])
        twins.write(1, [(2, "", 0, 0, [1] * 8)], 9)
        after = twins.do("freshness", [1])
    assert before == (1, START * 1000 + 5, 1_005)
    assert after == before._replace(committed_ms=1_009)


# ---------------------------------------------------------------- sums near 2^63

HALF = 2**62


def row(zone, bucket, value, dimensions=0):
    return (zone, START + 300 * bucket, dimensions, 1, 1, value, 0, 0, 0, 0, 0)


OVERFLOWS = {
    "of rows with one key in a batch": [[row(1, 0, HALF), row(1, 0, HALF)]],
    "of three of them, which would wrap to a positive number": [[row(1, 0, HALF * 2 - 1)] * 3],
    "of an hour in a batch": [[row(1, 0, HALF), row(1, 1, HALF)]],
    "of a day in a batch": [[row(1, 0, HALF), row(1, 100, HALF)]],
    "of 5 minutes, over batches": [[row(1, 0, HALF)], [row(1, 0, HALF)]],
    "of an hour, over batches": [[row(1, 0, HALF)], [row(1, 1, HALF)]],
    "of a day, over batches": [[row(1, 0, HALF)], [row(1, 100, HALF)]],
}


def everything(store):
    return (
        store.sources(),
        store.unattributed(),
        store.check(),
        store.freshness([1, 2, -1]).newest_ms,
        [store.read([1, 2, -1], side, r, EVER) for side in Side for r in Resolution],
    )


@pytest.mark.parametrize("name", OVERFLOWS)
def test_a_sum_beyond_64_bits_fails_loudly_and_changes_nothing(tmp_path, name):
    store = SqliteStore(tmp_path / "usage.db")
    state = NEW
    *fine, last = OVERFLOWS[name]
    for rows in [[row(2, 0, 5)], *fine]:
        after = state._replace(position=state.position + 1, head=b"h", outcomes=state.outcomes.plus(Outcomes(1, 1)))
        assert store.write(Batch(state, after, array("q", sum(rows, ())), {1: 1}, [], 5)) == 1
        (state,) = store.sources()
    before = everything(store)
    after = state._replace(position=state.position + 1)
    with pytest.raises((BandmeterError, sqlite3.Error, OverflowError)):
        store.write(Batch(state, after, array("q", sum(last, ())), {1: 2}, [], 6))
    assert everything(store) == before
    assert store.write(Batch(state, after, array("q", row(1, 200, 1)), {1: 2}, [], 6)) == 1  # and it goes on
    assert store.check() == []
    store.close()


def test_a_claim_beyond_64_bits_fails_loudly_and_changes_nothing(tmp_path):
    store = SqliteStore(tmp_path / "usage.db")
    number = store.number_identities([("alice", SIDED)], 1)["alice", SIDED]
    rows = array("q", (*row(1, 0, HALF, pack(network="res")), *row(number, 3, HALF)))
    store.write(Batch(NEW, NEW._replace(position=1), rows, {1: 1, number: 1}, [], 5))
    before = everything(store)
    with pytest.raises((BandmeterError, sqlite3.Error, OverflowError)):
        store.claim("alice", ZONES[0])
    assert everything(store) == before
    store.close()


def test_the_largest_sum_is_kept(tmp_path):
    store = SqliteStore(tmp_path / "usage.db")
    rows = array("q", (*row(1, 0, HALF), *row(1, 0, HALF - 1)))
    store.write(Batch(NEW, NEW._replace(position=1), rows, {1: 1}, [], 5))
    assert [store.read([1], Side.TARGET, r, EVER)[1].bytes_up for r in Resolution] == [[2**63 - 1]] * 3
    assert store.total(1, Side.TARGET, EVER).bytes_up == 2**63 - 1
    store.close()


# ---------------------------------------------------------------- a disk that fails


def test_a_full_disk_changes_nothing(tmp_path):
    """The batch that did not fit is not counted, in no part; and there is room again, it is."""
    store = SqliteStore(tmp_path / "usage.db")
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
    rows = array("q", (n for i in range(20_000) for n in row(1 + i % 7, i, i)))
    batch = Batch(NEW, NEW._replace(position=1), rows, {1: 1}, [], 5)
    before = everything(store)
    with pytest.raises(BandmeterError, match="full"):
        store.write(batch)
    assert everything(store) == before
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.write(batch) == 1
    assert store.check() == []
    store.close()


def test_check_finds_what_is_wrong(tmp_path):
    """A store whose hours, or days, or 5 minutes were changed by somebody else says so."""
    assert len(ROW) == 11
    for table in ("usage_5m", "usage_hour", "usage_day"):
        for change in ("SET client_bytes_up = client_bytes_up + 1", "SET dimensions = dimensions + 1", None):
            store = SqliteStore(tmp_path / f"{table}{change}.db")
            rows = array("q", (*row(1, 0, 5), *row(1, 20, 6), *row(2, 0, 7)))
            store.write(Batch(NEW, NEW._replace(position=1), rows, {1: 1}, [], 5))
            assert store.check() == []
            where = "WHERE zone = 1 AND bucket = (SELECT min(bucket) FROM " + table + ")"
            store._writer.execute(f"UPDATE {table} {change} {where}" if change else f"DELETE FROM {table} {where}")
            found = store.check()
            assert len(found) > 0, (table, change)
            assert set(found) == set(store.check_day(1, START)), (table, change)
            assert store.check_day(2, START) == store.check_day(1, START + 86_400) == []
            store.close()


def test_check_finds_hosts_that_have_more_than_their_day(tmp_path):
    """Fewer is right: a day keeps only so many of them."""
    store = SqliteStore(tmp_path / "usage.db")
    hosts = Hosts(
        ["a.test", "b.test"], array("q", (*row(1, 0, 3)[:1], START, *row(1, 0, 3)[3:], 1, START, *row(1, 0, 1)[3:]))
    )
    rows = array("q", (*row(1, 0, 3), *row(1, 20, 3)))
    store.write(Batch(NEW, NEW._replace(position=1), rows, {1: 1}, [], 5, hosts=hosts))
    assert store.check() == store.check_day(1, START) == []
    store._writer.execute("UPDATE usage_host SET target_bytes_up = 4 WHERE host = 'b.test'")
    (sentence,) = store.check()
    assert "usage_host has more than the day" in sentence
    assert store.check_day(1, START) == [sentence]
    store._writer.execute("UPDATE usage_host SET day = day + 1, target_bytes_up = 0")
    assert store.check() == store.check_day(1, START + 86_400) != []
    store.close()


def test_check_finds_what_cancels_out_within_a_day(tmp_path):
    """Traffic that stands in another hour than its 5 minutes do, while the day is right."""
    store = SqliteStore(tmp_path / "usage.db")
    store.write(Batch(NEW, NEW._replace(position=1), array("q", (*row(1, 0, 5), *row(2, 0, 5))), {1: 1}, [], 5))
    store._writer.execute("UPDATE usage_hour SET bucket = bucket + 1 WHERE zone = 1")
    assert len(store.check()) == len(store.check_day(1, START)) == 2
    assert store.check_day(2, START) == []
    store.close()


def test_a_file_that_is_moved_while_it_is_used_takes_nothing(tmp_path):
    """Whoever opens the folder next would not find what was counted; and no new file answers 0."""
    with contextlib.closing(Twins(tmp_path)) as twins:
        twins.write(0, [(1, "", 0, 0, [1] * 8)], 5)
        batch, store = twins.batch(0, [(1, "", 0, 0, [1] * 8)], 5), twins.both[1]
        (tmp_path / "usage.db").rename(tmp_path / "elsewhere.db")
        with pytest.raises(BandmeterError, match="moved or deleted"):
            store.write(batch)
        with pytest.raises(BandmeterError, match="moved or deleted"):
            store.committed_ms()  # by which /readyz is asked
        with ThreadPoolExecutor() as pool, pytest.raises(BandmeterError):
            pool.submit(store.freshness, [1]).result()
        assert not (tmp_path / "usage.db").exists()
        (tmp_path / "elsewhere.db").rename(tmp_path / "usage.db")
        assert store.write(batch)


def test_the_journal_shrinks_again(tmp_path, monkeypatch):
    """It keeps all that is written while a backup reads, and must not keep the disk for ever."""
    monkeypatch.setattr(sqlite, "JOURNAL_BYTES", 100_000)
    store, state = SqliteStore(tmp_path / "usage.db"), NEW
    journal = tmp_path / "usage.db-wal"

    def write(state):
        rows = array("q", (n for i in range(60_000) for n in row(1, i, 1)))
        after = state._replace(position=state.position + 1, head=b"h")
        assert store.write(Batch(state, after, rows, {1: 1}, [], 5)) == 1
        return after._replace(number=1)

    with store.at_one_moment():
        for _ in range(4):
            state = write(state)
        assert journal.stat().st_size > 5_000_000
    for _ in range(3):  # one has it read to its end, the next one starts anew
        store.note_duplicates(1, 1)
    assert journal.stat().st_size <= 100_000
    store.close()


def test_what_is_read_at_one_moment_is_of_one_moment(tmp_path):
    """Whoever writes meanwhile is not held up, and not seen."""
    store = SqliteStore(tmp_path / "usage.db")
    states = [NEW]
    for position in (1, 2):
        after = states[-1]._replace(position=position, head=b"h")
        batch = Batch(states[-1], after, array("q", row(1, 0, 5)), {1: 1}, [], 5)
        with store.at_one_moment():
            before = everything(store), list(store.numbers())
            assert store.write(batch) == 1
            assert (everything(store), list(store.numbers())) == before
        states = store.sources()
        assert states[0].position == position
    assert store.total(1, Side.TARGET, EVER).requests == 2
    store.close()
