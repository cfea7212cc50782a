"""Usage by target host: hosts and `other` are the day's total, to the byte; and a host that is named is exact.

However a log is cut, whatever the bound, whoever else writes, and whatever fails in between.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sqlite3
import tempfile
from array import array
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandmeter.domain.contracts import Batch, Hosts, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import OTHER, TARGETS_MAX, TargetsQuestion
from bandmeter.domain.tenancy import Account, Zone, ZoneStatus
from bandmeter.domain.usage import Columns, Outcomes, Side
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore, SqliteStore

pytestmark = pytest.mark.usefixtures("each_size")

TIMES_MORE = 20 if os.environ.get("BANDMETER_SOAK") else 1
DAY = int(Resolution.DAY)
START = 1_795_132_800  # a midnight
SPAN = Span(START - DAY, START + 3 * DAY)
EVER = 10**9  # rows, more than there are
NEW = SourceState(0, "files", "jsonl", "/log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
LONGEST = "x" * 249 + ".com"
# As a record may spell a host, and the name under which its traffic is told; OTHER: it is told under none.
SPELLINGS = {
    "a.test": "a.test",
    "A.Test:443": "a.test",
    "a.test.": "a.test",
    "b.test:80": "b.test",
    "c_1.test": "c_1.test",
    "localhost": "localhost",
    LONGEST: LONGEST,
    LONGEST + ":8443": LONGEST,
    "x" + LONGEST: OTHER,
    "[2001:DB8::1]:443": "[2001:db8::1]",
    "[2001:db8::1]": "[2001:db8::1]",
    "2001:db8::1": "[2001:db8::1]",
    "192.0.2.7": "192.0.2.7",
    "192.0.2.7:8080": "192.0.2.7",
    "BÜCHER.example": "bücher.example",
    "ü" * 127: OTHER,  # 254 bytes
    "xn--bcher-kva.example:443": "xn--bcher-kva.example",
    "-": OTHER,
    "": OTHER,
    ":443": OTHER,
    "...": OTHER,
    "[]": OTHER,
    "a b": OTHER,
    "<script>": OTHER,
    "=1+1": OTHER,
    "user@a.test": OTHER,
    "a.test/path": OTHER,
    "a\nb": OTHER,
    "a\u0000": OTHER,
    "\u001b[2J": OTHER,
    "other": OTHER,
    "OTHER:443": OTHER,
    None: OTHER,
}
OWNERS = {"cust-acme-zone-res": 1, "cust-acme-zone-res-session-9": 1, "SHOP.test": 2, "nobody": None}
ZONES = [
    Zone(1, "acme", "res", "res"),
    Zone(2, "acme", "shop", "cdn", side=Side.CLIENT, identities=("shop.test",)),
    Zone(3, "acme", "idle", status=ZoneStatus.SUSPENDED),
]


class Catalog:
    """An account with its zones."""

    def __init__(self, zones=ZONES):
        self._zones = list(zones)

    def account(self, account):
        return Account(account)

    def zones(self, account):
        return self._zones

    def zone(self, account, name):
        return next((zone for zone in self._zones if zone.name == name), None)


def told(store, side, zones=ZONES, names=None):
    """What the question is answered: {zone number: {(day, host): counters}}."""
    answer = Reports(Catalog(zones), store, {}).answer(TargetsQuestion("acme", SPAN, names, side))
    found = {}
    for zone, rows in answer.zones:
        assert rows == sorted(rows)
        found[zone.number] = {(row.day, row.host): tuple(row[2:]) for row in rows}
        assert len(found[zone.number]) == len(rows)  # no name twice
    return found


# ---------------------------------------------------------------- against a dictionary

RECORDS = st.fixed_dictionaries(
    {
        "time": st.one_of(
            st.integers(START - DAY, START + 2 * DAY - 1),
            st.sampled_from([f"{START - 1}.9999", START, f"{START + DAY - 1}.9995", START + DAY]),
        ),
        "identity": st.sampled_from(list(OWNERS)),
        "host": st.sampled_from(list(SPELLINGS)),
        "bytes_up": st.integers(0, 2**40),
        "bytes_down": st.integers(0, 9),
    },
    optional={
        "client_bytes_up": st.integers(0, 2**40),
        "requests": st.integers(0, 3),
        "status": st.sampled_from([200, 404, 503]),
        "scheme": st.sampled_from(["http", "https"]),
    },
)


def as_line(record):
    if record["host"] is None:
        record = {name: value for name, value in record.items() if name != "host"}
    if "client_bytes_up" in record:
        record = record | {"client_bytes_down": 1}
    return json.dumps(record).encode() + b"\n"


def brute_force(records):
    """{(zone, side, day, host): counters} and {(zone, side, day): counters}, a record at a time."""
    hosts, totals = {}, {}
    for record in records:
        zone = OWNERS[record["identity"]]
        if zone is None:
            continue
        day = int(str(record["time"]).partition(".")[0]) // DAY * DAY
        requests = record.get("requests", 1)
        success = requests if record.get("status") in (200, 404) else 0
        plain = (requests, success, record["bytes_up"], record["bytes_down"])
        client = (requests, success, record.get("client_bytes_up"), 1) if "client_bytes_up" in record else None
        sides = {Side.TARGET: plain} if zone == 1 else {Side.CLIENT: plain}
        if client:
            sides[Side.CLIENT] = client  # by name: it wins
        for side, counters in sides.items():
            for sums, key in (
                (hosts, (zone, side, day, SPELLINGS[record["host"]])),
                (totals, (zone, side, day)),
            ):
                sums[key] = tuple(a + b for a, b in zip(sums.get(key, (0,) * 4), counters, strict=True))
    return hosts, {key: counters for key, counters in totals.items() if any(counters)}


def is_right(store, records, bound):
    """Days add up; what is named is what its records say; and below the bound each is named."""
    hosts, totals = brute_force(records)
    distinct = {}
    for (zone, _, day, host), counters in hosts.items():
        if any(counters):
            distinct.setdefault((zone, day), set()).add(host)
    named = {}
    for side in Side:
        for zone, rows in told(store, side).items():
            sums = {}
            for (day, host), counters in rows.items():
                assert any(counters)
                sums[day] = tuple(a + b for a, b in zip(sums.get(day, (0,) * 4), counters, strict=True))
                if host != OTHER:
                    named.setdefault((zone, day), set()).add(host)
                    assert counters == hosts[zone, side, day, host]
            assert sums == {day: total for (z, s, day), total in totals.items() if (z, s) == (zone, side)}
    for key, names in distinct.items():
        assert len(named.get(key, ())) <= bound
        if len(names) <= bound:
            assert named.get(key, set()) == names - {OTHER}
    return True


def feed(meter, lines, cuts, draw):
    """The lines in several files, in any order."""
    edges = sorted({0, len(lines), *(int(cut * len(lines)) for cut in cuts)})
    pieces = [b"".join(lines[a:b]) for a, b in itertools.pairwise(edges)]
    draw.shuffle(pieces)
    for i, piece in enumerate(pieces):
        meter.feed(piece, source_name=str(i))


@settings(max_examples=15 * TIMES_MORE)
@given(
    records=st.lists(RECORDS, min_size=1, max_size=25),
    copies=st.integers(1, 8),
    bound=st.sampled_from([0, 1, 2, 3, 5, 100]),
    batch_bytes=st.integers(4096, 12_000),
    cuts=st.lists(st.floats(0, 1), max_size=3),
)
def test_hosts_are_what_their_records_are(make_meter, records, copies, bound, batch_bytes, cuts):  # noqa: PLR0917
    """Against a dictionary; and both stores keep the same of the same batches, also when the bound is reached."""
    draw = random.Random(batch_bytes)
    many = records * copies
    draw.shuffle(many)
    lines = [as_line(record) for record in many]
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        for store in (MemoryStore(hosts_per_day=bound), SqliteStore(Path(folder) / "usage.db", hosts_per_day=bound)):
            with contextlib.closing(store):
                meter = make_meter(store=store, batch_bytes=batch_bytes)
                meter.zones = list(ZONES)
                feed(meter, lines, cuts, random.Random(batch_bytes))
                assert is_right(store, many, bound)
                assert store.check() == []
                kept.append([store.read_hosts([1, 2, 3], side, SPAN, EVER) for side in Side])
    assert kept[0] == kept[1]


@settings(max_examples=20 * TIMES_MORE)
@given(
    records=st.lists(RECORDS, min_size=1, max_size=25),
    durations=st.lists(st.integers(0, 2 * DAY), min_size=25, max_size=25),
    side=st.sampled_from([None, *Side]),
    spread=st.booleans(),
    adjust=st.sampled_from([0, 70, -70]),
)
def test_a_host_has_what_a_zone_of_its_own_has(make_meter, records, durations, side, spread, adjust):  # noqa: PLR0917
    """However a source is read: spread over days, adjusted, for one side only."""
    job = {"side": side, "spread": spread, "header_adjust_bytes": adjust}
    records = [r | {"duration": d} for r, d in zip(records, durations, strict=False) if OWNERS[r["identity"]]]
    whole, apart = make_meter(store=MemoryStore()), make_meter(store=MemoryStore())
    whole.zones = list(ZONES)
    whole.feed(b"".join(map(as_line, records)), **job)
    own = {
        key: apart.add_zone("acme", f"{key[1]}-{n}", "res" if key[1] == 1 else "cdn")
        for n, key in enumerate(itertools.product(sorted(set(SPELLINGS.values())), (1, 2)))
    }
    lines = []
    for record in records:
        zone = own[SPELLINGS[record["host"]], OWNERS[record["identity"]]]
        named = {name: value for name, value in record.items() if name != "identity"}
        lines.append(as_line(named | {"account": "acme", "zone": zone.name}))
    apart.feed(b"".join(lines), **job)
    for each in Side:
        found = {
            (zone, *key): counters for zone, rows in told(whole.store, each).items() for key, counters in rows.items()
        }
        expected = {}
        for (name, owner), zone in own.items():
            days = apart.store.read([zone.number], each, Resolution.DAY, SPAN).get(zone.number, Columns())
            for day, _, *counters in days.rows:
                key = (owner, day, name)
                expected[key] = tuple(a + b for a, b in zip(expected.get(key, (0,) * 4), counters, strict=True))
        assert found == expected


def test_every_spelling_in_one_log(meter):
    """Each that means a host, under its name; all the others together."""
    record = {"time": START, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 0}
    meter.feed(b"".join(as_line(record | {"host": host}) for host in SPELLINGS))
    expected = {}
    for name in SPELLINGS.values():
        expected[START, name] = (expected.get((START, name), (0,))[0] + 1,)
    found = told(meter.store, Side.TARGET, meter.zones)[1]
    assert {key: (counters[0],) for key, counters in found.items()} == expected


def test_what_waits_is_told_under_no_host(meter):
    """Traffic of nobody is in no breakdown; when a zone claims it, it is in that zone's `other`."""
    line = {"time": START, "identity": "carol", "host": "a.test", "bytes_up": 1, "bytes_down": 2}
    mine = line | {"identity": "cust-acme-zone-res"}
    meter.feed(as_line(line) + as_line(mine))
    assert told(meter.store, Side.TARGET, meter.zones)[1] == {(START, "a.test"): (1, 0, 1, 2)}
    meter.store.claim("carol", meter.zones[0])
    assert told(meter.store, Side.TARGET, meter.zones)[1] == {
        (START, "a.test"): (1, 0, 1, 2),
        (START, OTHER): (1, 0, 1, 2),
    }


# ---------------------------------------------------------------- several writers on one file

NAMES = ["a", "b", "c", "d", "e"]
COUNTERS = st.lists(st.integers(0, 5), min_size=8, max_size=8).map(lambda sums: [1, *sums[1:]])
TRAFFIC = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, 2]), st.sampled_from([0, 0, 0, 1]), st.sampled_from(NAMES), COUNTERS),
    min_size=1,
    max_size=3,
)
WRITES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["fine", "fine", "fails", "stale", "killed"]), TRAFFIC),
    min_size=3,
    max_size=12,
)


def one(name, day=0):
    return [(1, day, name, [1] * 8)]


class Writers:
    """Three stores on one file, and a dictionary to which the same is done but for what fails."""

    def __init__(self, folder, bound):
        self.path, self.bound = Path(folder) / "usage.db", bound
        self.model = MemoryStore(hosts_per_day=bound)
        self.stores = [self.opened() for _ in range(3)]
        self.states = [NEW._replace(name=f"source{n}") for n in range(3)]
        self.stores[0]._writer.execute(
            "CREATE TRIGGER fails BEFORE UPDATE ON state WHEN NEW.committed_ms = 666 "
            "BEGIN SELECT RAISE(ABORT, 'as it was told'); END"
        )

    def opened(self):
        return SqliteStore(self.path, hosts_per_day=self.bound)

    def batch(self, n, traffic, committed_ms):
        before = self.states[n]
        after = before._replace(head=b"h", position=before.position + 1)
        rows, keyed = array("q"), array("q")
        for zone, day, _, counters in traffic:
            rows.extend((zone, START + day * DAY + 300, 0, *counters))
            keyed.extend((zone, START + day * DAY, *counters))
        names = [name for _, _, name, _ in traffic]
        return Batch(before, after, rows, {1: 5}, [], committed_ms, hosts=Hosts(names, keyed))

    def do(self, n, how, traffic):
        store, batch = self.stores[n], self.batch(n, traffic, 666 if how == "fails" else 5)
        if how == "fails":
            with pytest.raises((sqlite3.Error, BandmeterError)):
                store.write(batch)
        elif how == "stale":
            assert store.write(batch._replace(before=batch.before._replace(position=99, number=n + 1))) == 0
        else:
            assert store.write(batch) == self.model.write(batch) > 0
            (self.states[n],) = [s for s in self.model.sources() if s.name == f"source{n}"]
        if how == "killed":  # after its commit; another takes its place, and knows nothing
            store.close()
            self.stores[n] = self.opened()

    def close(self):
        for store in self.stores:
            store.close()


@settings(max_examples=80 * TIMES_MORE)
@given(bound=st.sampled_from([2, 1, 3, 0]), writes=WRITES)
@example(bound=2, writes=[(0, "fine", one("a")), (1, "fine", one("b")), (0, "fine", one("c"))])
@example(bound=1, writes=[(0, "fine", one("a")), (0, "fails", one("b", 1)), (0, "fine", one("c", 1))])
def test_several_writers_keep_what_one_would(bound, writes):
    """Each notices what the others keep, and forgets what it meant to keep in a transaction that was undone."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Writers(folder, bound)) as writers:
        for n, how, traffic in writes:
            writers.do(n, how, traffic)
        for side in Side:
            expected = writers.model.read_hosts([1, 2], side, SPAN, EVER)
            assert [store.read_hosts([1, 2], side, SPAN, EVER) for store in writers.stores] == [expected] * 3
            assert [told(store, side) for store in writers.stores] == [told(writers.model, side)] * 3
        assert writers.stores[0].check() == []


def test_what_is_remembered_is_bounded(tmp_path, monkeypatch):
    """Beyond that, days that were not used for long are looked up again, and nothing else changes."""
    monkeypatch.setattr("bandmeter.store.sqlite.hosts.REMEMBERED_MAX", 3)
    with contextlib.closing(Writers(tmp_path, 2)) as writers:
        for turn in range(3):
            for zone, day in itertools.product((1, 2), (0, 1)):
                traffic = [(zone, day, name, [1] * 8) for name in NAMES[turn : turn + 2]]
                writers.do(0, "fine", traffic)
                assert writers.stores[0]._hosts._remembered <= 4
        found = writers.stores[0].read_hosts([1, 2], Side.TARGET, SPAN, EVER)
        assert found == writers.model.read_hosts([1, 2], Side.TARGET, SPAN, EVER)
        assert {row.host for rows in found.values() for row in rows} == {"a", "b"}


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
def test_an_answer_is_bounded(tmp_path, kind, monkeypatch):
    """So many rows are read, and no more; a question that would need more is refused."""
    store = MemoryStore(hosts_per_day=9) if kind is MemoryStore else SqliteStore(tmp_path / "usage.db", 9, 9)
    keys = list(itertools.product((1, 2), (0, 1), NAMES))
    flat = array("q", (n for zone, day, _ in keys for n in (zone, START + day * DAY, *[1] * 8)))
    rows = array("q", (n for zone, day, _ in keys for n in (zone, START + day * DAY, 0, *[1] * 8)))
    hosts = Hosts([name for *_, name in keys], flat)
    with contextlib.closing(store):
        assert store.write(Batch(NEW, NEW._replace(head=b"h", position=1), rows, {}, [], 5, hosts=hosts))
        for limit in (0, 1, 7, 13, 20, 21):
            found = store.read_hosts([1, 2, 3], Side.TARGET, SPAN, limit)
            assert [(zone, r.day, r.host) for zone, rs in found.items() for r in rs] == [
                (zone, START + day * DAY, name) for zone, day, name in keys[:limit]
            ]
        assert TARGETS_MAX > 100 * 31  # a zone with the usual bound, for a month
        monkeypatch.setattr("bandmeter.reports.targets.TARGETS_MAX", 20)
        assert len(told(store, Side.TARGET)) == 3 - 1  # a suspended zone without traffic is left out
        monkeypatch.setattr("bandmeter.reports.targets.TARGETS_MAX", 19)
        with pytest.raises(BandmeterError, match="ask for fewer zones or days"):
            told(store, Side.TARGET)
        assert len(told(store, Side.TARGET, names=("res", "res"))) == 1
