"""Law 3: batches sent twice, lost, or cut short by a crash anywhere leave what one undisturbed run leaves."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.ingest.files import file
from bandmeter.store import MemoryStore, SqliteStore

pytestmark = pytest.mark.usefixtures("each_size")

TIMES_MORE = 20 if os.environ.get("BANDMETER_SOAK") else 1
USERS = [b"cust-acme-zone-res-session-%d", b"stranger%d", b"shop.test", b"cust-acme-zone-res"]


TABLES = ("source", "usage_5m", "usage_hour", "usage_day", "newest", "reject", "state")
WRITES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE)


class CrashError(Exception):
    """The process died."""


class UnreliableStore(SqliteStore):
    """Dies before, within or after the transaction, or hears of a batch twice, as `fate` says."""

    def __init__(self, path, fate):
        super().__init__(path)
        self.fate = fate

    def write(self, batch):
        event = next(self.fate, "fine")
        if event == "dies before":
            raise CrashError
        if event in TABLES:  # a write to this table fails
            self._writer.set_authorizer(lambda action, table, *_: int(action in WRITES and table == event))
            try:
                super().write(batch)
            except Exception as error:
                raise CrashError from error
            finally:
                self._writer.set_authorizer(None)
        number = super().write(batch)
        if event == "twice":
            assert super().write(batch) == 0
        if event == "dies after":
            raise CrashError
        return number


def log(seed, count):
    """Lines of several owners over an hour, some of which cannot be read."""
    draw = random.Random(seed)
    for i in range(count):
        user = draw.choice(USERS)
        user = user % (i % 7) if b"%" in user else user
        up = b"-1" if draw.random() < 0.1 else b"%d" % draw.randrange(10**6)
        yield b"%d.5\t%s\t%s\t%d\n" % (1_795_132_800 + draw.randrange(3600), user, up, i)


def zones(meter):
    meter.add_zone("acme", "res", "res")
    meter.add_zone("acme", "shop.test", "cdn", ["shop.test"])
    return meter


COLUMNS = ("time", "identity", "bytes_up", "bytes_down")
FATES = st.lists(st.sampled_from(["fine", "dies before", *TABLES, "dies after", "twice"]), max_size=25)


@settings(max_examples=8 * TIMES_MORE)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 700), batch_bytes=st.integers(4096, 20_000), fates=FATES)
def test_a_run_that_dies_again_and_again(make_meter, seed, count, batch_bytes, fates):
    """Begun anew each time, it ends where a run without trouble ends: sums, counts, rejects and position."""
    content = b"".join(log(seed, count))
    calm = zones(make_meter())
    calm.feed(content, "tsv", columns=COLUMNS)
    (expected,) = calm.store.sources()
    with tempfile.TemporaryDirectory() as folder:
        fate = iter(fates)
        for _ in range(len(fates) + 1):
            store = UnreliableStore(Path(folder) / "usage.db", fate)
            tried = zones(make_meter(store=store, batch_bytes=batch_bytes))
            with contextlib.closing(store):
                try:
                    tried.feed(content, "tsv", columns=COLUMNS)
                except CrashError:
                    assert store.check() == []
                    assert tried.outcomes().adds_up
                    continue
                assert tried.rows() == calm.rows()
                assert tried.rejects() == calm.rejects()
                (state,) = store.sources()
                assert (state.position, state.lines, state.head) == (expected.position, expected.lines, expected.head)
                assert state.outcomes._replace(received=0, duplicate=0) == expected.outcomes._replace(received=0)
                assert state.newest_ms == expected.newest_ms
                assert store.check() == []
                return
        raise AssertionError("it never ended")


def tunnels(seed, count):
    """Lines of long tunnels to some hosts, some of which cannot be read."""
    draw = random.Random(seed)
    for _ in range(count):
        duration = draw.choice(["0", "x", "300", "7200", "345600"])
        user = draw.choice([b"cust-acme-zone-res-session-1", b"shop.test", b"stranger"])
        columns = (b"%d" % (1_795_132_800 + draw.randrange(90_000)), user, b"h%d.test" % draw.randrange(9))
        yield b"\t".join([*columns, f"{duration}000".encode(), b"%d" % draw.randrange(10**6), b"7"]) + b"\n"


@settings(max_examples=15 * TIMES_MORE)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    is_spread=st.booleans(),
    bounds=st.tuples(st.integers(1, 20), st.sampled_from([1, 500, 3_000]), st.sampled_from([64, 256, 1_024])),
)
def test_a_batch_that_is_divided(make_meter, seed, count, is_spread, bounds):
    """What folds into too much is read in parts, and they add up to what it is as a whole."""
    content, now_ms = b"".join(tunnels(seed, count)), 1_796_000_000_000
    job = {"columns": ("time", "identity", "host", "duration_ms", "bytes_up", "bytes_down"), "spread": is_spread}
    whole, divided = (zones(make_meter(now_ms=now_ms)) for _ in range(2))
    whole.feed(content, "tsv", **job)
    with pytest.MonkeyPatch.context() as patch:
        for name, bound in zip(("BATCH_LINES", "BATCH_GROUPS", "UNDIVIDED_BYTES"), bounds, strict=True):
            patch.setattr(file, name, bound)
        divided.feed(content, "tsv", **job)
    assert divided.rows() == whole.rows()
    assert divided.rejects() == whole.rejects()
    assert divided.outcomes() == whole.outcomes()
    for side in Side:
        span = Span(0, 4_102_444_800)
        assert divided.store.read_hosts([1, 2], side, span, 999) == whole.store.read_hosts([1, 2], side, span, 999)


class ListingStore(MemoryStore):
    """Lists how many lines each batch had."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def write(self, batch):
        self.lines.append(batch.after.lines - batch.before.lines)
        return super().write(batch)


def test_short_lines_after_long_ones(make_meter, monkeypatch):
    """No batch has more than twice the lines that it should have, though the last one's lines said otherwise."""
    monkeypatch.setattr(file, "BATCH_LINES", 100)
    meter = zones(make_meter(store=ListingStore()))
    long, short = b"1795132800.5\tcust-acme-zone-res-%s\t1\t1\n" % (b"x" * 400), b"1795132800.5\tx\t1\t1\n"
    meter.feed(long * 1_000 + short * 20_000, "tsv", columns=COLUMNS)
    assert sum(meter.store.lines) == 21_000
    assert max(meter.store.lines) <= 200


def test_the_days_of_a_tunnels_host_are_groups_too(make_meter, monkeypatch):
    """A tunnel of ten days to a host of its own folds into little by the bucket, and into ten rows by the host."""
    line, columns = b"1796000000\tcust-acme-zone-res\t%d.test\t863990000\t1\t1\n", ("time", "identity", "host")
    content = b"".join(line % n for n in range(100))
    for bound, is_divided in ((2_881 + 1_100, False), (2_881 + 900, True)):
        monkeypatch.setattr(file, "BATCH_GROUPS", 2 * bound)
        meter = zones(make_meter(store=ListingStore(), now_ms=1_796_000_000_000))
        meter.feed(content, "tsv", columns=(*columns, "duration_ms", "bytes_up", "bytes_down"), spread=True)
        assert (len(meter.store.lines) > 1) == is_divided


@settings(max_examples=8 * TIMES_MORE)
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.floats(0, 1), max_size=8),
    batches=st.lists(st.integers(4096, 9000), min_size=9, max_size=9),
    count=st.integers(1, 400),
)
def test_a_file_seen_at_any_lengths(make_meter, seed, cuts, batches, count):
    """Grown, looked at, shrunk to an older copy, grown again, with other batches each time."""
    content = b"".join(log(seed, count))
    calm = zones(make_meter())
    calm.feed(content, "tsv", columns=COLUMNS)
    watched = zones(make_meter())
    longest = 0
    for cut, batch_bytes in zip([*cuts, 1.0], batches, strict=False):
        watched.batch_bytes = batch_bytes
        part = content[: int(cut * len(content))]
        report = watched.feed(part, "tsv", columns=COLUMNS)
        new = max(0, part.count(b"\n") - longest)
        longest += new
        assert report.outcomes.adds_up
        assert report.outcomes.received - report.outcomes.duplicate == new
    assert watched.rows() == calm.rows()
    assert watched.rejects() == calm.rejects()
    assert watched.outcomes()._replace(received=0, duplicate=0) == calm.outcomes()._replace(received=0)
    assert calm.outcomes().received == count
    assert calm.outcomes() != Outcomes()
