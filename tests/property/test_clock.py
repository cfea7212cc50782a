"""A clock that is set back and forth: nothing is counted twice, and nothing is lost that was not refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.domain.contracts import REMEMBERED_SECONDS
from bandmeter.domain.grid import Span
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Side
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.batch.tools import Tools
from bandmeter.ingest.posts.poster import Post, Poster
from bandmeter.store import MemoryStore, SqliteStore

NOW_MS = 1_795_392_000_000
DAY_MS = 86_400_000


class Machine:
    """A process that counts bodies, on a machine whose clock can be set, and that can be started again."""

    def __init__(self, folder, store):
        self.folder, self.store = folder, store
        self.now_ms, self.uptime_s = NOW_MS, 0.0
        self.tools = None
        self.start()

    def start(self):
        self.close()
        self.tools = Tools(
            self.store,
            lambda: [Zone(1, "acme", "res", "res")],
            lambda: self.now_ms,
            self.folder,
            1 << 16,
            version=lambda: 1,
        )
        self.poster = Poster(self.tools, lambda: self.uptime_s)

    def close(self):
        if self.tools:
            self.tools.close()

    def send(self, key, number, *, has_seq=False, day=0):
        record = {"time": NOW_MS // 1000 + day * 86_400, "account": "acme", "zone": "res"}
        content = json.dumps(record | {"bytes_up": number, "bytes_down": 0}).encode() + b"\n"
        if has_seq:
            post = Post(FORMATS["jsonl"], content, Caller(), "source", seq=key)
        else:
            post = Post(FORMATS["jsonl"], content, Caller(), "posts", key=f"key {key}")
        (answer,) = self.poster.count([post])
        return answer

    @property
    def total(self):
        return self.store.total(1, Side.TARGET, Span(0, 4_102_444_800)).bytes_up


@pytest.fixture(params=["memory", "sqlite"])
def machine(request, tmp_path):
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "usage.db")
    made = Machine(tmp_path, store)
    with contextlib.closing(store), contextlib.closing(made):
        yield made


def test_a_key_is_remembered_while_the_clock_is_set_far_ahead_and_back(machine):
    machine.send(1, 7)
    machine.now_ms += 400 * DAY_MS
    for key in range(2, 30):  # each writes a receipt, and makes old ones be forgotten
        machine.send(key, 0)
    assert machine.send(1, 7)["duplicate"] == 1
    machine.now_ms = NOW_MS
    machine.start()
    assert machine.send(1, 7)["duplicate"] == 1
    assert machine.total == 7


def test_a_key_is_remembered_of_a_time_before_the_clock_was_right(machine):
    """A machine that begins in 1970 until the network tells the time: what it refused then, it has refused."""
    machine.now_ms = 0
    assert machine.send(1, 7)["rejected"] == 1
    machine.now_ms = NOW_MS
    assert machine.send(1, 7)["duplicate"] == 1
    machine.start()
    assert machine.send(1, 7)["duplicate"] == 1
    assert machine.total == 0


def test_a_key_is_forgotten_after_35_days_of_uptime(machine):
    machine.send(1, 7)
    machine.uptime_s += REMEMBERED_SECONDS
    assert machine.send(1, 7)["duplicate"] == 1
    machine.send(2, 0)
    machine.start()  # what another process has lived through counts
    machine.uptime_s += 2
    assert machine.send(1, 7)["counted"] == 1
    assert machine.total == 14


def test_coverage_by_a_clock_that_was_ahead_is_forgotten(machine):
    """Else nothing would be known of a source until the time comes that the clock showed."""
    for ms in (0, 10_000, 400 * DAY_MS, 400 * DAY_MS + 10_000, 20_000, 30_000):
        machine.store.cover({"proxy": NOW_MS + ms}, 60_000)
    assert machine.store.coverage(0, 2 * NOW_MS) == {"proxy": [(NOW_MS, NOW_MS + 30_000)]}


SENT = st.tuples(st.just("send"), st.integers(1, 6), st.booleans())
SET = st.tuples(st.just("set"), st.integers(-500, 500))
STARTED = st.just(("start",))


@settings(max_examples=25)
@given(steps=st.lists(st.one_of(SENT, SET, STARTED), max_size=25))
def test_however_the_clock_is_set(tmp_path, steps):
    """Each key and each number counts once, or is refused once as ahead of the clock; law 2 holds in every answer."""
    with contextlib.closing(Machine(tmp_path, MemoryStore())) as machine:
        known, wanted, last = {}, 0, 0
        for step in steps:
            machine.uptime_s += 1
            if step[0] == "start":
                machine.start()
            elif step[0] == "set":
                machine.now_ms = NOW_MS + step[1] * DAY_MS
            else:
                _, key, has_seq = step
                key = min(key, last + 1) if has_seq else key
                last = max(last, key) if has_seq else last
                answer = machine.send(key, 2**key, has_seq=has_seq)
                if (has_seq, key) in known:
                    assert answer["duplicate"] == 1
                else:
                    is_ahead = machine.now_ms + 600_000 < NOW_MS
                    assert answer["rejected" if is_ahead else "counted"] == 1
                    known[has_seq, key] = True
                    wanted += 0 if is_ahead else 2**key
        assert machine.total == wanted
