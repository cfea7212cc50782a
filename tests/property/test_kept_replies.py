"""Kept replies: whatever is written, claimed, changed and asked, in any order, they are those of a server without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from array import array
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.domain.contracts import Batch, Call, SourceState
from bandmeter.domain.questions import Questions
from bandmeter.domain.tenancy import Account, Scope, ZoneStatus
from bandmeter.domain.usage import SIDED, Outcomes, pack
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore, SqliteStore
from bandmeter.web.app import build

TIMES_MORE = 20 if os.environ.get("BANDMETER_SOAK") else 1
NOW_S = 1_795_348_800  # 2026-11-22T12:00:00Z
KEPT_BYTES = 2**20
SOURCE = SourceState(0, "", "jsonl", "/log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
ZONES = ["one", "two", "last_update_ts"]  # the last is also the name of what is stamped anew
DIMENSIONS = [pack(network="res", scheme="https"), pack(network="res", pool="extra", ip_version="4")]
PATHS = [
    *(f"/zone/bw?zone={zone}" for zone in ZONES),
    "/zone/bw?zone=one&details=1",
    "/zone/bw?zone=two&from=2026-11-20&to=2026-11-24",
    "/customer/bw",
    "/customer/bw?details=1",
    "/public/usage?product=rpc&period=24h",
    "/public/usage?product=rpc",
    "/v2/stat/bandwidth?domains=all&start_time=2026-11-21&end_time=2026-11-23",
    "/v2/stat/bandwidth?domains=one,two&start_time=2026-11-21&end_time=2026-11-23&grad=day&ip_protocol=ipv4",
    "/v2/stat/originBandwidth/eachDomain?domains=TWO&start_time=2026-11-21&end_time=2026-11-23&grad=hour",
    "/v2/stat/request/eachDomain?domains=all&start_time=2026-11-21&end_time=2026-11-23",
]

# A zone or an identity, a 5-minute bucket around now, dimensions, bytes in units that survive any rounding.
ROWS = st.lists(
    st.tuples(
        st.sampled_from([*ZONES, "alice", "bob"]),
        st.integers(-600, 300),
        st.sampled_from(DIMENSIONS),
        st.integers(0, 9),
    ),
    max_size=4,
)
WHO = st.integers(0, 1)  # of the store's connections: the server's own, or another process'
CHANGES = st.one_of(
    st.tuples(st.just("write"), WHO, ROWS, st.booleans()),
    st.tuples(st.just("claim"), WHO, st.sampled_from(["alice", "bob"]), st.sampled_from(ZONES)),
    st.tuples(st.just("status"), st.sampled_from(ZONES), st.sampled_from([*ZoneStatus])),
    st.tuples(st.just("add")),
    st.tuples(st.just("wait"), st.sampled_from([1, 3_600, 43_200, 86_400])),
)
ASKED = st.tuples(st.just("ask"), st.sampled_from(PATHS))
RACED = st.tuples(st.just("race"), st.sampled_from(PATHS), st.integers(0, 3), CHANGES)
STEPS = st.lists(st.one_of(ASKED, ASKED, CHANGES, RACED), min_size=2, max_size=24)


class Raced(SqliteStore):
    """A store in which something else happens before the `nth` look at it from now."""

    def __init__(self, path) -> None:
        super().__init__(path, 9)
        self.race, self.nth = None, 0

    def _look(self):
        if self.race and self.nth == 0:
            race, self.race = self.race, None
            race()
        self.nth -= 1

    def freshness(self, zones):
        self._look()
        return super().freshness(zones)

    def read(self, *asked):
        self._look()
        return super().read(*asked)

    def read_series(self, *asked):
        self._look()
        return super().read_series(*asked)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A catalog's file, which takes long to make, and a key."""
    folder = tmp_path_factory.mktemp("template")
    catalog = Catalog.open(f"sqlite:///{folder}/catalog.db")
    catalog.add_account(Account("acme", kind="team"))
    for zone in ZONES:
        catalog.add_zone("acme", zone, "res", "rpc", now_s=0)
    key = catalog.add_key("acme", Scope.READ, None, 0)
    catalog.close()
    return folder / "catalog.db", key


class House:
    """A server that keeps replies, one that does not, over the plainest store, and what both must agree on."""

    def __init__(self, folder, template) -> None:
        file, self.key = template
        shutil.copy(file, folder)
        url = f"sqlite:///{folder}/catalog.db"
        self.catalogs = [Catalog.open(url), Catalog.open(url)]
        self.memory = MemoryStore(9)
        self.stores = [Raced(Path(folder) / "usage.db"), SqliteStore(Path(folder) / "usage.db", 9)]
        self.now_ms, self.count, self.claimed = NOW_S * 1000, 0, set()
        served, plain = (Reports(self.catalogs[0], store, PRICES) for store in (self.stores[0], self.memory))
        make = (self.catalogs[0], DIALECTS, lambda: self.now_ms, list)
        self.served, self.plain = build(served, *make, kept_bytes=KEPT_BYTES), build(plain, *make)

    def close(self):
        for part in (*self.stores, *self.catalogs):
            part.close()

    def get(self, app, path):
        messages = []

        async def send(message):
            messages.append(message)

        path, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {self.key}".encode()), (b"x-apikey", self.key.encode())]
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": headers}
        asyncio.run(app(scope, None, send))
        return messages[0]["status"], messages[1]["body"]

    def ask(self, path):
        assert self.get(self.served, path) == self.get(self.plain, path)

    def race(self, path, nth, change):
        """The change happens in the middle of the answer, by the other process."""
        store = self.stores[0]
        store.race, store.nth = lambda: self.do(*change), nth
        assert self.get(self.served, path)[0] in {200, 400, 422}
        if store.race:  # it looked less often: the change comes after
            store.race = None
            self.do(*change)
        self.ask(path)

    def write(self, who, rows, tells_newest):
        """Also of rows whose batch tells no newest time, as where nothing was counted."""
        self.count += 1
        flat, newest = array("q"), {}
        for owner, bucket, dimensions, units in rows:
            size = units * 12_345_678
            number = self.number(owner)
            start = NOW_S + 300 * bucket
            flat.extend((number, start, dimensions, 1, 1, size, 2 * size, 1, 0, size, 3 * size))
            if tells_newest or number < 0:
                newest[number] = max(newest.get(number, 0), start * 1000)
        after = SOURCE._replace(name=str(self.count), head=b"x", position=1)
        batch = Batch(after._replace(head=b"", position=0), after, flat, newest, [], self.now_ms + self.count)
        assert self.memory.write(batch) == self.stores[who].write(batch) > 0

    def number(self, owner):
        if owner in ZONES:
            return self.catalogs[1].zone("acme", owner).number
        (one,), (other,) = (s.number_identities([(owner, SIDED)], 1).values() for s in (self.memory, self.stores[1]))
        assert one == other
        return one

    def claim(self, who, identity, zone):
        if identity not in self.claimed:
            self.claimed.add(identity)
            zone = self.catalogs[1].zone("acme", zone)
            assert self.memory.claim(identity, zone) == self.stores[who].claim(identity, zone)

    def status(self, zone, status):
        self.catalogs[1].set_zone_status("acme", zone, status)

    def add(self):
        self.count += 1
        self.catalogs[1].add_zone("acme", f"new{self.count}", "res", "rpc", now_s=0)

    def wait(self, seconds):
        self.now_ms += seconds * 1000

    def do(self, name, *arguments):
        getattr(self, name)(*arguments)


@settings(max_examples=60 * TIMES_MORE)
@given(steps=STEPS)
def test_a_kept_reply_is_what_would_be_answered_now(template, steps):
    """Also when usage or the catalog changes in the middle of an answer, by this process or another."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(folder, template)) as house:
        for step in steps:
            house.do(*step)
        for path in PATHS:
            house.ask(path)
            house.ask(path)


@pytest.mark.parametrize("path", PATHS)
def test_usage_that_comes_in_the_middle_of_an_answer_is_in_the_next(template, tmp_path, path):
    """Before any of the looks at the store that an answer takes."""
    rows = [(zone, 0, dimensions, 5) for zone in ZONES for dimensions in DIMENSIONS]
    with contextlib.closing(House(tmp_path, template)) as house:
        for nth in range(6):
            house.race(path, nth, ("write", 1, rows, True))
            house.ask(path)
            house.write(0, rows, tells_newest=True)  # so that the next is answered anew


# ---------------------------------------------------------------- what may be kept

KEEPING = [(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints if endpoint.steady_s]


def test_the_main_answers_may_be_kept():
    assert Counter(dialect.name for dialect, _ in KEEPING) == {"brightdata": 2, "evomi": 1, "baishan": 5}


@settings(max_examples=25 * TIMES_MORE)
@given(
    asked=st.sampled_from(PATHS),
    step=st.integers(-40, 40),
    parts=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    rows=ROWS,
)
def test_a_step_of_the_clock_is_one_reply(template, asked, step, parts, rows):
    """Wherever in a step of `steady_s` a call comes: its question and its reply are the same."""
    path, _, query = asked.partition("?")
    (endpoint,) = [endpoint for _, endpoint in KEEPING if path in endpoint.paths]
    first = (NOW_S // endpoint.steady_s + step) * endpoint.steady_s * 1000
    parameters = dict(part.split("=") for part in query.split("&")) if query else {}
    account = Account("acme", kind="team")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(folder, template)) as house:
        house.write(0, [row for row in rows if row[0] in ZONES], tells_newest=True)
        replies = []
        for part in parts:
            call = Call(account, parameters, first + int(part * endpoint.steady_s * 1000))
            question = endpoint.parse(call)
            answer = Reports(house.catalogs[0], house.memory, PRICES).answer(question)
            replies.append((question, endpoint.render(call, question, answer)))
    assert replies[0] == replies[1]
    assert isinstance(question, Questions) or question.account == "acme"


@settings(max_examples=25 * TIMES_MORE)
@given(st.sampled_from([None, 0, NOW_S * 1000 + 1]), st.sampled_from([0, 1, NOW_S * 1000 + 999]), st.data())
def test_a_stamp_is_put_on_as_a_new_reply_has_it(template, shown_ms, now_ms, data):
    """`restamp` changes the time of the last commit, and nothing else."""
    asked = data.draw(st.sampled_from([path for path in PATHS if "bw" in path]))
    path, _, query = asked.partition("?")
    (endpoint,) = [endpoint for _, endpoint in KEEPING if path in endpoint.paths]
    parameters = dict(part.split("=") for part in query.split("&")) if query else {}
    call = Call(Account("acme"), parameters, NOW_S * 1000)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(folder, template)) as house:
        house.write(0, [("last_update_ts", 0, DIMENSIONS[0], 5)], tells_newest=True)
        question = endpoint.parse(call)
        answer = Reports(house.catalogs[0], house.memory, PRICES).answer(question)
    before, after = (endpoint.render(call, question, answer._replace(committed_ms=ms)) for ms in (shown_ms, now_ms))
    assert endpoint.restamp(before, shown_ms, now_ms) == after
